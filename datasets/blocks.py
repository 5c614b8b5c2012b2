"""Which block and which view a training step sees: pure planning on sizes and seeds, no input or output.

A sample is a block (slices along the space axes) under a view (flips and a swap of the horizontal axes).
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from datasets.errors import InputError

_ORDER, _VIEWS = 0, 1  # streams of random numbers, so that the order of blocks and their views are independent


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


def plan_step(step: int, *, seed: int, batch: int, blocks: int, views: int) -> list[tuple[int, int]]:
    """Block and view of every sample in the global batch of one step.

    Every block comes once an epoch, in a fresh order; epochs follow each other within batches. A block's views come
    in a seeded order too: in ``views`` epochs it is seen once under each. The plan depends on nothing but the
    arguments, so a resumed run, or one with another number of workers (worker r of w takes ``plan[r::w]``), goes on
    with the same samples.

    Parameters
    ----------
    step
        Number of the step, from 0.
    seed
        Seed of order and views, 0 or more.
    batch
        Samples a step over all workers.
    blocks, views
        Number of blocks, and of views of a block; with one view it is always 0.

    Returns
    -------
    list
        ``batch`` pairs (block, view).
    """
    plan: list[tuple[int, int]] = []
    while len(plan) < batch:
        epoch, position = divmod(step * batch + len(plan), blocks)
        order = np.random.default_rng([seed, _ORDER, epoch]).permutation(blocks)
        for block in order[position : position + batch - len(plan)]:
            plan.append((int(block), _view(int(block), epoch, seed=seed, views=views)))
    return plan


def _view(block: int, epoch: int, *, seed: int, views: int) -> int:
    """View of a block in an epoch: a seeded permutation of the views, drawn anew every ``views`` epochs."""
    cycle, position = divmod(epoch, views)
    return int(np.random.default_rng([seed, _VIEWS, cycle, block]).permutation(views)[position])


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
