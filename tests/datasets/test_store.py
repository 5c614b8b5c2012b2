"""The store: written volumes come back equal, and a failed write leaves nothing."""

import errno
import itertools
import math
import threading
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from datasets import store
from datasets.errors import InputError
from datasets.store import open_volume, plan_chunks, write_volume

DTYPES = ["int16", "uint8", "uint16", "int32", "float32", "float64", "bool"]


def contents(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture
def small() -> xr.Dataset:
    values = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    return xr.Dataset({"data": (("inline", "crossline", "twt"), da.from_array(values, chunks=(1, 4, 5)))})


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    dims = ("date", "band", "y", "x")[: data.draw(st.integers(1, 4))]
    shape = tuple(data.draw(st.integers(1, 7)) for _ in dims)
    values = data.draw(arrays(data.draw(st.sampled_from(DTYPES)), shape))
    edges = {dim: data.draw(st.integers(1, 9)) for dim in data.draw(st.sets(st.sampled_from(dims)))}
    ds = xr.Dataset(
        {
            "data": (dims, values, {"units": "mV"}),
            "valid": (dims, values == values),
            "labels": (dims[-1], np.arange(shape[-1], dtype=np.uint8), {"class_names": ["rock", "water"]}),
        },
        coords={dims[0]: (dims[0], np.linspace(0, 1, shape[0]), {"units": "ms"})},
    )
    if data.draw(st.booleans()):
        ds = ds.chunk({dims[0]: data.draw(st.integers(1, 3))})
    path = write_volume(ds, tmp_path_factory.mktemp("trip") / "v.zarr", chunks=edges)
    back = open_volume(path)
    for name in ("data", "valid", "labels", dims[0]):
        assert back[name].dtype == ds[name].dtype
        assert back[name].dims == ds[name].dims
        np.testing.assert_array_equal(back[name].values, ds[name].values)
    assert back["data"].attrs["units"] == "mV"
    assert "_FillValue" not in {**back["data"].attrs, **back[dims[0]].attrs}
    assert back["labels"].attrs["class_names"] == ["rock", "water"]
    for dim, edge in edges.items():
        assert back["data"].attrs["chunks"][dims.index(dim)] == min(edge, back.sizes[dim])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 3000), min_size=1, max_size=4), st.sampled_from([1, 2, 4, 8]))
def test_chunks_have_sensible_sizes(shape: list[int], itemsize: int) -> None:
    sizes = {f"d{axis}": size for axis, size in enumerate(shape)}
    chunks, shards = plan_chunks(sizes, itemsize)
    size = math.prod(chunks.values()) * itemsize
    assert size <= 2 * 2**20
    if math.prod(shape) * itemsize > 2 * 2**20:
        assert size > 0.4 * 2**20
    assert (shards is not None) == (math.prod(shape) * itemsize > 64 * 2**20)
    if shards is not None:
        assert all(shards[dim] % chunks[dim] == 0 for dim in sizes)
        assert math.prod(shards.values()) * itemsize <= 64 * 2**20


def test_large_arrays_are_sharded_and_say_so(tmp_path: Path) -> None:
    values = da.arange(40_000_000, chunks=5_000_000, dtype=np.int32).reshape(200, 500, 400)
    path = write_volume(xr.Dataset({"data": (("inline", "crossline", "twt"), values)}), tmp_path / "v.zarr")
    array = zarr.open_array(path / "data", mode="r")
    assert array.metadata.zarr_format == 3
    attrs = open_volume(path)["data"].attrs
    assert list(array.chunks) == attrs["chunks"]
    assert list(array.shards or ()) == attrs["shards"]
    np.testing.assert_array_equal(array[199, 498:, :], values[199, 498:, :])


def test_times_and_crs_come_back(tmp_path: Path, small: xr.Dataset) -> None:
    times = np.array(["2015-07-11T10:00:08", "2015-07-31T10:00:09", "2016-01-01T00:00:00"], "datetime64[ns]")
    ds = small.rename(inline="time").assign_coords(time=times, spatial_ref=((), 0, {"crs_wkt": "PROJCRS[...]"}))
    back = open_volume(write_volume(ds, tmp_path / "v.zarr"))
    np.testing.assert_array_equal(back["time"].values, times)
    assert back["spatial_ref"].attrs["crs_wkt"] == "PROJCRS[...]"
    assert back["data"].encoding["grid_mapping"] == "spatial_ref"
    assert (back.attrs["format"], back.attrs["format_version"]) == ("telegrapher-volume", 2)
    again = open_volume(write_volume(back, tmp_path / "again.zarr"))
    xr.testing.assert_identical(again.load(), back.load())


def test_existing_output_is_refused_then_replaced(tmp_path: Path, small: xr.Dataset) -> None:
    path = write_volume(small, tmp_path / "v.zarr")
    with pytest.raises(InputError, match=r"v\.zarr exists already; .*pass --overwrite to replace it$"):
        write_volume(small + 1, path)
    assert float(open_volume(path)["data"][0, 0, 0]) == 0
    write_volume(small + 1, path, overwrite=True)
    assert float(open_volume(path)["data"][0, 0, 0]) == 1
    assert contents(tmp_path) == ["v.zarr"]


@pytest.mark.parametrize("existing", [False, True])
def test_full_disk_leaves_nothing_new(
    tmp_path: Path, small: xr.Dataset, monkeypatch: pytest.MonkeyPatch, existing: bool
) -> None:
    if existing:
        write_volume(small, tmp_path / "v.zarr")
    written = []

    async def no_space(self: zarr.storage.LocalStore, key: str, value: object) -> None:
        written.append(key)
        if len(written) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        await keep(self, key, value)

    keep = zarr.storage.LocalStore.set
    monkeypatch.setattr(zarr.storage.LocalStore, "set", no_space)
    with pytest.raises(InputError, match=r"the disk is full: .*v\.zarr could not be written, and nothing of it was"):
        write_volume(small + 1, tmp_path / "v.zarr", overwrite=True)
    assert len(written) > 4
    monkeypatch.undo()
    assert contents(tmp_path) == (["v.zarr"] if existing else [])
    if existing:
        assert float(open_volume(tmp_path / "v.zarr")["data"][0, 0, 0]) == 0


def test_interrupt_waits_for_its_threads_and_leaves_nothing(tmp_path: Path) -> None:
    calls, started, finished = itertools.count(), threading.Event(), threading.Event()

    def interrupted(block: np.ndarray) -> np.ndarray:
        if next(calls) == 0:
            started.set()
            threading.Event().wait(0.5)
            finished.set()
            return block
        started.wait(5)
        raise KeyboardInterrupt

    values = da.zeros(4 * 2**18, chunks=2**18).map_blocks(interrupted, dtype=float, meta=np.empty(0))
    with pytest.raises(KeyboardInterrupt):
        write_volume(xr.Dataset({"data": ("x", values)}), tmp_path / "v.zarr")
    assert finished.is_set()
    assert contents(tmp_path) == []


def test_a_failing_swap_restores_the_old_store(
    tmp_path: Path, small: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_volume(small, tmp_path / "v.zarr")
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name.endswith(".writing"):
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(KeyboardInterrupt):
        write_volume(small + 1, path, overwrite=True)
    assert contents(tmp_path) == ["v.zarr"]
    assert float(open_volume(path)["data"][0, 0, 0]) == 0


def test_refusals_when_opening(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no volume at .*nowhere\.zarr; check the path, or make one with"):
        open_volume(tmp_path / "nowhere.zarr")
    (tmp_path / "text.zarr").write_text("no")
    with pytest.raises(InputError, match=r"text\.zarr is not a Zarr store"):
        open_volume(tmp_path / "text.zarr")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty is not a Zarr store; make a volume from it with"):
        open_volume(tmp_path / "empty")
    (tmp_path / "empty" / "zarr.json").write_text('{"zarr_format"')
    with pytest.raises(InputError, match=r"empty/zarr\.json is broken \(.*\); convert the source again"):
        open_volume(tmp_path / "empty")
    xr.Dataset({"data": ("x", np.zeros(3))}).to_zarr(tmp_path / "other.zarr", zarr_format=2)
    with pytest.raises(InputError, match=r"other\.zarr is a Zarr store, but not a converted volume"):
        open_volume(tmp_path / "other.zarr")
    write_volume(xr.Dataset({"data": ("x", np.zeros(3))}), tmp_path / "new.zarr")
    zarr.open_group(tmp_path / "new.zarr").attrs["format_version"] = 3
    zarr.consolidate_metadata(tmp_path / "new.zarr")
    with pytest.raises(InputError, match=r"has version 3 of the volume format, this program reads up to 2"):
        open_volume(tmp_path / "new.zarr")


def test_a_file_in_the_place_is_left_alone(tmp_path: Path, small: xr.Dataset) -> None:
    (tmp_path / "v.zarr").write_text("mine")
    for write in (lambda: write_volume(small, tmp_path / "v.zarr", overwrite=True), lambda: enter(tmp_path / "v.zarr")):
        with pytest.raises(
            InputError, match=r"v\.zarr is a file, which --overwrite leaves alone; choose another place"
        ):
            write()
    assert (tmp_path / "v.zarr").read_text() == "mine"
    assert contents(tmp_path) == ["v.zarr"]


def enter(path: Path) -> None:
    with store.open_new(path, "key"):
        pass


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, small: xr.Dataset) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/v\.zarr cannot be written \(File exists\); choose another place"):
        write_volume(small, tmp_path / "file" / "v.zarr")
    assert store.FORMAT == "telegrapher-volume"
