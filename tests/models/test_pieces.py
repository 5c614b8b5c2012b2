"""Pieces cover a state exactly once, in order, and stay small."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.pieces import LEAST_ROWS, PIECE_BYTES, cut_cells, cut_grid

SIZES = st.lists(st.integers(1, 300), min_size=1, max_size=3)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(batch=st.integers(1, 20), sizes=SIZES, cell_bytes=st.integers(1, 40_000))
def test_pieces_of_a_grid_cover_every_row_once_and_in_order(batch: int, sizes: list[int], cell_bytes: int) -> None:
    found = cut_grid(batch, sizes, cell_bytes)
    rows = [
        (sample, row) for samples, span in found for sample in range(batch)[samples] for row in range(sizes[0])[span]
    ]
    assert rows == [(sample, row) for sample in range(batch) for row in range(sizes[0])]
    row_bytes = math.prod(sizes[1:]) * cell_bytes
    for samples, span in found:
        members, height = len(range(batch)[samples]), len(range(sizes[0])[span])
        assert members > 0
        assert height > 0
        assert members == 1 or height == sizes[0]  # contiguous in memory
        # A piece may be larger only where its rows are: fewer would be read mostly for their halo.
        assert members * height * row_bytes <= PIECE_BYTES["cpu"] + row_bytes or height < 2 * LEAST_ROWS


@settings(max_examples=100, deadline=None, derandomize=True)
@given(cells=st.integers(1, 100_000), cell_bytes=st.integers(1, 5_000_000), weight_bytes=st.integers(0, 50_000_000))
def test_pieces_of_a_list_of_cells_cover_every_cell_once(cells: int, cell_bytes: int, weight_bytes: int) -> None:
    found = cut_cells(cells, cell_bytes, weight_bytes)
    assert [found[0].start, *(piece.stop for piece in found)] == [piece.start for piece in found] + [cells]
    assert all(piece.stop > piece.start for piece in found)
    assert (
        max(piece.stop - piece.start for piece in found) * cell_bytes
        <= max(PIECE_BYTES["cpu"], weight_bytes // 2) + cell_bytes
    )


@pytest.mark.parametrize(
    ("batch", "sizes", "cell_bytes", "pieces"), [(3, [8, 8], 4, 1), (2, [64, 64], 2048, 8), (5, [16, 64], 1024, 3)]
)
def test_small_samples_are_joined_and_large_ones_are_cut(
    batch: int, sizes: list[int], cell_bytes: int, pieces: int
) -> None:
    assert len(cut_grid(batch, sizes, cell_bytes)) == pieces
