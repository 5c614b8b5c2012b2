"""Chunks and shards from the block size, and the cost of reading, against counting chunk by chunk."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.samples.blocks import tile
from datasets.storage import layout
from datasets.storage.layout import plan_chunks, read_cost

EDGES = st.sampled_from([8, 16, 24, 32, 40, 48, 64, 96, 100, 128])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(EDGES, st.integers(1, 20)), min_size=1, max_size=3), st.sampled_from([1, 2, 4]))
def test_aligned_blocks_are_read_without_waste(dims: list[tuple[int, int]], itemsize: int) -> None:
    sizes = {f"d{axis}": edge * count for axis, (edge, count) in enumerate(dims)}
    block = {f"d{axis}": edge for axis, (edge, _) in enumerate(dims)}
    chunks, shards = plan_chunks(sizes, itemsize, block=block)
    assert all(block[dim] % chunks[dim] == 0 for dim in sizes)
    assert math.prod(chunks.values()) * itemsize <= 2**20
    cost = read_cost(tile(list(sizes.values()), list(block.values())), list(sizes.values()), list(chunks.values()))
    assert cost.fetched == cost.used
    if shards is not None:
        assert math.prod(shards.values()) * itemsize <= layout.SHARD_BYTES
        assert all(shards[dim] % block[dim] == 0 for dim in sizes)


def test_other_dimensions_are_whole_and_chunks_that_are_asked_for_stay() -> None:
    chunks, shards = plan_chunks({"band": 200, "y": 4000, "x": 4000}, 2, {"band": 50}, {"y": 64, "x": 64})
    assert chunks["band"] == 50
    assert shards is not None
    assert shards["y"] % 64 == shards["x"] % 64 == 0
    chunks, _ = plan_chunks({"band": 10, "y": 4000, "x": 4000}, 2, None, {"y": 64, "x": 64})
    assert chunks == {"band": 10, "y": 64, "x": 64}


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_the_cost_is_what_counting_finds(data: st.DataObject) -> None:
    sizes = [data.draw(st.integers(1, 20)) for _ in range(2)]
    chunks, block = ([data.draw(st.integers(1, size)) for size in sizes] for _ in range(2))
    shards = [edge * data.draw(st.integers(1, 3)) for edge in chunks]
    blocks = tile(sizes, block)
    cost = read_cost(blocks, sizes, chunks, shards)
    fetched = objects = 0
    for cut in blocks:
        cells = np.zeros(sizes, bool)
        cells[cut] = True
        grid = [range(0, size, edge) for size, edge in zip(sizes, chunks, strict=True)]
        pieces = [cells[i : i + chunks[0], j : j + chunks[1]] for i in grid[0] for j in grid[1]]
        fetched += sum(piece.size for piece in pieces if piece.any())
        rows, columns = np.nonzero(cells)
        objects += len(set(zip(rows // shards[0], columns // shards[1], strict=True)))
    assert (cost.fetched, cost.objects) == (fetched, pytest.approx(objects / len(blocks)))
    assert cost.used == len(blocks) * math.prod(block)
