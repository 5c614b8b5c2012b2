"""Sketches against NumPy on the same values, whole and merged from parts."""

import tracemalloc
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from datasets.measures.sketch import ERROR, Sketch, distribution, from_arrays, merge, percentiles, sketch, to_arrays

SHARES = (0, 1, 25, 50, 75, 99, 100)


def one(values: np.ndarray, centre: float = 0.0, keep: np.ndarray | None = None) -> Sketch:
    return sketch([values], None if keep is None else [keep], np.array([centre]))


def at_ranks(values: np.ndarray) -> np.ndarray:
    """Percentiles as the value of the cell at the rank, without interpolation."""
    return np.percentile(values, SHARES, method="lower")


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(["int8", "uint8", "int16", "uint16"]).flatmap(lambda kind: arrays(kind, st.integers(1, 300))),
    st.integers(0, 300),
)
def test_small_whole_numbers_are_exact(values: np.ndarray, cut: int) -> None:
    parts = [part for part in (values[:cut], values[cut:]) if part.size]
    merged = reduce(merge, [one(part) for part in parts])
    np.testing.assert_array_equal(percentiles(*distribution(merged, 0, values.dtype, 0), SHARES), at_ranks(values))
    assert merged.count[0] == values.size
    assert (merged.low[0], merged.high[0]) == (values.min(), values.max())
    assert merged.at_low[0] == (values == values.min()).sum()
    assert merged.at_high[0] == (values == values.max()).sum()
    np.testing.assert_allclose(merged.mean[0], values.mean(dtype=np.float64), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(merged.deviation[0], values.std(dtype=np.float64), rtol=1e-9, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(
    arrays(np.float32, st.integers(1, 300), elements=st.floats(-1e6, 1e6, width=32)),
    st.sampled_from([0.0, 55_000.0, -3.5]),
    st.integers(0, 300),
)
def test_percentiles_of_floats_keep_the_promised_error(values: np.ndarray, centre: float, cut: int) -> None:
    parts = [part for part in (values[:cut], values[cut:]) if part.size]
    merged, whole = reduce(merge, [one(part, centre) for part in parts]), one(values, centre)
    np.testing.assert_array_equal(merged.keys, whole.keys)
    np.testing.assert_array_equal(merged.counts, whole.counts)
    found, true = percentiles(*distribution(merged, 0, values.dtype, centre), SHARES), at_ranks(values)
    assert (np.abs(found - true) <= ERROR * np.abs(true - centre) * 1.01 + 1e-30).all()


@settings(max_examples=30, deadline=None)
@given(arrays(np.float32, st.integers(1, 100), elements=st.floats(-1e6, 1e6, width=32)), st.integers(1, 30))
def test_values_that_are_measured_some_at_a_time(values: np.ndarray, cells: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.measures.sketch._CELLS", cells)
        measured = one(values)
    whole = one(values)
    for name in ("count", "low", "high", "at_low", "at_high", "keys", "counts"):
        np.testing.assert_array_equal(getattr(measured, name), getattr(whole, name))
    np.testing.assert_allclose(measured.mean, whole.mean, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(measured.squares, whole.squares, rtol=1e-9, atol=1e-3)


def test_what_does_not_count() -> None:
    values = np.array([1, np.nan, 3, np.inf, -9999], np.float32)
    measured = one(values, keep=np.array([True, True, True, True, False]))
    assert (measured.count[0], measured.low[0], measured.high[0], measured.mean[0]) == (2, 1, 3, 2)
    empty = one(np.full(3, np.nan, np.float32))
    assert empty.count[0] == 0
    assert np.isnan(percentiles(*distribution(empty, 0, np.dtype(np.float32), 0), SHARES)).all()
    assert merge(empty, measured).mean[0] == 2


def test_a_large_offset_costs_no_precision_around_its_centre() -> None:
    values = np.random.default_rng(0).normal(55_000, 50, 20_000).astype(np.float32)
    found = percentiles(*distribution(one(values, 55_000), 0, values.dtype, 55_000), SHARES)
    np.testing.assert_allclose(found, at_ranks(values), atol=1)
    assert one(values, 55_000).deviation[0] == pytest.approx(values.std(dtype=np.float64), rel=1e-9)


def test_many_entries_need_no_more_memory_than_their_bins_that_hold_cells() -> None:
    values = list(np.random.default_rng(0).normal(size=(256, 64)).astype(np.float32))
    tracemalloc.start()
    try:
        whole = sketch(values, None, np.zeros(256))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * 2**20  # two arrays of all bins are 1 MiB; one for each entry would be 128
    for entry in (0, 100, 255):
        own, cells = distribution(whole, entry, np.dtype(np.float32), 0)
        alone = distribution(one(values[entry]), 0, np.dtype(np.float32), 0)
        np.testing.assert_array_equal([own, cells], alone)


def test_a_sketch_survives_being_stored() -> None:
    measured = one(np.arange(9, dtype=np.int32))
    again = from_arrays(to_arrays(measured))
    for name in Sketch.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(again, name), getattr(measured, name))
