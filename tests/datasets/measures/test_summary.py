"""What is stored beside a volume, against NumPy on the whole of it, however it was cut into pieces."""

import json

import numpy as np
import pytest
import xarray as xr

from datasets.measures.measuring import Gathered, Measuring
from datasets.measures.summary import BINS, SHARES, summarise


def summary_of(data: xr.DataArray, valid: np.ndarray | None = None, edge: int = 3) -> xr.Dataset:
    """Summarise from pieces of `edge` cells, the last ones first."""
    plan = Measuring.of(data)
    counts = [range(0, size, edge) for size in data.shape]
    found = []
    for corner in np.ndindex(*(len(starts) for starts in counts)):
        cuts = [slice(at * edge, min((at + 1) * edge, size)) for at, size in zip(corner, data.shape, strict=True)]
        where = dict(zip(map(str, data.dims), cuts, strict=True))
        mask = None if valid is None else valid[tuple(cuts)]
        found.append((where, plan.measure(data.values[tuple(cuts)], mask, where)))
    return summarise(plan, Gathered.of(plan, found[::-1]))


def test_every_band_by_itself_and_all_together() -> None:
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(4, 8, 10)) * [[[1]], [[10]], [[100]], [[1]]]).astype(np.float32)
    valid = rng.random(values.shape) < 0.7
    values[2, 0, :3] = np.nan
    valid[3] = False
    measured = summary_of(xr.DataArray(values, dims=("band", "y", "x")), valid)
    held = np.where(valid & np.isfinite(values), values, np.nan).astype(np.float64)
    assert measured["mean"].dims == ("band",)
    np.testing.assert_array_equal(measured["count"], np.isfinite(held).sum(axis=(1, 2)))
    for name, way in (("mean", np.nanmean), ("deviation", np.nanstd), ("minimum", np.nanmin), ("maximum", np.nanmax)):
        np.testing.assert_allclose(measured[name][:3], way(held[:3], axis=(1, 2)), rtol=1e-9)
    assert np.isnan(measured["percentiles"][3]).all()
    for band in range(3):
        cells = held[band][np.isfinite(held[band])]
        np.testing.assert_allclose(
            measured["percentiles"][band], np.percentile(cells, SHARES, method="lower"), rtol=0.004, atol=1e-2
        )
        assert measured["histogram"][band].sum() == cells.size
    whole = json.loads(measured.attrs["overall"])
    cells = held[np.isfinite(held)]
    assert whole["count"] == sum(whole["histogram"]) == cells.size
    assert whole["mean"] == pytest.approx(cells.mean())
    assert whole["deviation"] == pytest.approx(cells.std())
    assert (whole["minimum"], whole["maximum"]) == (cells.min(), cells.max())
    assert len(whole["edges"]) == BINS + 1


def test_a_seismic_cube_has_one_entry_and_its_dead_traces_are_found() -> None:
    values = np.random.default_rng(1).integers(-99, 99, (7, 8, 9)).astype(np.int16)
    values[2, 3] = 0
    values[5, 5] = 7
    values[6, 7] = 0
    valid = np.ones(values.shape, bool)
    valid[6, 7] = False
    measured = summary_of(xr.DataArray(values, dims=("inline", "crossline", "twt")), valid)
    assert measured["mean"].dims == ()
    assert measured["dead"].dims == ("inline", "crossline")
    assert np.argwhere(measured["dead"].values).tolist() == [[2, 3], [5, 5]]


def test_the_order_of_pieces_does_not_matter_to_what_is_counted() -> None:
    data = xr.DataArray(np.random.default_rng(2).normal(size=(9, 9)).astype(np.float32), dims=("y", "x"))
    xr.testing.assert_equal(
        summary_of(data, edge=2)[["count", "minimum", "at_minimum", "percentiles"]],
        summary_of(data, edge=9)[["count", "minimum", "at_minimum", "percentiles"]],
    )
    assert "dead" not in summary_of(data)


def test_many_dates_are_not_told_apart() -> None:
    data = xr.DataArray(np.zeros((40, 30, 2), np.uint8), dims=("date", "band", "x"))
    assert summary_of(data, edge=40)["mean"].dims == ("band",)
