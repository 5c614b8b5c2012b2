"""How a volume is cut into blocks, and a block shown under its views: pure planning on sizes.

A sample is a block amid its halo, under a view: flips and a swap of the horizontal axes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from datasets.errors import InputError


def tile(shape: Sequence[int], block: Sequence[int] | None) -> list[tuple[slice, ...]]:
    """Blocks of one size, none meaning the volume's, that cover every cell; the last may be moved inwards.

    `InputError` where the block has other axes than the volume, is empty, or is larger.
    """
    block = shape if block is None else block
    if len(block) != len(shape) or any(not 0 < edge <= size for edge, size in zip(block, shape, strict=True)):
        raise InputError(
            f"data.block is {list(block)}, but the volume has {list(shape)} cells; "
            "give one size from 1 to the volume's along each axis, or none for the whole volume"
        )
    axes = [
        [slice(start, start + edge) for start in (*range(0, size - edge, edge), size - edge)]
        for size, edge in zip(shape, block, strict=True)
    ]
    return list(product(*axes))


@dataclass(frozen=True)
class Window:
    """A block with the cells around it that the network sees."""

    block: tuple[slice, ...]  # cells of the volume on which a loss is taken
    seen: tuple[slice, ...]  # cells of the volume that are read: these and the halo

    @property
    def core(self) -> tuple[slice, ...]:
        """The block within `seen`."""
        pairs = zip(self.block, self.seen, strict=True)
        return tuple(slice(inner.start - outer.start, inner.stop - outer.start) for inner, outer in pairs)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Cells of `seen` along each axis."""
        return tuple(part.stop - part.start for part in self.seen)

    def part(self, cells: Sequence[slice]) -> "Window":
        """Return some cells, given within `seen`, with what the block has of them."""
        block, seen = [], []
        for inner, outer, part in zip(self.block, self.seen, cells, strict=True):
            low, high = outer.start + part.start, outer.start + part.stop
            block.append(slice(*np.clip([inner.start, inner.stop], low, high).tolist()))
            seen.append(slice(low, high))
        return Window(tuple(block), tuple(seen))


def plan_windows(
    shape: Sequence[int], block: Sequence[int] | None, halo: Sequence[int] | None, factor: int
) -> list[Window]:
    """Cover a volume with blocks as `tile` does, each amid so many cells on either side along each axis.

    All windows have one size. At an edge of the volume a window is moved inwards: nothing is made up, and the edge is
    as sharp as where the whole volume is seen at once. An axis shorter than block and halo is seen whole. `InputError`
    where block or halo do not fit the volume, or the network's output grid, which is coarser by `factor`.
    """
    reach = [0] * len(shape) if halo is None else list(halo)
    if len(reach) != len(shape) or any(cells < 0 or cells % factor for cells in reach):
        raise InputError(
            f"data.halo is {reach}; give {len(shape)} numbers of cells, 0 or more"
            + (f", multiples of {factor} as the network's output grid needs" if factor > 1 else "")
        )
    windows, sizes = [], seen_sizes(shape, block, reach)
    for cells in tile(shape, block):
        if any(part.start % factor for part in cells):
            raise InputError(
                f"data.block {list(block or shape)} puts a block at {[part.start for part in cells]}, which is not on "
                f"the network's output grid; take sizes that are multiples of {factor} and divide the volume "
                f"{list(shape)}"
            )
        axes = zip(cells, reach, shape, sizes, strict=True)
        starts = [min(max(part.start - around, 0), size - edge) for part, around, size, edge in axes]
        seen = (slice(start, start + edge) for start, edge in zip(starts, sizes, strict=True))
        windows.append(Window(cells, tuple(seen)))
    return windows


def plan_map(shape: Sequence[int], block: Sequence[int], halo: Sequence[int], multiple: int) -> list[Window]:
    """Cover a volume with blocks that a network maps one after the other, each amid its halo.

    What is seen starts on a cell of the network's coarsest grid, of `multiple` cells of the volume, so that a cell amid
    all that the network reaches gets the very value that it has in the whole volume. For that blocks are rounded down,
    and to the volume, and halos up. At an edge a block sees the edge itself. `InputError` where block or halo have
    other axes than the volume, the halo is negative, or the block is empty.
    """
    if {len(block), len(halo)} != {len(shape)} or min(block) < 1 or min(halo) < 0:
        raise InputError(
            f"block is {list(block)} and halo is {list(halo)}, but the volume has {list(shape)} cells; give a block of "
            "1 cell or more and a halo of 0 or more along each axis"
        )
    inner, outer = [], []
    for size, edge, around in zip(shape, block, halo, strict=True):
        edge = size if edge >= size else max(edge // multiple, 1) * multiple
        around = -(-around // multiple) * multiple
        inner.append([slice(start, min(start + edge, size)) for start in range(0, size, edge)])
        outer.append([slice(max(part.start - around, 0), min(part.stop + around, size)) for part in inner[-1]])
    return [Window(*place) for place in zip(product(*inner), product(*outer), strict=True)]


def seen_sizes(shape: Sequence[int], block: Sequence[int] | None, halo: Sequence[int] | None) -> tuple[int, ...]:
    """Cells of a training block and its halo along each axis."""
    axes = zip(block or shape, halo or [0] * len(shape), shape, strict=True)
    return tuple(min(edge + 2 * cells, size) for edge, cells, size in axes)


def view_count(sizes: Sequence[int]) -> int:
    """Count the views that keep a block's shape: 1, 2 or 4 for 0, 1 or 2 horizontal axes, 8 for two of one size."""
    return 2 ** len(sizes) * (2 if len(sizes) == 2 and sizes[0] == sizes[1] else 1)


def apply_view(array: np.ndarray, view: int, axes: Sequence[int]) -> np.ndarray:
    """Show an array under a view: bit i of it flips the horizontal ``axes[i]``, the bit after the last swaps the two.

    The result is contiguous, as torch refuses negative strides.
    """
    array = np.flip(array, tuple(axis for bit, axis in enumerate(axes) if view >> bit & 1))
    return np.ascontiguousarray(array.swapaxes(*axes) if view >> len(axes) else array)


def behind_view(rows: slice, sizes: Sequence[int], view: int, axes: Sequence[int]) -> tuple[slice, ...]:
    """Return the cells of a block of `sizes` that a view shows as these rows of its first axis."""
    cells, axis = [slice(0, size) for size in sizes], 0
    if 0 in axes:
        place = axes.index(0)
        place = 1 - place if view >> len(axes) else place
        axis = axes[place]
        if view >> place & 1:
            rows = slice(sizes[axis] - rows.stop, sizes[axis] - rows.start)
    cells[axis] = rows
    return tuple(cells)
