"""What a layer sees beyond the edge of the volume: zeros, the reflected volume, or its other end.

Padding P copies cells outwards; its transpose P^T, here `fold`, adds what lies outside back onto the cells it came
from, so that K^T stays the transpose of K.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.config import Boundary


def source_cells(size: int, reach: int, boundary: Boundary, device: torch.device) -> Tensor:
    """Return, for each cell of an axis padded by `reach`, the cell that it is a copy of."""
    cells = torch.arange(-reach, size + reach, device=device)
    return _modulo(cells, size) if boundary == "periodic" else reflected(cells, size)


def reflected(cells: Tensor, size: int) -> Tensor:
    """Turn cells beyond an axis back into it, from both ends as often as need be, without repeating the edge cell."""
    turned = _modulo(cells, max(2 * size - 2, 1))
    return torch.minimum(turned, 2 * size - 2 - turned)


def _modulo(cells: Tensor, period: int) -> Tensor:
    # By a tensor, because ONNX has no remainder by a size that is known only when the program runs.
    return cells.remainder(torch.full((1,), period, device=cells.device))


def pad(x: Tensor, axes: Sequence[int], reach: int, boundary: Boundary) -> Tensor:
    """Pad the axes of a tensor by `reach` cells at both ends."""
    for axis in axes:
        x = x.index_select(axis, source_cells(x.shape[axis], reach, boundary, x.device))
    return x


def fold(y: Tensor, axes: Sequence[int], reach: int, boundary: Boundary) -> Tensor:
    """Add the outer `reach` cells of the axes onto the cells that `pad` copied them from, and drop them."""
    for axis in axes:
        size = y.shape[axis] - 2 * reach
        cells = source_cells(size, reach, boundary, y.device)
        inner = y.narrow(axis, reach, size).clone(memory_format=torch.preserve_format)
        for row in range(reach):  # one by one: a GPU adds two to one cell in any order
            for start in (row, reach + size + row):
                inner.index_add_(axis, cells[start : start + 1], y.narrow(axis, start, 1))
        y = inner
    return y
