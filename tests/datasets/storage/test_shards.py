"""Planning of reads: every cell once, every byte wanted is fetched, and few in vain."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.storage.shards import chunks_within, coalesce, plan_region


@st.composite
def arrays_and_regions(draw: st.DrawFn) -> tuple[tuple, tuple, tuple, tuple]:
    dims = draw(st.integers(0, 3))
    shape = tuple(draw(st.integers(1, 12)) for _ in range(dims))
    chunk = tuple(draw(st.integers(1, 5)) for _ in range(dims))
    shard = tuple(edge * draw(st.integers(1, 3)) for edge in chunk)
    starts = [draw(st.integers(0, size)) for size in shape]
    region = tuple(slice(start, draw(st.integers(start, size))) for start, size in zip(starts, shape, strict=True))
    return region, shape, shard, chunk


@given(arrays_and_regions())
def test_every_cell_comes_from_its_own_chunk_and_only_once(case: tuple[tuple, tuple, tuple, tuple]) -> None:
    region, shape, shard, chunk = case
    array = np.arange(math.prod(shape)).reshape(shape)
    result = np.full([part.stop - part.start for part in region], -1)
    counts = [outer // inner for outer, inner in zip(shard, chunk, strict=True)]
    places = []
    for plan in plan_region(region, shape, shard, chunk):
        assert len(plan.pieces) <= chunks_within(plan.shard, shape, shard, chunk)
        for piece in plan.pieces:
            inside = np.unravel_index(piece.index, counts) if counts else ()
            corner = [at * n * edge + i * edge
                      for at, n, i, edge in zip(plan.shard, counts, inside, chunk, strict=True)]  # fmt: skip
            cells = array[tuple(slice(at, at + edge) for at, edge in zip(corner, chunk, strict=True))]
            assert (result[piece.out] == -1).all()
            result[piece.out] = cells[piece.chunk]
            assert piece.cells == cells[piece.chunk].size > 0
            places.append((plan.shard, piece.index))
    np.testing.assert_array_equal(result, array[region])
    assert len(set(places)) == len(places)


@given(arrays_and_regions())
def test_a_whole_array_needs_all_chunks_of_all_shards(case: tuple[tuple, tuple, tuple, tuple]) -> None:
    _, shape, shard, chunk = case
    plans = plan_region(tuple(slice(None) for _ in shape), shape, shard, chunk)
    assert sum(len(plan.pieces) for plan in plans) == math.prod(
        -(-size // edge) for size, edge in zip(shape, chunk, strict=True)
    )
    assert all(len(plan.pieces) == chunks_within(plan.shard, shape, shard, chunk) for plan in plans)


def test_what_cannot_be_planned_is_refused() -> None:
    with pytest.raises(ValueError, match=r"chunks \(3,\) do not divide shards \(4,\)"):
        plan_region((slice(0, 2),), (8,), (4,), (3,))
    with pytest.raises(ValueError, match="a region has no steps"):
        plan_region((slice(0, 8, 2),), (8,), (4,), (2,))


@st.composite
def byte_ranges(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Chunks of a shard in any order, with holes between them."""
    position, ranges = 0, []
    for _ in range(draw(st.integers(0, 20))):
        position += draw(st.sampled_from([0, 0, 1, 10, 500, 20_000]))
        length = draw(st.integers(0, 2000))
        ranges.append((position, position + length))
        position += length
    return draw(st.permutations(ranges))


@given(byte_ranges(), st.integers(0, 30_000), st.floats(0, 2), st.integers(1, 5000))
def test_requests_hold_what_is_wanted_and_little_else(
    ranges: list[tuple[int, int]], gap: int, slack: float, most: int
) -> None:
    spans = coalesce(ranges, gap=gap, slack=slack, most=most)
    members = sorted(member for span in spans for member in span.members)
    assert members == [index for index, (start, stop) in enumerate(ranges) if stop > start]
    for span in spans:
        for member in span.members:
            assert span.start <= ranges[member][0] < ranges[member][1] <= span.stop
        longest = max(ranges[member][1] - ranges[member][0] for member in span.members)
        assert span.stop - span.start <= max(most, longest)
    assert all(before.stop <= after.start for before, after in itertools.pairwise(spans))
    wanted = sum(stop - start for start, stop in ranges)
    assert sum(span.stop - span.start for span in spans) <= wanted * (1 + slack) + 1e-6


def test_small_gaps_are_closed_first_and_large_ones_never() -> None:
    ranges = [(0, 100), (110, 200), (230, 300), (5000, 5100)]
    spans = coalesce(ranges, gap=1000, slack=0.05, most=10_000)
    assert [(span.start, span.stop) for span in spans] == [(0, 200), (230, 300), (5000, 5100)]
    spans = coalesce(ranges, gap=1000, slack=100, most=10_000)
    assert [(span.start, span.stop) for span in spans] == [(0, 300), (5000, 5100)]


def test_neighbours_travel_in_requests_of_bounded_size() -> None:
    ranges = [(place, place + 100) for place in range(0, 1000, 100)]
    assert len(coalesce(ranges, gap=0, slack=0, most=10_000)) == 1
    assert [span.stop - span.start for span in coalesce(ranges, gap=0, slack=0, most=350)] == [300, 300, 300, 100]
