"""What a network sees: order of dimensions, no-data, labels by part, coarser labels, refusals."""

import hashlib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import datasets.volume
from datasets.config import DataConfig
from datasets.errors import InputError
from datasets.store import open_volume, write_volume
from datasets.volume import IGNORE, Volume, coarsen_labels


@pytest.fixture
def dataset() -> xr.Dataset:
    rng = np.random.default_rng(0)
    dims = ("band", "y", "x")
    labels = rng.integers(0, 3, (6, 5)).astype(np.uint8)
    labels[0] = 255
    attrs = {"class_names": ["a", "b", "c"], "class_values": [1, 2, 3], "unlabelled": 255}
    return xr.Dataset(
        {
            "data": (dims, rng.integers(0, 100, (4, 6, 5)).astype(np.int16)),
            "valid": (dims, rng.random((4, 6, 5)) < 0.8),
            "labels": (("y", "x"), labels, attrs),
        },
        attrs={"source_sha256": "0" * 64},
    )


def view(dataset: xr.Dataset, space: list[str], **settings: object) -> Volume:
    return Volume.of(dataset, DataConfig(source="survey.zarr", space=space, **settings))  # type: ignore[arg-type]


def test_reads_channels_first_in_the_order_of_space(dataset: xr.Dataset) -> None:
    volume = view(dataset, ["x", "y"])
    expected = np.where(dataset["valid"], dataset["data"], np.nan).transpose(0, 2, 1)
    np.testing.assert_array_equal(volume.read(), expected)
    assert volume.read().dtype == np.float32
    np.testing.assert_array_equal(volume.read((slice(1, 3), slice(2, 6))), expected[:, 1:3, 2:6])
    assert (volume.shape, volume.n_channels, volume.horizontal) == ((5, 6), 4, (0, 1))


def test_what_is_not_finite_is_no_data(dataset: xr.Dataset) -> None:
    dataset["data"] = dataset["data"].astype(np.float64)
    dataset["data"][0, 1, 2] = np.inf
    dataset["valid"][0, 1, 2] = True
    assert np.isnan(view(dataset, ["y", "x"]).read()[0, 1, 2])


def test_all_dimensions_in_space_leave_one_channel(dataset: xr.Dataset) -> None:
    volume = view(dataset, ["y", "x", "band"])
    assert volume.read().shape == (1, 6, 5, 4)
    assert volume.read_slice == {2: 2}
    assert volume.horizontal == (0, 1)
    assert view(dataset, ["y", "x", "band"], read_slice={"band": 3}).read_slice == {2: 3}


def test_labels_of_a_part_of_the_split(dataset: xr.Dataset) -> None:
    codes = xr.DataArray(np.array([0, 1, 2, 3, 1], np.uint8), dims=["x"])
    volume = view(dataset, ["x", "y"])
    labels = dataset["labels"].values.T
    for part, code in (("train", 1), ("validation", 2), ("test", 3)):
        expected = np.where((labels != 255) & (codes.values == code)[:, None], labels.astype(int), IGNORE)
        np.testing.assert_array_equal(volume.read_labels(codes, part), expected)  # type: ignore[arg-type]
        block = (slice(2, 5), slice(0, 4))
        np.testing.assert_array_equal(volume.read_labels(codes, part, block), expected[2:5, :4])  # type: ignore[arg-type]
    np.testing.assert_array_equal(volume.read_labels(), np.where(labels == 255, IGNORE, labels.astype(int)))


def test_only_the_test_part_reads_the_truth(dataset: xr.Dataset) -> None:
    dataset["truth"] = dataset["labels"].copy(data=np.full((6, 5), 2, np.uint8))
    codes = xr.DataArray(np.tile(np.array([1, 1, 2, 2, 3, 3], np.uint8)[:, None], 5), dims=["y", "x"])
    volume = view(dataset, ["y", "x"])
    assert set(np.unique(volume.read_labels(codes, "test"))) == {IGNORE, 2}
    train = volume.read_labels(codes, "train")
    np.testing.assert_array_equal(train[1], dataset["labels"].values[1])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9), st.sampled_from([2, 4]))
def test_a_coarse_cell_takes_the_most_frequent_label(seed: int, rows: int, columns: int, factor: int) -> None:
    labels = np.random.default_rng(seed).integers(-1, 3, (rows, columns))
    coarse = coarsen_labels(labels, factor, 3)
    assert coarse.shape == (-(-rows // factor), -(-columns // factor))
    for (i, j), value in np.ndenumerate(coarse):
        cells = labels[i * factor : (i + 1) * factor, j * factor : (j + 1) * factor]
        held = np.bincount(cells[cells >= 0].astype(int), minlength=3)
        assert value == (int(held.argmax()) if held.any() else IGNORE)


def test_digest_knows_labels_and_source(dataset: xr.Dataset) -> None:
    first = view(dataset, ["y", "x"]).digest()
    assert first == view(dataset.chunk(), ["y", "x"]).digest()
    changed = dataset.copy(deep=True)
    changed["labels"][3, 3] = 255
    assert view(changed, ["y", "x"]).digest() != first
    assert view(dataset.assign_attrs(source_sha256="1"), ["y", "x"]).digest() != first


@pytest.mark.parametrize("dtype", ["uint8", "int16", ">i4", "int64", "float32", "float16", "bool"])
@pytest.mark.parametrize("kind", ["memory", "not contiguous", "dask", "stored"])
def test_digest_is_that_of_all_labels_at_once(
    dataset: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, kind: str
) -> None:
    monkeypatch.setattr(datasets.volume, "_SLAB_BYTES", 5 * np.dtype(dtype).itemsize * 2)  # two of six rows
    dataset["labels"] = dataset["labels"].astype(dtype, keep_attrs=True)
    dataset["truth"] = dataset["labels"][::-1]
    if kind == "not contiguous":
        dataset = dataset.transpose("x", "y", "band")
    elif kind == "dask":
        dataset = dataset.chunk({"y": (4, 2)})
    elif kind == "stored":
        dataset = open_volume(write_volume(dataset, tmp_path / "v.zarr", chunks={"y": 4, "x": 3}))
    volume = view(dataset, ["y", "x"])
    whole = [np.ascontiguousarray(dataset[name].values).tobytes() for name in ("labels", "truth")]
    passed = Hashed()
    monkeypatch.setattr(datasets.volume.hashlib, "sha256", passed)
    assert volume.digest() == hashlib.new("sha256", passed.parts[0] + b"".join(whole)).hexdigest()
    assert max(map(len, passed.parts[1:])) < len(whole[0]), "the labels were held at once"


class Hashed:
    """SHA-256 that remembers what it was given."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def __call__(self, first: bytes) -> "Hashed":
        self.update(first)
        return self

    def update(self, part: bytes | memoryview) -> None:
        self.parts.append(bytes(part))

    def hexdigest(self) -> str:
        return hashlib.new("sha256", b"".join(self.parts)).hexdigest()


def test_digest_holds_no_more_than_slabs_of_the_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.volume, "_SLAB_BYTES", 2**18)
    labels = np.random.default_rng(0).integers(0, 2, (128, 128, 256)).astype(np.uint8)
    dims = ("y", "x", "depth")
    made = xr.Dataset(
        {"data": (dims, labels.astype(np.float32)), "labels": (dims, labels, {"class_names": ["a", "b"]})}
    )
    dataset = open_volume(write_volume(made, tmp_path / "v.zarr", chunks={"y": 16, "x": 64, "depth": 64}))
    volume = view(dataset, [*dims])
    volume.digest()  # what is imported or made once is not counted
    tracemalloc.start()
    try:
        volume.digest()
        assert tracemalloc.get_traced_memory()[1] < labels.nbytes / 2
    finally:
        tracemalloc.stop()


def test_opens_what_was_written(dataset: xr.Dataset, tmp_path: Path) -> None:
    path = write_volume(dataset, tmp_path / "survey.zarr")
    volume = Volume.open(DataConfig(source=str(path), space=["y", "x"]))
    assert volume.digest() == view(dataset, ["y", "x"]).digest()
    np.testing.assert_array_equal(volume.read(), view(dataset, ["y", "x"]).read())
    assert volume.classes == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("space", "settings", "words"),
    [
        ([], {}, r"data.space is empty; choose one to three of the dimensions \['band', 'y', 'x'\] of survey.zarr"),
        (["y", "depth"], {}, r"data.space names \['depth'\], but survey.zarr has the dimensions \['band', 'y', 'x'\]"),
        (["x"], {}, r"the labels of survey.zarr vary along \['y'\], which data.space \['x'\] lacks; add it"),
        (["y", "x"], {"read_slice": {"band": 1}}, r"data.read_slice names 'band', but the labels leave out \[\] only"),
        (["y", "x", "band"], {"read_slice": {"band": 4}}, r"data.read_slice puts band at 4; choose a cell 0 to 3"),
        (["y", "x", "band"], {"block": [2, 2, 2]}, r"data.block gives 2 cells of band, .* give all 4"),
    ],
)
def test_refusals(dataset: xr.Dataset, space: list[str], settings: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        view(dataset, space, **settings)


def test_labels_of_an_unlabelled_volume_are_refused(dataset: xr.Dataset) -> None:
    volume = view(dataset.drop_vars("labels"), ["y", "x"])
    assert volume.classes == []
    with pytest.raises(InputError, match="the volume has no labels; convert its source again with labels"):
        volume.read_labels()
