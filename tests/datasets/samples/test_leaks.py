"""A leak report measures what brute force measures, proves a sound split and finds a planted leak."""

import json
from itertools import product

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.config import SplitConfig
from datasets.samples.leaks import measure_leaks
from datasets.samples.parts import TEST, TRAIN, UNUSED, VALIDATION, split_blocks, split_points, split_wells

quick = settings(max_examples=40, deadline=None, derandomize=True)
NAMES = {TRAIN: "train", VALIDATION: "validation", TEST: "test"}


def split_of(parts: np.ndarray, **coordinates: xr.DataArray) -> xr.DataArray:
    return xr.DataArray(parts, coordinates, [*"zyx"][-parts.ndim :])


@st.composite
def maps(draw):
    shape = draw(st.lists(st.integers(1, 7), min_size=1, max_size=3))
    cells = draw(
        st.lists(st.sampled_from([0, 0, 0, 1, 2, 3]), min_size=int(np.prod(shape)), max_size=int(np.prod(shape)))
    )
    return np.array(cells, np.uint8).reshape(shape)


@quick
@given(maps(), st.integers(0, 3))
def test_distances_and_violations_are_those_of_brute_force(parts, buffer):
    steps = [10.0, 4.0, 25.0][: parts.ndim]
    dims = [*"zyx"][-parts.ndim :]
    coordinates = {
        dim: xr.DataArray(100 - step * np.arange(size), dims=dim, attrs={"units": "m"})
        for dim, step, size in zip(dims, steps, parts.shape, strict=True)
    }
    report = measure_leaks(split_of(parts, **coordinates), buffer)
    metric = all(size > 1 for size in parts.shape)  # one cell has no step
    assert report.spacing == tuple(step if size > 1 else None for step, size in zip(steps, parts.shape, strict=True))
    found = {code: [np.array(cell) for cell in np.argwhere(parts == code)] for code in NAMES}
    pairs = [(a, b) for a, b in product(NAMES, NAMES) if a < b and found[a] and found[b]]
    assert [gap.parts for gap in report.gaps] == [(NAMES[a], NAMES[b]) for a, b in pairs]
    for gap, (a, b) in zip(report.gaps, pairs, strict=True):
        apart = [[np.abs(one - other) for one in found[a]] for other in found[b]]
        nearest = [min(int(d.max()) for d in row) for row in apart]
        assert gap.counts == (len(found[a]), len(found[b]))
        assert gap.distance == min(nearest)
        assert gap.euclidean == pytest.approx(min(np.sqrt((d**2).sum()) for row in apart for d in row))
        if metric:
            assert gap.metres == pytest.approx(min(np.sqrt(((d * steps) ** 2).sum()) for row in apart for d in row))
        else:
            assert gap.metres is None
        assert gap.histogram == np.bincount(nearest).tolist()
        assert gap.violations == sum(d <= buffer for d in nearest)
        one, other = map(np.array, gap.nearest)
        assert (parts[tuple(one)], parts[tuple(other)]) == (a, b)
        assert np.abs(one - other).max() == gap.distance
        for axis, dim in enumerate(dims):
            lines = [int(d[axis]) for row in apart for d in row if d.sum() == d[axis]]
            assert gap.along[dim] == min(lines, default=None)
        if gap.violations:
            first = next(cell for cell, d in zip(found[b], nearest, strict=True) if d <= buffer)
            origin, cell = gap.first_violation
            assert np.array_equal(cell, first)
            assert parts[origin] == a
            assert np.abs(np.array(origin) - first).max() <= buffer
        else:
            assert gap.first_violation is None
    assert report.violations == sum(gap.violations for gap in report.gaps)
    json.dumps(report.to_json())


@quick
@given(
    shape=st.tuples(st.integers(12, 30), st.integers(12, 30)),
    seed=st.integers(0, 99),
    buffer=st.integers(0, 4),
    method=st.sampled_from(["blocks", "wells", "points"]),
)
def test_what_the_splitters_make_never_leaks_and_one_planted_cell_always_does(shape, seed, buffer, method):
    draw = np.random.default_rng(seed)
    labels = np.where(draw.random(shape) < 0.6, draw.integers(0, 3, shape), -1)
    counts = np.stack([labels == k for k in range(3)]).astype(np.int64)
    config = SplitConfig(block=5, buffer=buffer, seed=seed, radius=2, validation_wells=1, points=3, validation_points=2)
    if method == "blocks":
        parts = split_blocks(counts, config)
    elif method == "points":
        parts = split_points(counts, config)
    else:
        parts = split_wells(counts, counts.any(0), draw.integers(0, 12, (4, 2)), config)
    report = measure_leaks(split_of(parts), buffer)
    assert report.violations == 0
    assert report.statement().startswith("no leak")
    if buffer and (parts == TRAIN).any():
        spot = tuple(draw.permutation(np.argwhere(parts == TRAIN))[0])
        neighbours = [
            (spot[0] + dy, spot[1] + dx)
            for dy, dx in product((-1, 0, 1), repeat=2)
            if (dy or dx) and 0 <= spot[0] + dy < shape[0] and 0 <= spot[1] + dx < shape[1]
        ]
        planted = parts.copy()
        planted[neighbours[0]] = TEST
        if (planted == TRAIN).any():
            assert measure_leaks(split_of(planted), buffer).focus.parts == ("train", "test")
            assert measure_leaks(split_of(planted), buffer).violations >= 1


def test_a_planted_leak_is_named_by_its_cells_and_coordinates():
    parts = np.zeros((20, 30), np.uint8)
    parts[2:6, 2:6], parts[2:6, 9:20] = TRAIN, TEST
    y = xr.DataArray(1000.0 - 10 * np.arange(20), dims="y", attrs={"units": "m"})
    sound = split_of(parts, y=y)
    assert measure_leaks(sound, 2).statement() == (
        "no leak: every test cell is more than 2 cells from every train cell; the smallest distance is 4 cells"
    )
    parts[7, 7] = TEST
    report = measure_leaks(split_of(parts, y=y), 2)
    assert report.statement() == (
        "LEAK: 1 of 45 test cells lies within the buffer of 2 cells around a train cell; "
        "the first is at y 7 (930 m), x 7, near the train cell at y 5 (950 m), x 5"
    )
    plain = report.to_json()
    assert (plain["proven"], plain["violations"]) == (False, 1)
    (gap,) = plain["gaps"]
    assert gap["first_violation"] == ((5, 5), (7, 7))
    assert gap["first_violation_places"] == ["y 5 (950 m), x 5", "y 7 (930 m), x 7"]


def test_metres_come_from_the_stated_spacing_of_line_numbers_and_never_from_degrees():
    parts = np.array([[TRAIN, UNUSED, UNUSED, TEST]] * 2, np.uint8)
    lines = {"spacing": 25.0, "spacing_units": "m", "units": "1"}
    y = xr.DataArray([100, 102], dims="y", attrs=lines)
    near = split_of(parts, y=y, x=xr.DataArray([0.0, 0.1, 0.2, 0.3], dims="x", attrs={"units": "km"}))
    (gap,) = measure_leaks(near, 2).gaps
    assert (gap.distance, gap.metres) == (3, pytest.approx(300))
    for strange in ({"units": "degree"}, {"units": "1"}, {}):
        far = split_of(parts, y=y, x=xr.DataArray([0.0, 0.1, 0.2, 0.3], dims="x", attrs=strange))
        assert measure_leaks(far, 2).gaps[0].metres is None
    uneven = split_of(parts, y=y, x=xr.DataArray([0.0, 1.0, 2.0, 9.0], dims="x", attrs={"units": "m"}))
    assert measure_leaks(uneven, 2).gaps[0].metres is None


def test_a_split_of_one_part_has_nothing_to_leak():
    report = measure_leaks(split_of(np.full((3, 3), TRAIN, np.uint8)), 2)
    assert report.gaps == ()
    assert report.statement() == "no leak: the split has cells of one part only"
