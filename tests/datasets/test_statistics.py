"""Statistics against NumPy on the same values, with and without no-data."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from datasets.config import DataConfig
from datasets.errors import InputError
from datasets.statistics import count_labels, masked_data, read_summary, statistics
from datasets.store import open_volume, write_volume
from datasets.volume import Volume


def make_volume(values: np.ndarray, space: list[str], valid: np.ndarray | None = None) -> Volume:
    dims = ("date", "band", "y", "x")
    ds = xr.Dataset({"data": (dims, values)})
    if valid is not None:
        ds["valid"] = (dims, valid)
    return Volume.of(ds.chunk({"date": 1, "band": 2, "y": 3, "x": 4}), DataConfig(source="test", space=space))


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).normal(1e4, 3, (2, 3, 7, 9)).astype(np.float32)


def test_every_channel_by_default(values: np.ndarray) -> None:
    valid = np.random.default_rng(1).random(values.shape) < 0.7
    values[0, 0, 0, 0] = np.nan
    values[1, 0, 0, 0] = np.inf
    measured = statistics(make_volume(values, ["y", "x"], valid))
    held = np.where(valid & np.isfinite(values), values, np.nan).astype(np.float64)
    assert measured.mean.shape == (6, 1, 1)
    assert measured.mean.dtype == measured.deviation.dtype == np.float32
    np.testing.assert_allclose(measured.mean.ravel(), np.nanmean(held, axis=(2, 3)).ravel(), rtol=1e-6)
    np.testing.assert_allclose(measured.deviation.ravel(), np.nanstd(held, axis=(2, 3)).ravel(), rtol=1e-6)


def test_kept_dimensions_share_all_others(values: np.ndarray) -> None:
    measured = statistics(make_volume(values, ["y", "x"]), keep=["band"])
    per_band = values.astype(np.float64).mean(axis=(0, 2, 3))
    np.testing.assert_allclose(measured.mean.ravel(), np.tile(per_band, 2), rtol=1e-6)


def test_a_kept_dimension_of_space_varies_along_it(values: np.ndarray) -> None:
    measured = statistics(make_volume(values, ["x", "y", "band"]), keep=["band"])
    assert measured.mean.shape == (2, 1, 1, 3)
    np.testing.assert_allclose(measured.mean[1, 0, 0], values.astype(np.float64).mean(axis=(0, 2, 3)), rtol=1e-6)
    shared = statistics(make_volume(values, ["x", "y", "band"]), keep=[])
    np.testing.assert_allclose(shared.mean, values.astype(np.float64).mean(), rtol=1e-6)


def test_constant_and_empty_channels_are_left_as_they_are(values: np.ndarray) -> None:
    values[0, 0] = 0.1
    values[0, 1] = np.nan
    measured = statistics(make_volume(values, ["y", "x"]))
    np.testing.assert_array_equal(measured.deviation[:2].ravel(), [1, 1])
    np.testing.assert_allclose(measured.mean[:2].ravel(), [0.1, 0])


def test_rounding_of_a_constant_is_no_deviation() -> None:
    values = np.full((1, 1, 50, 51), 1e6 / 3)
    measured = statistics(make_volume(values, ["y", "x"]))
    assert measured.deviation.item() == 1


def test_whole_numbers_do_not_overflow() -> None:
    measured = statistics(make_volume(np.full((1, 1, 50, 50), 65535, np.uint16), ["y", "x"]))
    assert measured.mean.item() == 65535


def test_nothing_to_measure_is_refused(values: np.ndarray) -> None:
    with pytest.raises(InputError, match="every cell is NaN or masked; check its no-data value"):
        statistics(make_volume(np.full_like(values, np.nan), ["y", "x"]))
    with pytest.raises(InputError, match=r"data.keep names \['depth'\], but the data have the dimensions \['date'"):
        statistics(make_volume(values, ["y", "x"]), keep=["depth"])


@pytest.mark.parametrize(
    ("space", "keep", "read"),
    [(["y", "x"], None, False), (["y", "x"], ["band"], False), (["y", "x"], [], False),
     (["x", "y", "band"], None, False), (["y", "x"], ["y", "band"], True)],
)  # fmt: skip
def test_what_is_stored_is_what_would_be_measured(
    values: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: list[str], keep: list[str], read: bool
) -> None:
    values[0, 1] = np.nan
    values[1, 2] = 5
    volume = make_volume(values, space, np.random.default_rng(3).random(values.shape) < 0.6)
    path = write_volume(volume.dataset, tmp_path / "v.zarr")
    measured = statistics(volume, keep)
    calls = []
    monkeypatch.setattr("datasets.statistics.masked_data", lambda ds: calls.append(ds) or masked_data(ds))
    stored = statistics(Volume.of(open_volume(path), DataConfig(space=space)), keep, read_summary(path))
    assert bool(calls) == read
    np.testing.assert_allclose(stored.mean, measured.mean, rtol=1e-6)
    np.testing.assert_allclose(stored.deviation, measured.deviation, rtol=1e-6)
    assert stored.mean.shape == measured.mean.shape


def test_statistics_of_another_version_are_not_read(values: np.ndarray, tmp_path: Path) -> None:
    path = write_volume(make_volume(values, ["y", "x"]).dataset, tmp_path / "v.zarr")
    assert read_summary(path) is not None
    zarr.open_group(path / "statistics").attrs["version"] = 99
    zarr.consolidate_metadata(path)
    assert read_summary(path) is None


def test_labels_are_counted_by_value() -> None:
    labels = xr.DataArray(np.random.default_rng(0).choice([0, 3, 255], (40, 50)).astype(np.uint8), dims=("y", "x"))
    for array in (labels, labels.chunk({"y": 7})):
        np.testing.assert_array_equal(count_labels(array), np.bincount(labels.values.ravel(), minlength=256))
