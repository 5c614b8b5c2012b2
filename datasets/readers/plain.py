"""Blocks of arrays that lie plain in a file, read without mapping it: mapped pages would count as memory of ours."""

import math
import os
from functools import partial
from pathlib import Path

import numpy as np

from datasets.errors import InputError
from datasets.readers.lazy import Cut, LazyArray

_WASTE = 2  # bytes read for each byte wanted, up to which one long read beats several short ones


def plain_array(
    path: Path, dtype: np.dtype, shape: tuple[int, ...], *, offset: int = 0, strides: tuple[int, ...] | None = None
) -> LazyArray:
    """Open an array of numbers that lie in a file as they are.

    Parameters
    ----------
    path, dtype
        File, and type of a cell there in its byte order; the result has the machine's.
    shape
        Cells along each axis.
    offset
        Bytes before the first cell.
    strides
        Bytes from a cell to the next along each axis, in any order of size. Default: the last axis runs fastest.
    """
    if strides is None:
        strides = tuple(math.prod(shape[axis + 1 :]) * dtype.itemsize for axis in range(len(shape)))
    return LazyArray(shape, dtype.newbyteorder("="), partial(_read_block, path, dtype, shape, strides, offset))


def _read_block(
    path: Path, dtype: np.dtype, shape: tuple[int, ...], strides: tuple[int, ...], offset: int, cut: Cut
) -> np.ndarray:
    """Read a block in runs, each from the first to the last byte of as many axes as are dense enough together."""
    order = sorted(range(len(shape)), key=lambda axis: -strides[axis])
    cells = [np.atleast_1d(np.arange(shape[axis])[cut[axis]]) for axis in order]
    counts = [len(wanted) for wanted in cells]
    steps = [strides[axis] * int(w[1] - w[0] if len(w) > 1 else 1) for axis, w in zip(order, cells, strict=True)]
    block = np.empty(counts, dtype.newbyteorder("="))
    if block.size:
        start = offset + sum(int(wanted[0]) * strides[axis] for axis, wanted in zip(order, cells, strict=True))
        alone = _axes_alone(counts, steps, dtype.itemsize)
        span = _span(counts[alone:], steps[alone:], dtype.itemsize)
        with path.open("rb", buffering=0) as file:
            for index in np.ndindex(*counts[:alone]):
                at = start + sum(i * step for i, step in zip(index, steps, strict=False))
                run = os.pread(file.fileno(), span, at)
                if len(run) < span:
                    raise InputError(f"{path} ends at byte {at + len(run):,}, within its values; get the whole file")
                block[index] = np.ndarray(counts[alone:], dtype, run, strides=steps[alone:])
    back = block.transpose(np.argsort(order))
    return np.ascontiguousarray(back)[tuple(0 if isinstance(part, int | np.integer) else slice(None) for part in cut)]


def _axes_alone(counts: list[int], steps: list[int], itemsize: int) -> int:
    """How many of the slowest axes are walked cell by cell, so that no run is mostly bytes that nobody wants."""
    for alone in range(len(counts)):
        wanted = math.prod(counts[alone:]) * itemsize
        if _span(counts[alone:], steps[alone:], itemsize) <= _WASTE * wanted:
            return alone
    return max(0, len(counts) - 1)


def _span(counts: list[int], steps: list[int], itemsize: int) -> int:
    return sum((count - 1) * step for count, step in zip(counts, steps, strict=True)) + itemsize
