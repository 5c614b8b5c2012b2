"""Sources become volumes: against the libraries that own the formats, and with the texts of the refusals."""

import errno
import hashlib
import json
import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
import scipy.io
import xarray as xr
import yaml
import zarr
from rasterio.transform import from_origin

from datasets.config import ConvertConfig
from datasets.convert import convert
from datasets.errors import InputError
from datasets.storage import layout
from datasets.store import open_volume


def converted(config: ConvertConfig) -> xr.Dataset:
    return open_volume(convert(config)).load()


@pytest.fixture
def cube(tmp_path: Path) -> ConvertConfig:
    """A small .npy with labels and a mask beside it."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "cube.npy", rng.normal(size=(3, 4, 5, 1)).astype(np.float32))
    np.save(tmp_path / "labels.npy", rng.integers(0, 4, (4, 5)).astype(np.int16))
    np.save(tmp_path / "valid.npy", rng.random((3, 4, 5, 1)) < 0.5)
    return ConvertConfig(
        source=str(tmp_path / "cube.npy"), out=str(tmp_path / "out" / "cube.zarr"), dims=["band", "y", "x"]
    )


def test_npy_with_labels_mask_and_coordinates(cube: ConvertConfig, tmp_path: Path) -> None:
    (tmp_path / "times.json").write_text(json.dumps(["2020-01-01", "2020-02-01T12:00:00", "2021-01-01"]))
    config = replace(
        cube,
        dims=["time", "y", "x"],
        transpose=["y", "x", "time"],
        labels=str(tmp_path / "labels.npy"),
        label_dims=["y", "x"],
        class_names={3: "rock", 1: "water"},
        valid=str(tmp_path / "valid.npy"),
        coordinates={"time": str(tmp_path / "times.json"), "x": "15:-30", "y": [1, 2, 4, 8]},
        crs="EPSG:32633",
        units="mV",
        licence="CC0",
    )
    ds = converted(config)
    source, valid = (np.load(tmp_path / name)[..., 0] for name in ("cube.npy", "valid.npy"))
    np.testing.assert_array_equal(ds["data"].values, source.transpose(1, 2, 0))
    np.testing.assert_array_equal(ds["valid"].values, valid.transpose(1, 2, 0))
    labels = np.load(tmp_path / "labels.npy")
    expected = np.select([labels == 3, labels == 1], [0, 1], 255)
    seen = valid.any(0)
    assert (expected[~seen] < 255).any()
    np.testing.assert_array_equal(ds["labels"].values, np.where(seen, expected, 255))
    assert ds["labels"].attrs["class_names"] == ["rock", "water"]
    assert ds["labels"].attrs["class_values"] == [3, 1]
    np.testing.assert_array_equal(ds["x"], [15, -15, -45, -75, -105])
    assert ds["x"].attrs["units"] == "m"
    assert ds["time"].values[1] == np.datetime64("2020-02-01T12:00:00")
    assert ds.attrs["licence"] == "CC0"
    assert ds.attrs["source"] == "cube.npy"
    assert ds.attrs["source_sha256"] == hashlib.sha256((tmp_path / "cube.npy").read_bytes()).hexdigest()
    assert set(json.loads(ds.attrs["conversion"])["sha256"]) == {"cube.npy", "labels.npy", "times.json", "valid.npy"}


def test_a_sidecar_names_what_the_recipe_does_not(cube: ConvertConfig, tmp_path: Path) -> None:
    settings = {"dims": ["date", "y", "x"], "labels": "labels.npy", "label_dims": ["y", "x"], "class_names": {1: "a"}}
    (tmp_path / "cube.yaml").write_text(yaml.safe_dump({**settings, "units": "mV"}))
    ds = converted(replace(cube, dims=[], units="V"))
    assert ds["data"].dims == ("date", "y", "x")
    assert ds["data"].attrs["units"] == "V"
    assert ds["labels"].attrs["class_names"] == ["a"]
    (tmp_path / "cube.yaml").write_text("colour: red")
    with pytest.raises(
        InputError, match=r"cube\.yaml holds \['colour'\], which is no setting of a source; the settings"
    ):
        convert(replace(cube, overwrite=True))


def test_npz_keys_and_constant_pieces(cube: ConvertConfig, tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 9, (4, 5, 6)).astype(np.uint8)
    values[2] = 7
    np.savez(tmp_path / "c.npz", amplitude=values, y=values[..., 0])
    config = replace(cube, source=str(tmp_path / "c.npz"), key="amplitude", dims=["time", "inline", "crossline"])
    ds = converted(replace(config, constant_pieces=["inline", "crossline"]))
    assert not ds["valid"][2].any()
    assert ds["valid"].values[[0, 1, 3]].all()
    ds = converted(replace(config, nodata=7, overwrite=True))
    np.testing.assert_array_equal(ds["valid"].values, values != 7)
    with pytest.raises(
        InputError, match=r"c\.npz holds several arrays; set key to one of: amplitude \(4, 5, 6\), y \(4, 5\)"
    ):
        convert(replace(config, key="", overwrite=True))


def test_where_a_volume_comes_from_and_how_it_is_laid_out(cube: ConvertConfig, tmp_path: Path) -> None:
    np.save(tmp_path / "cube.npy", np.zeros((4, 512, 512), np.float32))
    ds = converted(replace(cube, block={"y": 64, "x": 64}))
    assert ds["data"].attrs["block"] == "y 64, x 64"
    assert ds["data"].attrs["chunks"] == [4, 64, 64]
    assert re.fullmatch(r"telegrapher \S+, commit [0-9a-f]{40}(-dirty)?|telegrapher .*unknown", ds.attrs["program"])
    assert datetime.fromisoformat(ds.attrs["created"]).tzinfo is not None
    bare = converted(replace(cube, overwrite=True))
    assert "block" not in bare["data"].attrs
    assert json.loads(bare.attrs["conversion"]) == json.loads(ds.attrs["conversion"])


def test_dead_traces_and_constant_slices_are_masked_in_every_piece(
    tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shared_data / "seismic" / "f3-withdead.sgy"
    whole = converted(ConvertConfig(source=str(source), out=str(tmp_path / "whole.zarr")))
    monkeypatch.setattr(layout, "SHARD_BYTES", 2**12)
    edges = {"inline": 8, "crossline": 8, "twt": 16}
    pieces = converted(ConvertConfig(source=str(source), out=str(tmp_path / "pieces.zarr"), chunks=edges))
    assert not whole["valid"].all()
    xr.testing.assert_equal(whole, pieces)


def test_a_volume_without_gaps_has_no_mask(cube: ConvertConfig) -> None:
    assert "valid" not in converted(cube)


def test_matlab_columns(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "hyperspectral"
    ds = converted(
        ConvertConfig(
            source=str(folder / "samson_1.mat"),
            out=str(tmp_path / "s.zarr"),
            key="V",
            shape=[156, 95, 95],
            order="F",
            dims=["band", "y", "x"],
            labels=str(folder / "samson_end3.mat"),
            labels_key="A",
            label_shape=[3, 95, 95],
            label_dims=["y", "x"],
            labels_dominant=0.0,
            class_names={0: "rock", 1: "tree", 2: "water"},
        )
    )
    flat = scipy.io.loadmat(folder / "samson_1.mat")["V"]
    shares = scipy.io.loadmat(folder / "samson_end3.mat")["A"]
    for row, column in ((0, 0), (0, 94), (94, 0), (17, 60)):
        np.testing.assert_array_equal(ds["data"][:, row, column], flat[:, row + 95 * column])
        assert int(ds["labels"][row, column]) == shares[:, row + 95 * column].argmax()
    assert np.bincount(ds["labels"].values.ravel()).tolist() == [3015, 3666, 2344]


def test_matlab_integers_keep_their_type(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "hyperspectral" / "jasperRidge2_R198.mat"
    ds = converted(ConvertConfig(source=str(source), out=str(tmp_path / "j.zarr"), key="Y", dims=["band", "pixel"]))
    assert ds["data"].dtype == np.uint16
    np.testing.assert_array_equal(ds["data"].values, scipy.io.loadmat(source)["Y"])


def test_geotiffs_become_channels(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "airborne" / "tempest_map"
    names = ["resistivity_0_5m", "resistivity_10_15m", "mag_aligned"]
    paths = [str(folder / f"{name}.tif") for name in names]
    ds = converted(ConvertConfig(source=paths[0], more_sources=paths[1:], out=str(tmp_path / "t.zarr")))
    assert ds["band"].attrs["names"] == names
    for band, path in enumerate(paths):
        with rasterio.open(path) as file:
            values = file.read(1)
            np.testing.assert_array_equal(ds["data"].values[band], values)
            np.testing.assert_array_equal(ds["valid"].values[band], values != file.nodata)
            x, y = file.xy(3, 8)
            assert (float(ds["x"][8]), float(ds["y"][3])) == (x, y)
            assert rasterio.crs.CRS.from_wkt(ds["spatial_ref"].attrs["crs_wkt"]) == file.crs
    assert ds["x"].attrs["units"] == "m"
    assert 0 < ds["valid"].values.mean() < 1


def test_geotiffs_on_another_grid_are_refused(tmp_path: Path) -> None:
    paths = []
    for name, west in (("a", 0), ("b", 5)):
        paths.append(str(tmp_path / f"{name}.tif"))
        options = {"driver": "GTiff", "width": 4, "height": 3, "count": 1, "dtype": "float32", "crs": "EPSG:32633"}
        with rasterio.open(paths[-1], "w", transform=from_origin(west, 9, 1, 1), **options) as file:
            file.write(np.ones((1, 3, 4), np.float32))
    with pytest.raises(
        InputError, match=r"b\.tif has the grid .* set resample to nearest, bilinear or average to bring"
    ):
        convert(ConvertConfig(source=paths[0], more_sources=paths[1:], out=str(tmp_path / "t.zarr")))


def test_indian_pines_needs_no_download(tmp_path: Path) -> None:
    recipe = yaml.safe_load((Path(__file__).parents[2] / "pipeline/recipes/convert/indian-pines.yaml").read_text())
    ds = converted(ConvertConfig(**{**recipe, "out": str(tmp_path / "ip.zarr")}))
    assert (ds["data"].dtype, ds["data"].shape) == (np.uint16, (200, 145, 145))
    assert int((ds["labels"] != 255).sum()) == 10249
    assert len(ds["labels"].attrs["class_names"]) == 16
    assert int((ds["labels"] == 8).sum()) == 20
    assert float(ds["wavelength"][0]) == 400.02
    assert ds["wavelength"].attrs["units"] == "nm"
    assert "3.0" in ds.attrs["licence"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source": "nowhere.npy"}, "no file at nowhere.npy; check source"),
        ({"source": ""}, "convert needs a source and an out, such as --source cube.sgy"),
        ({"source": "x.abc"}, r"x.abc has the suffix '.abc'; set format, or use one of \['.bil', "),
        ({"source": "tensorly:pavia"}, r"no scene 'pavia' in TensorLy; the scenes are \['indian_pines'\]"),
        ({"dims": []}, r"cube\.npy does not name its dimensions; set dims, such as \[y, x, band\], or in .*cube\.yaml"),
        ({"dims": ["y", "x"]}, r"has shape \(3, 4, 5, 1\), but dims names 2 of its axes: \['y', 'x'\]; name them all"),
        ({"shape": [3, 21]}, r"which cannot become \(3, 21\): 60 cells against 63; correct the shape"),
        ({"transpose": ["y", "x"]}, r"transpose is \['y', 'x'\]; name all of the dimensions \['band', 'y', 'x'\]"),
        ({"labels": "labels.npy", "class_names": {1: "a"}}, r"have shape \(4, 5\); name .* with label_dims"),
        ({"labels": "labels.npy", "label_dims": ["x", "y"], "class_names": {1: "a"}},
         r"labels array in .*\.npy has the shape {'x': 4, 'y': 5}, but the data have {'band': 3, 'y': 4, 'x': 5}; "
         r"they must agree along \['x', 'y'\]"),
        ({"labels": "labels.npy", "label_dims": ["y", "x"]}, "have the values 0, 1, 2, 3; name the classes"),
        ({"labels": "labels.npy", "label_dims": ["y", "x"], "class_names": {9: "a"}},
         r"class_names names the values \[9\], but the labels in .*labels\.npy have 0, 1, 2, 3; correct it"),
        ({"labels": "none.npy"}, "no file at .*none.npy; check labels"),
        ({"coordinates": {"x": "0:one"}}, "coordinates.x is '0:one'; write start:step, such as 0:4"),
        ({"coordinates": {"x": [1, 2]}}, "coordinates.x has 2 values, but the data have 5 along x; correct it"),
        ({"coordinates": {"z": [1]}}, r"coordinates names 'z', but the data have the dimensions \['band', 'y', 'x'\]"),
        ({"coordinate_units": {"z": "m"}}, r"coordinate_units names \['z'\], but the coordinates are \[\]; correct it"),
        ({"crs": "EPSG:no"}, "crs is 'EPSG:no', which is no coordinate reference system; write EPSG:32633, say"),
        ({"chunks": {"z": 4}}, r"chunks names \['z'\], but the data have the dimensions"),
        ({"block": {"z": 4}}, r"block names \['z'\], but the data have the dimensions .*; correct it"),
        ({"constant_pieces": ["z"]}, r"constant_pieces names \['z'\], but the data have the dimensions"),
    ],
)  # fmt: skip
def test_refusals(cube: ConvertConfig, tmp_path: Path, changes: dict, words: str) -> None:
    before = sorted(tmp_path.iterdir())
    if "labels" in changes:
        changes = {**changes, "labels": str(tmp_path / changes["labels"])}
    with pytest.raises(InputError, match=words):
        convert(replace(cube, **changes))
    assert sorted(tmp_path.iterdir()) == before


def test_a_wrong_matlab_key_lists_the_right_ones(tmp_path: Path) -> None:
    source = tmp_path / "scene.mat"
    scipy.io.savemat(source, {"V": np.ones((2, 6)), "nRow": 2.0})
    config = ConvertConfig(source=str(source), out=str(tmp_path / "s.zarr"), key="cube", dims=["band", "pixel"])
    with pytest.raises(
        InputError, match=r"scene\.mat has no array 'cube'; set key to one of: V \(2, 6\), nRow \(1, 1\)$"
    ):
        convert(config)
    source.write_text("no matrix")
    with pytest.raises(InputError, match="is not a MATLAB file that can be read"):
        convert(config)


@pytest.mark.parametrize("name", ["cube.npy", "cube.npz", "cube.tif"])
def test_files_that_are_not_what_they_say(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("nonsense" * 50)
    with pytest.raises(
        InputError, match=r"cube\.np[yz] is not a NumPy file|cube\.tif is not a GeoTIFF that can be read"
    ):
        convert(ConvertConfig(source=str(tmp_path / name), out=str(tmp_path / "out.zarr"), dims=["y", "x"]))


def test_a_volume_without_any_data_is_refused(cube: ConvertConfig, tmp_path: Path) -> None:
    np.save(tmp_path / "cube.npy", np.full((3, 4, 5), np.nan))
    with pytest.raises(InputError, match=r"cube\.npy holds no data: every cell is NaN or masked; check nodata, valid"):
        convert(cube)
    assert not list(Path(cube.out).parent.iterdir())


def test_existing_output_of_other_settings_is_refused_before_any_reading(cube: ConvertConfig, tmp_path: Path) -> None:
    convert(cube)
    (tmp_path / "cube.npy").write_text("now broken")
    with pytest.raises(InputError, match=r"cube\.zarr exists already; .*, or pass --overwrite to replace it$"):
        convert(replace(cube, nodata=5))


def test_the_same_conversion_again_does_nothing_even_after_a_commit(
    cube: ConvertConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(cube)
    monkeypatch.setattr("datasets.provenance.code_version", lambda: "another commit")

    def written() -> set[tuple[Path, int]]:
        return {(path, path.stat().st_mtime_ns) for path in Path(cube.out).rglob("*")}

    first = written()
    assert convert(cube) == Path(cube.out)
    assert "cube.zarr is there already, of the same source and settings: nothing to do" in capsys.readouterr().out
    assert written() == first
    assert not list(Path(cube.out).parent.glob(".*"))
    np.save(tmp_path / "cube.npy", np.load(tmp_path / "cube.npy") + 1)
    with pytest.raises(InputError, match=r"cube\.zarr exists already; .*, or pass --overwrite to replace it$"):
        convert(cube)
    convert(replace(cube, overwrite=True))
    assert not written() & first


def test_full_disk_leaves_nothing(cube: ConvertConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_space(self: zarr.storage.LocalStore, key: str, value: object) -> None:
        if "/c/" in key:
            raise OSError(errno.ENOSPC, "No space left on device")
        await keep(self, key, value)

    keep = zarr.storage.LocalStore.set
    monkeypatch.setattr(zarr.storage.LocalStore, "set", no_space)
    with pytest.raises(
        InputError, match=r"the disk is full: .*cube\.zarr could not be written, and nothing of it was kept"
    ):
        convert(cube)
    assert not list(Path(cube.out).parent.iterdir())
