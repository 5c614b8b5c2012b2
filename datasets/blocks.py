"""How a volume is cut into blocks, and a block shown under its views: pure planning on sizes, no input or output.

A sample is a block (slices along the space axes) amid its halo, under a view (flips and a swap of the horizontal axes).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from datasets.errors import InputError


def tile(shape: Sequence[int], block: Sequence[int] | None) -> list[tuple[slice, ...]]:
    """Blocks of one size that cover every cell; where they do not divide the volume, the last is moved inwards.

    Parameters
    ----------
    shape
        Sizes of the volume along its space axes, in cells.
    block
        Sizes of a block, in cells; none means the whole volume in one block.

    Raises
    ------
    InputError
        If the block has another number of axes than the volume, is empty, or is larger than the volume.
    """
    if block is None:
        return [tuple(slice(0, size) for size in shape)]
    if len(block) != len(shape) or any(not 0 < edge <= size for edge, size in zip(block, shape, strict=True)):
        raise InputError(
            f"data.block is {list(block)}, but the volume has {list(shape)} cells; "
            "give one size from 1 to the volume's along each axis, or none for the whole volume"
        )
    starts = [[*range(0, size - edge, edge), size - edge] for size, edge in zip(shape, block, strict=True)]
    return [
        tuple(slice(start, start + edge) for start, edge in zip(corner, block, strict=True))
        for corner in product(*starts)
    ]


@dataclass(frozen=True)
class Window:
    """A block with the cells around it that the network sees.

    Attributes
    ----------
    block
        Cells of the volume on which a loss is taken.
    seen
        Cells of the volume that are read: the block and its halo.
    core
        The block within `seen`.
    """

    block: tuple[slice, ...]
    seen: tuple[slice, ...]
    core: tuple[slice, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Cells of `seen` along each axis."""
        return tuple(part.stop - part.start for part in self.seen)


def plan_windows(
    shape: Sequence[int], block: Sequence[int] | None, halo: Sequence[int] | None, factor: int
) -> list[Window]:
    """Cover a volume with blocks, each amid its halo, on the network's output grid.

    All windows have one size. At an edge of the volume a window is moved inwards, so that the cells which the halo
    lacks outside are seen on the opposite side: nothing is made up, and the edge is as sharp as where the whole volume
    is seen at once. Along an axis shorter than block and halo the whole axis is seen.

    Parameters
    ----------
    shape
        Sizes of the volume along its space axes, in cells.
    block
        Sizes of a block, in cells; none means the whole volume in one block.
    halo
        Cells around a block, on either side, along each axis; none means none.
    factor
        The network's output grid, and so the labels, is coarser by this.

    Raises
    ------
    InputError
        Where block or halo do not fit the volume or the output grid.
    """
    reach = [0] * len(shape) if halo is None else list(halo)
    if len(reach) != len(shape) or any(cells < 0 or cells % factor for cells in reach):
        raise InputError(
            f"data.halo is {reach}; give {len(shape)} numbers of cells, 0 or more"
            + (f", multiples of {factor} as the network's output grid needs" if factor > 1 else "")
        )
    windows = []
    for cells in tile(shape, block):
        if any(part.start % factor for part in cells):
            raise InputError(
                f"data.block {list(block or shape)} puts a block at {[part.start for part in cells]}, which is not on "
                f"the network's output grid; take sizes that are multiples of {factor} and divide the volume "
                f"{list(shape)}"
            )
        seen = tuple(map(_widen, cells, reach, shape))
        core = tuple(
            slice(inner.start - outer.start, inner.stop - outer.start) for inner, outer in zip(cells, seen, strict=True)
        )
        windows.append(Window(cells, seen, core))
    return windows


def _widen(part: slice, reach: int, size: int) -> slice:
    edge = min(part.stop - part.start + 2 * reach, size)
    start = min(max(part.start - reach, 0), size - edge)
    return slice(start, start + edge)


def view_count(sizes: Sequence[int]) -> int:
    """Count the views that keep the shape: 2 for one horizontal axis, 4 for two, 8 for two of equal size, 1 for none.

    Parameters
    ----------
    sizes
        Sizes of a block along its horizontal axes, in cells.
    """
    flips: int = 2 ** len(sizes)
    return flips * 2 if len(sizes) == 2 and sizes[0] == sizes[1] else flips


def apply_view(array: Any, view: int, axes: Sequence[int]) -> Any:
    """Show an array under a view: bit i of `view` flips ``axes[i]``, the bit after the last swaps the two axes.

    Parameters
    ----------
    array
        NumPy array or torch tensor.
    view
        Number of the view, below ``view_count`` of the sizes along `axes`.
    axes
        Horizontal axes of this array. Count them from the end where arrays of one sample differ in leading axes.

    Returns
    -------
    array
        Same kind and dtype, laid out contiguously where it is a NumPy array.
    """
    array = _flip(array, view, axes)
    return _contiguous(array.swapaxes(axes[0], axes[1]) if view >> len(axes) else array)


def undo_view(array: Any, view: int, axes: Sequence[int]) -> Any:
    """Bring an array shown under a view back: ``undo_view(apply_view(a, v, axes), v, axes)`` equals a."""
    array = array.swapaxes(axes[0], axes[1]) if view >> len(axes) else array
    return _contiguous(_flip(array, view, axes))


def _flip(array: Any, view: int, axes: Sequence[int]) -> Any:
    flipped = tuple(axis for bit, axis in enumerate(axes) if view >> bit & 1)
    if not flipped:
        return array
    return np.flip(array, flipped) if isinstance(array, np.ndarray) else array.flip(flipped)


def _contiguous(array: Any) -> Any:
    """Torch refuses NumPy arrays with negative strides."""
    return np.ascontiguousarray(array) if isinstance(array, np.ndarray) else array
