"""How a state is cut into pieces that stay in the cache while they are worked on. Pure planning, no tensors.

A piece bounds every temporary of a layer (the converted state, the force) and is the same in both passes: equal shapes
make a kernel return equal bits.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence

PIECE_BYTES = defaultdict(lambda: 32 * 2**20, cpu=2 * 2**20)
"""On a CPU larger temporaries go back to the system, and each fresh page costs time; on a GPU each launch does."""
LEAST_ROWS = 8  # a piece is read with its halo: fewer rows would read much of the state twice


def cut_grid(batch: int, sizes: Sequence[int], cell_bytes: int, device: str = "cpu") -> list[tuple[slice, slice]]:
    """Cut a state [batch, *sizes], of `cell_bytes` bytes a cell, along its batch and its first axis of space.

    Returns samples and rows of each piece: several whole samples, or some rows of one, contiguous in memory.
    """
    joined, cuts = _shares(sizes, cell_bytes, device)
    samples = [slice(at, min(at + joined, batch)) for at in range(0, batch, joined)]
    return list(itertools.product(samples, _spans(sizes[0], cuts)))


def rows_of_piece(batch: int, sizes: Sequence[int], cell_bytes: int, device: str = "cpu") -> int:
    """Return the cells of the largest piece that `cut_grid` makes."""
    joined, cuts = _shares(sizes, cell_bytes, device)
    return min(batch, joined) * math.ceil(sizes[0] / cuts) * math.prod(sizes[1:])


def _shares(sizes: Sequence[int], cell_bytes: int, device: str) -> tuple[int, int]:
    """Return how many samples are joined in a piece, and into how many pieces a sample is cut; one of them is 1."""
    sample_bytes, most = math.prod(sizes) * cell_bytes, PIECE_BYTES[device]
    if sample_bytes <= most:
        return max(1, most // max(sample_bytes, 1)), 1
    return 1, max(1, min(math.ceil(sample_bytes / most), sizes[0] // LEAST_ROWS))


def _spans(length: int, pieces: int) -> list[slice]:
    bounds = [round(piece * length / pieces) for piece in range(pieces + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds)]


def cut_cells(cells: int, cell_bytes: int, weight_bytes: int = 0, device: str = "cpu") -> list[slice]:
    """Cut a state seen as a list of cells, of `cell_bytes` bytes each, into even pieces.

    Where every piece is multiplied by a matrix of `weight_bytes`, it is at least half as large, lest reading the matrix
    takes longer than the products.
    """
    return _spans(cells, _cell_pieces(cells, cell_bytes, weight_bytes, device))


def cells_of_piece(cells: int, cell_bytes: int, weight_bytes: int = 0, device: str = "cpu") -> int:
    """Return the cells of the largest piece that `cut_cells` makes."""
    return math.ceil(cells / _cell_pieces(cells, cell_bytes, weight_bytes, device))


def _cell_pieces(cells: int, cell_bytes: int, weight_bytes: int, device: str) -> int:
    return max(1, min(cells, math.ceil(cells * cell_bytes / max(PIECE_BYTES[device], weight_bytes // 2))))
