import errno
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import xarray as xr

from datasets.config import DataConfig, SplitConfig
from datasets.errors import InputError
from datasets.maps.geotiff import write_class_map
from datasets.prediction import coarsen_coordinates, no_data_cells
from datasets.store import open_volume, write_volume
from models.config import NetworkConfig
from pipeline.checkpoints.checkpoint import Meta, Snapshot, best_checkpoint, load_segmenter
from pipeline.config import PredictConfig, RunConfig, TrainingConfig
from pipeline.mapping.predict import predict
from pipeline.run import Run
from pipeline.training.loop import new_segmenter
from pipeline.training.prepare import prepare

SIZE = 24


@pytest.fixture(scope="module")
def volume(tiny_volume: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny volume in a coordinate system."""
    ds = open_volume(tiny_volume).load().rio.write_crs("EPSG:32633")
    return write_volume(ds, tmp_path_factory.mktemp("predict") / "scene.zarr")


@pytest.fixture(scope="module")
def make_run(volume: Path, tmp_path_factory: pytest.TempPathFactory):
    """Make a run with a checkpoint of random weights: what is predicted matters, not how well."""

    def make(name: str, space: list[str], network: NetworkConfig) -> Run:
        run = prepare(
            RunConfig(
                name=name,
                runs=str(tmp_path_factory.mktemp("runs")),
                data=DataConfig(source=str(volume), space=space),
                split=SplitConfig(block=4, buffer=1, fractions=[0.5, 0.2, 0.3]),
                network=network,
                training=TrainingConfig(steps=1),
            )
        )
        folder = run.checkpoints / "step-000001"
        folder.mkdir()
        segmenter = new_segmenter(run)
        Snapshot(Meta(1, 0.5), segmenter.state_dict(), {}, run.prepared.segmenter.to_json()).write(folder)
        return run

    return make


@pytest.fixture(scope="module")
def run(make_run) -> Run:
    return make_run("fields", ["y", "x"], NetworkConfig(layers="4 d4 u4"))


def network_says(run: Run, raw: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return load_segmenter(best_checkpoint(run.folder)).probabilities(torch.from_numpy(raw)[None])[0].numpy()


def test_a_prediction_is_the_networks_with_the_inputs_coordinates(run, volume, tmp_path, capsys):
    out = predict(PredictConfig(str(run.folder), str(volume), str(tmp_path / "map.zarr")))
    found = xr.open_zarr(out, mask_and_scale=False, decode_coords="all")
    source = open_volume(volume)
    expected = network_says(run, run.volume.read())
    hole = np.zeros((SIZE, SIZE), bool)
    hole[:2, :2] = True
    np.testing.assert_array_equal(found["class"].values, np.where(hole, 255, expected.argmax(axis=0)))
    np.testing.assert_allclose(found["probability"].values, np.where(hole, np.nan, expected), atol=1e-6)
    assert found["class"].dtype == np.uint8
    assert found["class"].attrs["class_names"] == ["water", "land"]
    assert found["class_name"].values.tolist() == ["water", "land"]
    for dim in ("y", "x"):
        xr.testing.assert_identical(found[dim], source[dim])
    assert found.rio.crs.to_epsg() == 32633
    assert found.attrs["model"] == str(run.folder)
    assert found.attrs["model_version"] == "fields (step-000001)"
    assert found.attrs["volume"] == str(volume)
    assert found.attrs["source_sha256"] == "0" * 64
    assert found.attrs["licence"] == "MIT"
    assert (tmp_path / "map.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.png", "map.tif", "map.zarr"]
    printed = capsys.readouterr().out
    assert f"wrote {tmp_path / 'map.tif'}" in printed
    assert "(4 cells without data)" in printed


def test_the_geotiff_lies_where_the_volume_lies(run, volume, tmp_path):
    out = predict(PredictConfig(str(run.folder), str(volume), str(tmp_path / "map.zarr")))
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.crs.to_epsg() == 32633
        assert file.nodata == 255
        assert file.dtypes == ("uint8",)
        assert file.transform.to_gdal() == (495.0, 10.0, 0.0, 1005.0, 0.0, -10.0)
        np.testing.assert_array_equal(file.read(1), xr.open_zarr(out)["class"].values)
        colours = file.colormap(1)
        assert colours[0] == (0, 114, 178, 255)
        assert colours[1] == (230, 159, 0, 255)
        assert file.tags(1)["class_1"] == "land"


def test_a_coarse_output_gets_the_coordinates_of_its_own_cells(make_run, volume, tmp_path):
    run = make_run("coarse", ["y", "x"], NetworkConfig(layers="4 d4"))
    out = predict(PredictConfig(str(run.folder), str(volume), str(tmp_path / "map.zarr")))
    found = xr.open_zarr(out, mask_and_scale=False, decode_coords="all")
    assert dict(found["class"].sizes) == {"y": SIZE // 2, "x": SIZE // 2}
    assert found["x"].values[:3].tolist() == [505.0, 525.0, 545.0]
    assert found["y"].values[:2].tolist() == [995.0, 975.0]
    assert found["y"].attrs["units"] == "m"
    assert (found["class"].values == 255).sum() == 1
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.transform.to_gdal() == (495.0, 20.0, 0.0, 1005.0, 0.0, -20.0)


def test_a_dimension_that_goes_away_leaves_a_map(make_run, volume, tmp_path):
    run = make_run("spectral", ["band", "y", "x"], NetworkConfig(layers="4 d4 u4", repeat=2))
    out = predict(PredictConfig(str(run.folder), str(volume), str(tmp_path / "map.zarr")))
    found = xr.open_zarr(out, mask_and_scale=False)
    assert found["class"].dims == ("y", "x")
    expected = network_says(run, run.volume.read()).argmax(axis=0)
    expected[:2, :2] = 255
    np.testing.assert_array_equal(found["class"].values, expected)
    assert (tmp_path / "map.tif").exists()


def test_another_scene_of_another_size_without_labels(run, volume, tmp_path):
    wide = xr.concat([open_volume(volume).load().drop_vars("labels")] * 2, "x")
    wide = wide.assign_coords(x=500.0 + 10 * np.arange(2 * SIZE)).isel(y=slice(0, 17))
    source = write_volume(wide, tmp_path / "wide.zarr")
    out = predict(PredictConfig(str(run.folder), str(source), str(tmp_path / "map.zarr")))
    assert dict(xr.open_zarr(out)["class"].sizes) == {"y": 17, "x": 2 * SIZE}


def test_what_does_not_fit_is_refused_naming_both(run, make_run, volume, tmp_path):
    ds = open_volume(volume).load()
    strict = make_run("strict", ["y", "x"], NetworkConfig(layers="4 d4 d4 u4 u4", padding="refuse"))
    cases = [
        (
            run,
            ds.rename(y="northing"),
            r"has the dimensions \['band', 'northing', 'x'\], but fields .* \['band', 'y', 'x'\]",
        ),
        (run, ds.isel(band=slice(0, 3)), r"has 3 entries of band, which fields .* takes as channels: it needs the 4"),
        (run, ds.assign(valid=xr.zeros_like(ds["valid"])), r"tiny holds no data at all; check its no-data value"),
        (run, ds.isel(x=slice(0, 1)), r"has 1 cells of x, too few for fields"),
        (
            strict,
            ds.isel(x=slice(0, 22)),
            r"has 22 cells of x, but strict .* multiples of 4 only .* to 20 or 24",
        ),
    ]
    for number, (model, dataset, message) in enumerate(cases):
        source = write_volume(dataset, tmp_path / f"case{number}.zarr")
        with pytest.raises(InputError, match=message):
            predict(PredictConfig(str(model.folder), str(source), str(tmp_path / "map.zarr")))
        assert not list(tmp_path.glob("*map*"))


def test_missing_things_are_refused(run, volume, tmp_path):
    with pytest.raises(InputError, match=r"no volume at .*nowhere.zarr"):
        predict(PredictConfig(str(run.folder), str(tmp_path / "nowhere.zarr"), str(tmp_path / "map.zarr")))
    with pytest.raises(InputError, match=r"predict needs a model, a source and a place"):
        predict(PredictConfig(str(run.folder), str(volume)))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/deep cannot be made \(Not a directory\); choose another place"):
        predict(PredictConfig(str(run.folder), str(volume), str(tmp_path / "file" / "deep" / "map.zarr")))
    config = PredictConfig("models:/a@champion", str(volume), str(tmp_path / "map.zarr"), runs=str(tmp_path / "runs"))
    with pytest.raises(InputError, match=r"no MLflow database at .*runs/mlflow.db"):
        predict(config)


@pytest.mark.parametrize("existing", ["map.zarr", "map.tif", "map.png"])
def test_existing_output_is_refused_and_kept_until_overwritten(run, volume, tmp_path, existing):
    (tmp_path / existing).write_text("precious")
    config = PredictConfig(str(run.folder), str(volume), str(tmp_path / "map.zarr"))
    with pytest.raises(InputError, match=rf"{existing} exists already; .*pass --overwrite to replace it$"):
        predict(config)
    assert (tmp_path / existing).read_text() == "precious"
    if existing != "map.zarr":
        predict(config, overwrite=True)
        predict(config, overwrite=True)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["map.png", "map.tif", "map.zarr"]


def test_a_full_disk_leaves_nothing_and_what_was_there(run, volume, tmp_path, monkeypatch):
    config = PredictConfig(str(run.folder), str(volume), str(tmp_path / "map.zarr"))
    predict(config)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}

    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_zarr", full)
    with pytest.raises(InputError, match=r"the disk is full: .*map.zarr could not be written"):
        predict(config, overwrite=True)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_no_data_needs_all_channels_and_all_cells_of_what_goes_away():
    raw = np.ones((2, 4, 5), np.float32)
    raw[0, 1, 1] = raw[:, 2, 2] = np.nan
    raw[:, 0:2, 3:5] = np.nan
    empty = no_data_cells(raw, [], 1)
    assert empty[2, 2]
    assert not empty[1, 1]
    assert empty.sum() == 5
    assert no_data_cells(raw, [0], 1).sum() == 0
    raw[:, :, 4] = np.nan
    assert no_data_cells(raw, [0], 1).tolist() == [False] * 4 + [True]
    assert no_data_cells(raw, [], 2).tolist() == [[False, False, True], [False, False, True]]


def test_coarse_coordinates_are_cell_centres():
    ds = xr.Dataset(coords={"x": ("x", np.arange(5) * 10.0, {"units": "m"}), "date": ("date", ["a", "b", "c"])})
    coarse = coarsen_coordinates(ds, ["x", "date"], 2)
    assert coarse["x"].values.tolist() == [5.0, 25.0, 45.0]
    assert coarse["x"].attrs == {"units": "m"}
    assert coarse["date"].values.tolist() == ["a", "c"]
    assert "x" not in coarsen_coordinates(ds, ["date"], 1)


def test_an_uneven_grid_is_no_geotiff(tmp_path):
    uneven = xr.DataArray(
        np.zeros((3, 3), np.uint8), dims=("y", "x"), coords={"y": [0.0, 1.0, 5.0], "x": [0.0, 1.0, 2.0]}
    )
    with pytest.raises(InputError, match=r"the y coordinates are not evenly spaced, so map.tif cannot be a GeoTIFF"):
        write_class_map(uneven, tmp_path / "map.tif", names=["a"], colours=[(0, 0, 0)])
