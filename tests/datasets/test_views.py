"""Volumes opened in place with labels of their own, and told apart from what they were: nothing is copied."""

import json
import os
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import rasterio
import scipy.io
import xarray as xr
import yaml
import zarr
from rasterio.transform import from_origin

from datasets.config import DataConfig
from datasets.describe import describe
from datasets.errors import InputError
from datasets.statistics import measure
from datasets.storage.objects import Objects
from datasets.store import open_volume
from datasets.volume import IGNORE, Volume

SURVEYS = Path(__file__).parent / "sources" / "mdio"
SPACE = ["inline", "crossline", "twt"]
INLINES, CROSSLINES, TIMES = 10 + 2 * np.arange(5), 300 + np.arange(4), 4.0 * np.arange(6)


def view(folder: Path, **settings: object) -> Path:
    path = folder / "view.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


@pytest.fixture(params=["0.8.5", "1.1.3"])
def survey(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A real MDIO survey; see `tests.datasets.sources.test_foreign`."""
    zipfile.ZipFile(SURVEYS / f"mdio-{request.param}.zip").extractall(tmp_path / "survey.mdio")
    return tmp_path


def picks(inline: np.ndarray, crossline: np.ndarray) -> np.ndarray:
    return 2.0 + 0.8 * (inline - 10) + (crossline - 300)


def test_horizons_label_an_mdio_survey(survey: Path) -> None:
    inline, crossline = np.meshgrid(INLINES, CROSSLINES, indexing="ij")
    top = picks(inline, crossline)
    rows = [f"{i},{x},{t}" for i, x, t in zip(inline.flat, crossline.flat, top.flat, strict=True)][:-1]
    (survey / "top.csv").write_text("\n".join(["inline,crossline,twt", *rows]))
    np.save(survey / "base.npy", top + 8)
    path = view(
        survey, source="survey.mdio", horizons=["top.csv", "base.npy"], class_names={0: "above", 1: "sand", 2: "below"}
    )
    expected = (top[..., None] <= TIMES).astype(int) + (top[..., None] + 8 <= TIMES)
    expected[-1, -1] = np.where(top[-1, -1] + 8 <= TIMES, 2, IGNORE)
    volume = Volume.open(DataConfig(source=str(path), space=SPACE))
    dead = ~volume.dataset["valid"].values.any(-1)
    assert dead.any()
    expected[dead] = IGNORE
    np.testing.assert_array_equal(volume.read_labels(), expected)
    block = (slice(1, 4), slice(2, 4), slice(0, 5))
    np.testing.assert_array_equal(volume.read_labels(block=block), expected[block])
    assert volume.classes == ["above", "sand", "below"]
    assert "top.csv: 19 of 19 picks, 19 cells" in volume.dataset["labels"].attrs["placed"]
    page = str(describe(path, volume.dataset, measure(volume.dataset), ""))
    assert re.search(r"placed +top\.csv: 19 of 19 picks, 19 cells, twt 2 to 10\.4; base", page)
    assert {name: int((expected == code).sum()) for code, name in enumerate(volume.classes)} == (
        describe(path, volume.dataset, measure(volume.dataset), "").labels.counts  # type: ignore[union-attr]
    )
    np.save(survey / "base.npy", top + 12)
    assert Volume.open(DataConfig(source=str(path), space=SPACE)).digest() != volume.digest()


def test_wells_and_polygons_label_a_survey_with_coordinates(tmp_path: Path) -> None:
    zipfile.ZipFile(SURVEYS / "mdio-1.1.3.zip").extractall(tmp_path / "survey.mdio")
    plain = open_volume(tmp_path / "survey.mdio")
    x, y = (plain[name].values for name in ("x", "y"))
    (tmp_path / "wells.csv").write_text(f"x,y,from,to,class\n{x[1, 2]},{y[1, 2]},4,12,sand\n")
    wells = view(tmp_path, source="survey.mdio", labels="wells.csv", label_radius=1.0, class_names={7: "sand"})
    found = np.argwhere(open_volume(wells)["labels"].values == 0)
    assert found.tolist() == [[1, 2, 1], [1, 2, 2]]
    far = np.hypot(x - x[1, 2], y - y[1, 2])
    edge = float(np.sort(far[far > 0])[0]) / 2
    ring = [[x[1, 2] + a * edge, y[1, 2] + b * edge] for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1))]
    shape = {"type": "Feature", "properties": {"unit": 7}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    (tmp_path / "units.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [shape]}))
    settings = {"source": "survey.mdio", "labels": "units.geojson", "labels_key": "unit", "class_names": {7: "sand"}}
    ds = open_volume(view(tmp_path, **settings, labels_crs="EPSG:32631", crs="EPSG:32631"))
    assert ds["labels"].dims == ("inline", "crossline")
    assert np.argwhere(ds["labels"].values == 0).tolist() == [[1, 2]]


def test_a_raster_that_lies_on_other_cells_than_the_store_is_refused(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "s.zarr", data=np.ones((3, 4), np.float32), dimension_names=["y", "x"])
    settings = {"source": "s.zarr", "labels": "labels.tif", "class_names": {1: "ore"}, "crs": "EPSG:32633"}
    path = view(tmp_path, **settings, coordinates={"x": "0.5:1", "y": "2.5:-1"})
    for west in (0, 1):
        with rasterio.open(tmp_path / "labels.tif", "w", driver="GTiff", width=4, height=3, count=1, dtype="int16",
                           transform=from_origin(west, 3, 1, 1), crs="EPSG:32633") as file:  # fmt: skip
            file.write(np.ones((3, 4), np.int16), 1)
        if west == 0:
            assert (open_volume(path)["labels"] == 0).all()
    with pytest.raises(
        InputError, match=r"the labels in .*labels\.tif lie on other cells, x 1\.5 to 4\.5, y 0\.5 to 2\.5"
    ):
        open_volume(path)


@pytest.mark.parametrize("suffix", ["npy", "npz", "mat", "tif"])
def test_arrays_in_files_label_and_mask_a_store(tmp_path: Path, suffix: str) -> None:
    zarr.create_array(tmp_path / "s.zarr", data=np.ones((3, 4), np.float32), dimension_names=["y", "x"])
    labels = np.array([[1, 1, 5, 0], [5, 5, 1, 0], [0, 0, 0, 0]], np.int16)
    place = tmp_path / f"labels.{suffix}"
    if suffix == "npy":
        np.save(place, labels)
    elif suffix == "npz":
        np.savez(place, rock=labels, other=labels.T)
    elif suffix == "mat":
        scipy.io.savemat(place, {"rock": labels, "other": labels.T})
    else:
        with rasterio.open(place, "w", driver="GTiff", width=4, height=3, count=1, dtype="int16",
                           transform=from_origin(0, 3, 1, 1)) as file:  # fmt: skip
            file.write(labels, 1)
    np.save(tmp_path / "alive.npy", labels > 0)
    key = {"labels_key": "rock"} if suffix in ("npz", "mat") else {}
    settings = {"source": "s.zarr", "labels": place.name, "class_names": {5: "ore", 1: "waste"}, **key}
    ds = open_volume(view(tmp_path, **settings, label_dims=["y", "x"], valid="alive.npy"))
    np.testing.assert_array_equal(ds["labels"], np.select([labels == 5, labels == 1], [0, 1], 255))
    np.testing.assert_array_equal(ds["valid"], labels > 0)
    with pytest.raises(InputError, match=r"the labels array in .* has the shape .* must agree along \['x', 'y'\]"):
        open_volume(view(tmp_path, **settings, label_dims=["x", "y"]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": "gone.npy"}, r"no file or store at .*gone\.npy; check labels"),
        ({"valid": "gone.zarr"}, r"no file or store at .*gone\.zarr; check valid"),
        ({"labels": "wells.csv", "horizons": ["top.npy"], "class_names": {0: "a"}},
         r"labels is .*wells\.csv and horizons are \[.*top\.npy.*\]; give one of them"),
        ({"labels": "wells.csv", "class_names": {0: "a"}}, "label_radius is None; labels from .*wells.csv need"),
        ({"horizons": ["gone.csv"], "class_names": {0: "a"}}, r"no file at .*gone\.csv; check its name"),
        ({"labels_key": "mask", "labels": "survey.mdio", "class_names": {1: "a"}, "labels_dominant": 0.5},
         r"label_shape and labels_dominant are for labels from a file, but .*survey\.mdio is a store; take them out"),
        ({"horizons": "top.csv"}, r"view\.yaml has horizons = 'top\.csv'; it must be a list such as \[mag\]$"),
        ({"labels": 5}, r"view\.yaml has labels = 5; it must be text$"),
        ({"coordinates": None}, r"view\.yaml has coordinates = None; it must be of the type dict\[str, "),
        ({"nodata": False}, r"view\.yaml has nodata = False; it must be a number$"),
        ({"label_touched": "yes"}, r"view\.yaml has label_touched = 'yes'; it must be true or false$"),
        ({"vertical": "up"}, r"view\.yaml has vertical = 'up'; it must be one of twt, depth$"),
    ],
)  # fmt: skip
def test_refusals(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    zipfile.ZipFile(SURVEYS / "mdio-1.1.3.zip").extractall(tmp_path / "survey.mdio")
    (tmp_path / "wells.csv").write_text("x,y,class\n1,2,a\n")
    with pytest.raises(InputError, match=words):
        open_volume(view(tmp_path, source="survey.mdio", **changes))


def digest(place: Path | str) -> str:
    return Volume.open(DataConfig(source=str(place), space=SPACE)).digest()


def test_a_changed_store_is_another_volume(survey: Path) -> None:
    store = survey / "survey.mdio"
    before = digest(store)
    assert digest(store) == before
    arrays = [store / name for name in ("data", "amplitude", "metadata/live_mask", "trace_mask")]
    chunks = [next(path for path in array.rglob("*0") if path.is_file()) for array in arrays if array.is_dir()]
    assert len(chunks) == 2
    for chunk in chunks:
        held, times = chunk.read_bytes(), chunk.stat()
        chunk.write_bytes(held[::-1])  # as long as before
        os.utime(chunk, ns=(times.st_atime_ns, times.st_mtime_ns + 1_000_000))
        assert digest(store) != before
        chunk.write_bytes(held)
        os.utime(chunk, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert digest(store) == before
        chunk.rename(survey / "aside")
        assert digest(store) != before
        (survey / "aside").rename(chunk)
    assert digest(store) == before


def test_what_else_lies_in_the_store_does_not_matter(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "s.zarr", mode="w")
    group.create_array("a", data=np.zeros((2, 2, 2)), dimension_names=SPACE)
    path = view(tmp_path, source="s.zarr", key="a")
    before = digest(path)
    group.create_array("ab", data=np.zeros((2, 2, 2)), dimension_names=SPACE)
    os.utime(tmp_path / "s.zarr" / "a" / "zarr.json", ns=(0, 0))
    assert digest(path) == before


def test_a_replaced_object_of_a_bucket_is_noticed(s3: str) -> None:
    objects = Objects(f"{s3}/s.zarr")
    cube = xr.DataArray(np.arange(8.0).reshape(2, 2, 2), dims=SPACE, name="cube")
    cube.to_dataset().to_zarr(zarr.storage.ObjectStore(objects.store), zarr_format=3, consolidated=False)
    before = digest(f"{s3}/s.zarr")
    assert digest(f"{s3}/s.zarr") == before
    held = json.loads(open_volume(f"{s3}/s.zarr").attrs["conversion"])["objects"]
    assert held.startswith("1, sha256 ")
    (name, size, _) = next(entry for entry in objects.listing("cube") or [] if entry[0].startswith("cube/c/"))
    objects.put(name, bytes(size))
    assert digest(f"{s3}/s.zarr") != before


@contextmanager
def web(folder: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_where_nothing_can_be_listed_the_volume_says_so(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "s.zarr", data=np.ones((2, 2, 2)), dimension_names=SPACE)
    with web(tmp_path) as uri:
        ds = open_volume(f"{uri}/s.zarr")
        assert ds["data"].values.sum() == 8
    assert json.loads(ds.attrs["conversion"])["objects"] == "not listed by the store, so changed values go unnoticed"
