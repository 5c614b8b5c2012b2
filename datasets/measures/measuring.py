"""What is measured of a volume while its pieces pass by: a sketch of every entry, and which columns never change.

Several threads may measure them. Shapes: E entries (such as bands), M cells of the map.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from datasets.dims import NOT_HORIZONTAL, entry_dims
from datasets.measures.sketch import Sketch, from_arrays, is_exact, merge, sketch, to_arrays

_SAMPLE = 32  # cells along each dimension that the centre is taken from
_LARGEST_MAP = 2**24


@dataclass(frozen=True)
class Measuring:
    """How the pieces of a volume are measured."""

    sizes: dict[str, int]  # dimension -> cells
    dtype: np.dtype
    entries: list[str]  # dimensions whose entries are measured one by one
    centre: np.ndarray  # that the histogram of each is finest around, float64 [E]

    @classmethod
    def of(cls, data: xr.DataArray, centre: np.ndarray | None = None) -> "Measuring":
        """Plan the measuring of a volume; a sample from its middle gives the centres, if not known."""
        sizes, entries = {str(dim): size for dim, size in data.sizes.items()}, entry_dims(data.sizes)
        dtype = np.dtype(np.uint8) if data.dtype.kind == "b" else data.dtype
        count = math.prod(sizes[dim] for dim in entries)
        if centre is None and is_exact(dtype):
            centre = np.zeros(count)
        elif centre is None:
            middles = {dim: size // 2 for dim, size in sizes.items() if dim not in entries}
            cut = {dim: slice(max(0, at - _SAMPLE // 2), at + _SAMPLE // 2 + 1) for dim, at in middles.items()}
            sample = data.isel(cut).transpose(*entries, ...).values.astype(np.float64).reshape(count, -1)
            finite = [part[np.isfinite(part)] for part in sample]
            centre = np.array([np.median(part) if part.size else 0.0 for part in finite])
        return cls(sizes, dtype, entries, centre)

    @property
    def count(self) -> int:
        """Number of entries."""
        return self.centre.size

    @property
    def columns(self) -> list[str]:
        """Dimensions of the map, if its cells have columns that can be judged."""
        over = [dim for dim in self.sizes if dim not in NOT_HORIZONTAL]
        cells = math.prod(self.sizes[dim] for dim in over)
        return over if over and math.prod(self.sizes.values()) > cells <= _LARGEST_MAP else []

    def measure(
        self, values: np.ndarray, valid: np.ndarray | None, where: Mapping[str, slice]
    ) -> dict[str, np.ndarray]:
        """Measure a piece of data and mask, if any, in stored order, at the cells `where`: arrays for `Gathered`."""
        if values.dtype.kind == "b":
            values = values.view(np.uint8)
        if values.dtype.kind == "f":
            finite = np.isfinite(values)
            valid = finite if valid is None else finite & valid
        axes = [list(self.sizes).index(dim) for dim in self.entries]
        number = np.arange(self.count).reshape([self.sizes[dim] for dim in self.entries])
        held = number[tuple(where[dim] for dim in self.entries)]

        def by_entry(cells: np.ndarray) -> list[np.ndarray]:
            parts = [np.empty(0, cells.dtype)] * self.count
            for at, entry in np.ndenumerate(held):
                parts[entry] = np.moveaxis(cells, axes, range(len(axes)))[at].ravel()
            return parts

        arrays = to_arrays(sketch(by_entry(values), None if valid is None else by_entry(valid), self.centre))
        if columns := self.columns:
            arrays |= _columns(values, valid, tuple(at for at, dim in enumerate(self.sizes) if dim not in columns))
        return arrays


def _limits(dtype: np.dtype) -> np.finfo | np.iinfo:
    return np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)


def _columns(values: np.ndarray, keep: np.ndarray | None, axes: tuple[int, ...]) -> dict[str, np.ndarray]:
    limits = _limits(values.dtype)
    where = True if keep is None else keep
    return {
        "column_low": values.min(axis=axes, where=where, initial=limits.max),
        "column_high": values.max(axis=axes, where=where, initial=limits.min),
        "column_cells": np.broadcast_to(where, values.shape).sum(axis=axes, dtype=np.int32),
    }


@dataclass(frozen=True)
class Gathered:
    """What the pieces of a volume add up to."""

    sketch: Sketch  # of every entry
    dead: np.ndarray | None  # columns of the map with two values or more, all equal, bool [M]; None without columns

    @classmethod
    def of(cls, plan: Measuring, pieces: Iterable[tuple[Mapping[str, slice], Mapping[str, np.ndarray]]]) -> "Gathered":
        """Add up pieces, each with its place; their order decides the last digits of the moments."""
        shape = tuple(plan.sizes[dim] for dim in plan.columns)
        limits = _limits(plan.dtype)
        low, high = (np.full(shape, limit, plan.dtype) for limit in (limits.max, limits.min))
        cells = np.zeros(shape, np.int32)
        whole: Sketch | None = None
        for where, arrays in pieces:
            if plan.columns:
                at = tuple(where[dim] for dim in plan.columns)
                low[at] = np.minimum(low[at], arrays["column_low"])
                high[at] = np.maximum(high[at], arrays["column_high"])
                cells[at] += arrays["column_cells"]
            own = from_arrays(arrays)
            whole = own if whole is None else merge(whole, own)
        if whole is None:
            raise ValueError("no piece was measured")
        return cls(whole, (cells > 1) & (low == high) if plan.columns else None)
