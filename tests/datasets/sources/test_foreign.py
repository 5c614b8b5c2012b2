"""Zarr stores of others and MDIO surveys, opened in place: against what wrote them, and with views for what they lack.

The two MDIO surveys were written by multidimio 0.8.5 and 1.1.3 from a SEG-Y file of 5 inlines, 4 crosslines and 6
samples without the trace at (14, 303), whose samples are ``1000 inline + crossline + sample / 8``. The library itself
wants pandas 2, so it is no dependency of the tests.
"""

import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import xarray as xr
import yaml
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.config import DataConfig
from datasets.describe import describe
from datasets.errors import InputError
from datasets.maps.geometry import geometry
from datasets.statistics import measure, statistics
from datasets.store import open_volume
from datasets.volume import IGNORE, Volume

SURVEYS = Path(__file__).parent / "mdio"


def view(folder: Path, **settings_: object) -> Path:
    path = folder / "view.yaml"
    path.write_text(yaml.safe_dump(settings_, sort_keys=False))
    return path


@pytest.mark.parametrize("version", ["0.8.5", "1.1.3"])
def test_mdio_surveys_open_as_the_segy_they_came_from(tmp_path: Path, version: str) -> None:
    zipfile.ZipFile(SURVEYS / f"mdio-{version}.zip").extractall(tmp_path / "survey.mdio")
    ds = open_volume(tmp_path / "survey.mdio")
    assert ds["data"].dims == ("inline", "crossline", "twt")
    np.testing.assert_array_equal(ds["inline"], [10, 12, 14, 16, 18])
    np.testing.assert_array_equal(ds["crossline"], [300, 301, 302, 303])
    np.testing.assert_array_equal(ds["twt"], 4.0 * np.arange(6))
    assert ds["twt"].attrs["units"] == "ms"
    expected = (1000 * ds["inline"] + ds["crossline"] + ds["twt"] / 32).transpose(*ds["data"].dims).values
    alive = np.ones((5, 4), bool)
    alive[2, 3] = False
    np.testing.assert_array_equal(ds["data"].values[alive], expected[alive])
    np.testing.assert_array_equal(ds["valid"].values, np.repeat(alive[:, :, None], 6, axis=2))
    if version == "1.1.3":
        assert ds["x"].dims == ds["y"].dims == ("inline", "crossline")
        assert (float(ds["x"][1, 2]), float(ds["y"][1, 2])) == (400050, 6000050)
    assert describe(tmp_path / "survey.mdio", ds, measure(ds), "").valid_share == pytest.approx(19 / 20)


@pytest.mark.parametrize(("version", "key"), [("0.8.5", "data/chunked_012"), ("1.1.3", "amplitude")])
@pytest.mark.parametrize("named", [True, False])
def test_a_view_renames_the_axes_of_a_survey_with_all_that_lies_along_them(
    tmp_path: Path, version: str, key: str, named: bool
) -> None:
    zipfile.ZipFile(SURVEYS / f"mdio-{version}.zip").extractall(tmp_path / "survey.mdio")
    path = view(tmp_path, source="survey.mdio", key=key if named else "", dims=["row", "column", "depth"], nodata=10300)
    ds = open_volume(path)
    np.testing.assert_array_equal(ds["row"], [10, 12, 14, 16, 18])
    assert ds["depth"].sizes == {"depth": 6}
    assert not ds["valid"][2, 3].any()
    assert int((~ds["valid"]).sum()) == 6 + 1
    if version == "1.1.3":
        assert ds["x"].dims == ("row", "column")


@settings(max_examples=25, deadline=None)
@given(
    shape=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    version=st.sampled_from([2, 3]),
    sharded=st.booleans(),
    kind=st.sampled_from(["f4", "f8", "u1", "i2", ">i4"]),
    data=st.data(),
)
def test_any_array_reads_as_zarr_reads_it(
    shape: list[int], version: int, sharded: bool, kind: str, data: st.DataObject
) -> None:
    values = np.random.default_rng(0).integers(0, 100, shape).astype(kind)
    chunks = [data.draw(st.integers(1, 4)) for _ in shape]
    shards = [2 * edge for edge in chunks] if sharded and version == 3 else None
    dims = [f"d{axis}" for axis in range(len(shape))]
    cut = tuple(slice(*sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2)))) for n in shape)
    with TemporaryDirectory() as folder:
        array = zarr.create_array(
            f"{folder}/a.zarr", shape=shape, dtype=kind, chunks=chunks, shards=shards, zarr_format=version,
            dimension_names=dims if version == 3 else None,
        )  # fmt: skip
        array[...] = values
        if version == 2:
            array.attrs["_ARRAY_DIMENSIONS"] = dims
        ds = open_volume(f"{folder}/a.zarr")
        np.testing.assert_array_equal(ds["data"].values, values)
        np.testing.assert_array_equal(ds["data"][cut].values, values[cut])
    assert list(ds["data"].dims) == dims
    assert ds["data"].encoding["chunks"] == tuple(chunks)
    assert ds["data"].encoding["shards"] == (None if shards is None else tuple(shards))


@pytest.fixture
def scene() -> xr.Dataset:
    values = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    values[1, 2] = -1
    return xr.Dataset(
        {"radiance": (("time", "latitude", "longitude"), values, {"units": "W", "long_name": "radiance"})},
        coords={
            "time": np.array(["2020-01-01", "2021-01-01"], "datetime64[ns]"),
            "latitude": ("latitude", [3.0, 2.0, 1.0], {"standard_name": "latitude"}),
            "longitude": ("longitude", [5.0, 6.0, 7.0, 8.0], {"standard_name": "longitude"}),
        },
        attrs={"title": "Scene"},
    ).rio.write_crs("EPSG:4326")


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("group", [None, "level/0"])
def test_what_xarray_writes_needs_no_view(tmp_path: Path, scene: xr.Dataset, version: int, group: str | None) -> None:
    encoding = {"radiance": {"_FillValue": np.int16(-1)}}
    scene.to_zarr(tmp_path / "s.zarr", zarr_format=version, group=group, encoding=encoding, consolidated=False)
    ds = open_volume(tmp_path / "s.zarr")
    assert ds["data"].dims == ("time", "y", "x")
    assert ds["data"].dtype == np.int16
    np.testing.assert_array_equal(ds["data"].values, scene["radiance"].values)
    np.testing.assert_array_equal(ds["valid"].values, scene["radiance"].values != -1)
    np.testing.assert_array_equal(ds["time"], scene["time"])
    np.testing.assert_array_equal(ds["y"], [3, 2, 1])
    assert ds["data"].attrs == {"units": "W", "long_name": "radiance"}
    assert ds["spatial_ref"].attrs["geographic_crs_name"] == "WGS 84"


@pytest.mark.parametrize("version", [2, 3])
def test_packed_values_are_unpacked(tmp_path: Path, scene: xr.Dataset, version: int) -> None:
    height = xr.Dataset({"height": (("y", "x"), [[0.5, np.nan], [10.0, 2.0]])})
    packing = {"dtype": "int16", "scale_factor": 0.5, "_FillValue": -99}
    height.to_zarr(tmp_path / "s.zarr", zarr_format=version, encoding={"height": packing}, consolidated=False)
    np.testing.assert_array_equal(open_volume(tmp_path / "s.zarr")["data"].values, height["height"].values)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A group whose arrays have no names of dimensions: a cube, its mask and its classes."""
    rng = np.random.default_rng(0)
    group = zarr.open_group(tmp_path / "bare.zarr", mode="w", zarr_format=2)
    group.create_array("in/cube", data=rng.normal(size=(6, 5, 4, 1)).astype(np.float32), chunks=(3, 5, 2, 1))
    group.create_array("alive", data=rng.random((6, 5)) < 0.7)
    group.create_array("facies", data=rng.integers(0, 4, (6, 5, 4)).astype(np.int16))
    group.create_array("lines", data=np.arange(100, 160, 10))
    return tmp_path / "bare.zarr"


def test_a_view_says_what_the_store_does_not(tmp_path: Path, bare: Path) -> None:
    path = view(
        tmp_path, source="bare.zarr", key="in/cube", dims=["inline", "crossline", "twt"], valid_key="alive",
        valid_dims=["inline", "crossline"], labels_key="facies", label_dims=["inline", "crossline", "twt"],
        class_names={3: "sand", 1: "shale"}, coordinates={"inline": "lines", "twt": "0:4"}, crs="EPSG:32633",
        name="amplitude", title="Bare", licence="CC0",
    )  # fmt: skip
    config = DataConfig(source=str(path), space=["inline", "crossline", "twt"])
    volume = Volume.open(config)
    group = zarr.open_group(bare, mode="r")
    cube, alive, facies = (np.asarray(group[name]) for name in ("in/cube", "alive", "facies"))
    block = (slice(1, 5), slice(0, 3), slice(1, 4))
    expected = np.where(alive[:, :, None], cube[..., 0], np.nan)
    np.testing.assert_array_equal(volume.read(block), expected[block][None])
    labels = np.select([~alive[:, :, None], facies == 3, facies == 1], [IGNORE, 0, 1], IGNORE)
    np.testing.assert_array_equal(volume.read_labels(block=block), labels[block])
    assert volume.classes == ["sand", "shale"]
    np.testing.assert_array_equal(volume.dataset["inline"], np.arange(100, 160, 10))
    np.testing.assert_array_equal(volume.dataset["twt"], 4 * np.arange(4))
    measured = statistics(volume)
    np.testing.assert_allclose(float(measured.mean.squeeze()), np.nanmean(expected), rtol=1e-6)
    crs = geometry(volume.dataset).crs
    described = str(describe(path, volume.dataset, measure(volume.dataset), crs))
    assert "UTM zone 33N" in described
    assert "sand" in described
    assert "chunks 3 x 5 x 2" in described


def test_the_shipped_view_with_mask_and_labels_in_stores_of_their_own(tmp_path: Path, bare: Path) -> None:
    shipped = Path(__file__).parents[3] / "pipeline" / "recipes" / "views" / "survey.yaml"
    source = zarr.open_group(bare, mode="r")
    group = zarr.open_group(tmp_path / "survey.zarr", mode="w")
    group.create_array("seismic/amplitude", data=np.asarray(source["in/cube"])[..., 0])
    group.create_array("lines", data=np.asarray(source["lines"]))
    zarr.create_array(tmp_path / "alive.zarr", data=np.asarray(source["alive"]))
    zarr.create_array(tmp_path / "facies.zarr", data=np.asarray(source["facies"]))
    settings_ = {**yaml.safe_load(shipped.read_text()), "valid": "alive.zarr", "labels": "facies.zarr"}
    del settings_["valid_key"], settings_["labels_key"]
    ds = open_volume(view(tmp_path, **settings_))
    np.testing.assert_array_equal(ds["valid"].values[..., 0], source["alive"])
    sand = (np.asarray(source["facies"]) == 2) & np.asarray(source["alive"])[:, :, None]
    np.testing.assert_array_equal(ds["labels"].values == 1, sand)
    assert ds.attrs["licence"] == "whose it is"
    assert ds["twt"].attrs["units"] == "ms"


def test_two_views_of_one_store_are_two_volumes(tmp_path: Path, bare: Path) -> None:
    data = DataConfig(space=["a", "b", "c"])
    first = Volume.of(open_volume(view(tmp_path, source="bare.zarr", key="in/cube", dims=["a", "b", "c"])), data)
    again = Volume.of(open_volume(view(tmp_path, source="bare.zarr", key="in/cube", dims=["a", "b", "c"])), data)
    other = view(tmp_path, source="bare.zarr", key="in/cube", dims=["a", "b", "c"], nodata=0)
    assert first.digest() == again.digest() != Volume.of(open_volume(other), data).digest()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"key": ""}, r"bare\.zarr is a Zarr store, but not a converted volume: it does not say which array is the "
         r"volume; set key to one of: .*in/cube \(6, 5, 4, 1\).*; write what it is into a view"),
        ({"key": "cube"}, r"bare\.zarr is a Zarr store, .*: it has no array 'cube'; set key to one of: "),
        ({"dims": []}, r"its array of shape \(6, 5, 4, 1\) does not name its dimensions; write what it is into"),
        ({"dims": ["y", "x"]}, r"has shape \(6, 5, 4, 1\), but dims names 2 of its axes"),
        ({"out": "a.zarr"}, r"view\.yaml holds \['out'\], which is no setting of a view; its settings are \["),
        ({"source": ""}, r"view\.yaml names no source; its settings are"),
        ({"source": "gone.zarr"}, r"no volume at .*gone\.zarr; check the path"),
        ({"labels_key": "facies"}, r"the labels in .*bare\.zarr have values without names; name the classes"),
        ({"labels_key": "rock", "class_names": {1: "a"}}, 
         r"bare\.zarr: it has no array 'rock'; set key .* correct labels_key"),
        ({"labels_key": "facies", "class_names": {1: "a"}, "label_dims": ["inline", "twt", "crossline"]},
         r"the labels array has the shape .* they must agree along \['twt', 'crossline'\]"),
        ({"valid_key": "lines", "valid_dims": ["twt"]}, r"the valid mask has the shape .* must agree along \['twt'\]"),
        ({"crs": "EPSG:no"}, "crs is 'EPSG:no', which is no coordinate reference system"),
    ],
)  # fmt: skip
def test_refusals(tmp_path: Path, bare: Path, changes: dict[str, object], words: str) -> None:
    plain = {"source": "bare.zarr", "key": "in/cube", "dims": ["inline", "crossline", "twt"]}
    with pytest.raises(InputError, match=words):
        open_volume(view(tmp_path, **{**plain, **changes}))


def test_a_broken_chunk_is_named_and_cannot_be_masked(tmp_path: Path, bare: Path) -> None:
    path = view(tmp_path, source="bare.zarr", key="in/cube", dims=["inline", "crossline", "twt"])
    (chunk,) = (place for place in bare.rglob("1.0.1.0") if place.is_file())
    chunk.write_bytes(b"no chunk")
    config = DataConfig(source=str(path), space=["inline", "crossline", "twt"])
    with pytest.raises(
        InputError, match=r"bare\.zarr: cells \[3:6, 0:5, 2:4, 0:1\] of in/cube lie in a broken chunk \(.*\); restore"
    ):
        Volume.open(config).read()
    for source in (path, tmp_path / "plain.zarr"):
        zarr.create_array(tmp_path / "plain.zarr", data=np.ones((2, 2)), dimension_names=["y", "x"], overwrite=True)
        with pytest.raises(InputError, match=rf"^data\.missing is mask, but {source} is no converted volume; take it"):
            open_volume(source, missing="mask")


def test_what_is_no_volume_at_all(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "c.zarr", shape=(2, 2), dtype="c8", dimension_names=["y", "x"])
    with pytest.raises(
        InputError, match=r"c\.zarr holds cells of type complex64; a volume needs whole or real numbers"
    ):
        open_volume(tmp_path / "c.zarr")
    with pytest.raises(InputError, match=r"no view at .*none\.yaml; check the path"):
        open_volume(tmp_path / "none.yaml")
    (tmp_path / "a.yaml").write_text("a: [")
    with pytest.raises(InputError, match=r"a\.yaml is not YAML"):
        open_volume(tmp_path / "a.yaml")
    zarr.open_group(
        tmp_path / "m.zarr", mode="w", attributes={"dimension": [{"name": "a", "coords": [1]}]}
    ).create_group("data")
    with pytest.raises(InputError, match=r"it looks like MDIO 0, but has no data/chunked_0; set key; write what"):
        open_volume(tmp_path / "m.zarr")
