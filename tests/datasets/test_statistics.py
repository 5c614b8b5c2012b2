"""Statistics against NumPy on the same values, with and without no-data."""

import numpy as np
import pytest
import xarray as xr

from datasets.config import DataConfig
from datasets.errors import InputError
from datasets.statistics import statistics
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
    assert measured.valid_share == pytest.approx(np.isfinite(held).mean())


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
