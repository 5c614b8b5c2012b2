"""Arrays that are read from a file where they are asked for, without mapping it: mapped pages count as our memory."""

import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from datasets.errors import InputError

Cut = tuple[slice, ...]
_WASTE = 2  # bytes read for each byte wanted, up to which one long read beats several short ones


class LazyArray(BackendArray):
    """An array behind `read_part`, which goes from slices with positive steps, one an axis, to the values there."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, read_part: Callable[[Cut], np.ndarray]) -> None:
        self.shape, self.dtype, self.read_part = shape, dtype, read_part

    def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self.read)

    def read(self, cut: tuple[int | slice, ...]) -> np.ndarray:
        """Read a part of which integers leave out their axes."""
        slices = tuple(part if isinstance(part, slice) else slice(part, part + 1 or None) for part in cut)
        return self.read_part(slices)[tuple(slice(None) if isinstance(part, slice) else 0 for part in cut)]

    def load(self) -> np.ndarray:
        """Read everything."""
        return self.read_part((slice(None),) * len(self.shape))

    def variable(self, dims: list[str]) -> xr.Variable:
        """Name the dimensions; still nothing is read."""
        return xr.Variable(dims, indexing.LazilyIndexedArray(self))


def plain_array(
    path: Path, dtype: np.dtype, shape: tuple[int, ...], *, offset: int = 0, strides: tuple[int, ...] | None = None
) -> LazyArray:
    """Open an array of numbers that lie in a file as they are, in its byte order; the result has the machine's.

    `offset` bytes lie before the first cell, `strides` from a cell to the next along each axis, in any order of size;
    without them the last axis runs fastest.
    """
    if strides is None:
        strides = tuple(math.prod(shape[axis + 1 :]) * dtype.itemsize for axis in range(len(shape)))
    return LazyArray(shape, dtype.newbyteorder("="), partial(_read_block, path, dtype, shape, strides, offset))


def _read_block(
    path: Path, dtype: np.dtype, shape: tuple[int, ...], strides: tuple[int, ...], offset: int, cut: Cut
) -> np.ndarray:
    """Read a block in runs, each over as many axes as are dense enough together."""
    order = sorted(range(len(shape)), key=lambda axis: -strides[axis])
    cells = [range(shape[axis])[cut[axis]] for axis in order]
    counts = [len(wanted) for wanted in cells]
    steps = [strides[axis] * wanted.step for axis, wanted in zip(order, cells, strict=True)]
    block = np.empty(counts, dtype.newbyteorder("="))
    if block.size:
        start = offset + sum(wanted.start * strides[axis] for axis, wanted in zip(order, cells, strict=True))
        alone = _axes_alone(counts, steps, dtype.itemsize)
        span = _span(counts[alone:], steps[alone:], dtype.itemsize)
        with path.open("rb", buffering=0) as file:
            for index in np.ndindex(*counts[:alone]):
                at = start + sum(i * step for i, step in zip(index, steps, strict=False))
                run = os.pread(file.fileno(), span, at)
                # One call gives 2 GiB at most.
                while len(run) < span and (more := os.pread(file.fileno(), span - len(run), at + len(run))):
                    run += more
                if len(run) < span:
                    raise InputError(f"{path} ends at byte {at + len(run):,}, within its values; get the whole file")
                block[index] = np.ndarray(counts[alone:], dtype, run, strides=steps[alone:])
    return np.ascontiguousarray(block.transpose(np.argsort(order)))


def _axes_alone(counts: list[int], steps: list[int], itemsize: int) -> int:
    """How many of the slowest axes are walked cell by cell, lest a run is mostly bytes that nobody wants."""
    for alone in range(len(counts) - 1):
        wanted = math.prod(counts[alone:]) * itemsize
        if _span(counts[alone:], steps[alone:], itemsize) <= _WASTE * wanted:
            return alone
    return max(0, len(counts) - 1)


def _span(counts: list[int], steps: list[int], itemsize: int) -> int:
    return sum((count - 1) * step for count, step in zip(counts, steps, strict=True)) + itemsize
