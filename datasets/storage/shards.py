"""Which stored bytes a region of a chunked or sharded array needs: pure planning.

A *shard* is one stored object, a *chunk* the smallest piece that can be decoded; without sharding they are the same.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Cells = tuple[slice, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """What a region takes from one chunk."""

    index: int  # position of the chunk within its shard, last dimension fastest
    chunk: Cells  # cells within the chunk
    out: Cells  # the same cells within the region

    @property
    def cells(self) -> int:
        """Number of cells."""
        return math.prod(part.stop - part.start for part in self.out)


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """What a region takes from the chunks of the shard at a position of the array's grid, in the order of indices."""

    shard: tuple[int, ...]
    pieces: list[Piece]


@dataclass(frozen=True, slots=True)
class Span:
    """One request: bytes `start` up to `stop` of an object, and which of the wanted ranges lie in it."""

    start: int
    stop: int
    members: list[int]


def plan_region(region: Cells, shape: Sequence[int], shard: Sequence[int], chunk: Sequence[int]) -> list[ShardPlan]:
    """Find the chunks that a region needs, shard by shard: every cell of it in exactly one piece.

    The region has no steps, and what of it lies outside the array is left out. Chunks divide shards, of which the last
    may reach beyond the array.
    """
    if any(outer % inner for outer, inner in zip(shard, chunk, strict=True)):
        raise ValueError(f"chunks {tuple(chunk)} do not divide shards {tuple(shard)}")
    counts = [outer // inner for outer, inner in zip(shard, chunk, strict=True)]
    strides = [math.prod(counts[axis + 1 :]) for axis in range(len(counts))]
    axes = [_plan_axis(*axis) for axis in zip(region, shape, chunk, counts, strides, strict=True)]
    plans = []
    for shards in itertools.product(*axes):
        pieces = [
            Piece(sum(one[0] for one in ones), tuple(one[1] for one in ones), tuple(one[2] for one in ones))
            for ones in itertools.product(*(axis[place] for axis, place in zip(axes, shards, strict=True)))
        ]
        plans.append(ShardPlan(shards, pieces))
    return plans


def _plan_axis(part: slice, size: int, edge: int, count: int, stride: int) -> dict[int, list[tuple[int, slice, slice]]]:
    """Cut one axis: shard -> its chunks as (share of the index, cells in the chunk, cells in the region)."""
    start, stop, step = part.indices(size)
    if step != 1:
        raise ValueError(f"a region has no steps: {part}")
    found: dict[int, list[tuple[int, slice, slice]]] = {}
    for number in range(start // edge, -(-stop // edge) if stop > start else 0):
        first, last = max(start, number * edge), min(stop, (number + 1) * edge)
        inside = slice(first - number * edge, last - number * edge)
        found.setdefault(number // count, []).append(
            (number % count * stride, inside, slice(first - start, last - start))
        )
    return found


def chunks_within(place: Sequence[int], shape: Sequence[int], shard: Sequence[int], chunk: Sequence[int]) -> int:
    """Count the chunks of the shard at `place` that hold cells of the array."""
    return math.prod(
        -(-min(outer, size - at * outer) // inner)
        for at, size, outer, inner in zip(place, shape, shard, chunk, strict=True)
    )


def coalesce(ranges: Sequence[tuple[int, int]], *, gap: int, slack: float, most: int) -> list[Span]:
    """Merge byte ranges of one object into few requests, in order and apart but for ranges that overlap.

    Ranges are a first byte and the byte after the last; empty ones are left out. Gaps of up to `gap` bytes are closed,
    the smallest first, up to the share `slack` of the wanted bytes in all: that bounds the read amplification whatever
    the order of the chunks. No request grows above `most` bytes, so that large reads travel over several connections.
    """
    order = sorted((index for index, (start, stop) in enumerate(ranges) if stop > start), key=lambda i: ranges[i])
    runs = _group(ranges, order, lambda last, start, _: start <= last.stop)  # without gaps
    budget = slack * sum(run.stop - run.start for run in runs)
    holes = sorted((after.start - before.stop, place) for place, (before, after) in enumerate(itertools.pairwise(runs)))
    closed = set()
    for hole, place in holes:
        if hole > min(gap, budget):
            break
        budget -= hole
        closed.add(place)
    spans: list[Span] = []
    for place, run in enumerate(runs):
        if place - 1 in closed and run.stop - spans[-1].start <= most:
            last = spans[-1]
            spans[-1] = Span(last.start, run.stop, last.members + run.members)
        else:
            spans += _group(ranges, run.members, lambda last, _, stop: stop <= last.stop or stop - last.start <= most)
    return spans


def _group(
    ranges: Sequence[tuple[int, int]], order: Sequence[int], joins: Callable[[Span, int, int], bool]
) -> list[Span]:
    spans: list[Span] = []
    for index in order:
        start, stop = ranges[index]
        if spans and joins(spans[-1], start, stop):
            last = spans[-1]
            last.members.append(index)
            spans[-1] = Span(last.start, max(stop, last.stop), last.members)
        else:
            spans.append(Span(start, stop, [index]))
    return spans
