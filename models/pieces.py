"""How a state is cut into pieces that stay in the cache while they are worked on. Pure planning, no tensors.

A piece bounds every temporary of a layer (the converted state, the force) and never changes between the forward and the
backward pass: equal shapes are what makes a kernel return equal bits.
"""

import itertools
import math
from collections.abc import Sequence

PIECE_BYTES = 2 * 2**20  # larger temporaries go back to the system, and every fresh page costs its time
LEAST_ROWS = 8  # a piece is read with its halo: fewer rows would read much of the state twice


def cut_grid(batch: int, sizes: Sequence[int], cell_bytes: int) -> list[tuple[slice, slice]]:
    """Cut a state [batch, *sizes] along its batch and its first axis of space.

    Parameters
    ----------
    batch
        Samples.
    sizes
        Cells along each axis of space.
    cell_bytes
        Bytes of all channels of one cell.

    Returns
    -------
    list of (slice, slice)
        Samples and rows of each piece: several whole samples, or some rows of one; each is contiguous in memory.
    """
    row_bytes = math.prod(sizes[1:]) * cell_bytes
    rows = sizes[0]
    if row_bytes * rows <= PIECE_BYTES:
        samples = max(1, PIECE_BYTES // max(row_bytes * rows, 1))
        return [(slice(at, min(at + samples, batch)), slice(0, rows)) for at in range(0, batch, samples)]
    pieces = max(1, min(math.ceil(row_bytes * rows / PIECE_BYTES), rows // LEAST_ROWS))
    bounds = [round(piece * rows / pieces) for piece in range(pieces + 1)]
    spans = [slice(start, stop) for start, stop in itertools.pairwise(bounds)]
    return [(slice(at, at + 1), span) for at in range(batch) for span in spans]


def cut_cells(cells: int, cell_bytes: int, weight_bytes: int = 0) -> list[slice]:
    """Cut a state seen as a list of cells, whose neighbourhood does not matter, into even pieces.

    Parameters
    ----------
    cells
        Cells of all samples.
    cell_bytes
        Bytes of all channels of one cell.
    weight_bytes
        Bytes of a matrix that every piece is multiplied by: a piece is at least half as large, or reading the matrix
        again and again would take longer than the products.
    """
    pieces = max(1, min(cells, math.ceil(cells * cell_bytes / max(PIECE_BYTES, weight_bytes // 2))))
    bounds = [round(piece * cells / pieces) for piece in range(pieces + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds)]
