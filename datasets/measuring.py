"""What is measured of a volume while its pieces pass by: a sketch of every entry, and which columns never change.

E entries (such as bands), M cells of the map. Pieces may come in any order and be measured by several threads.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np
import xarray as xr

from datasets.dims import entry_dims, map_dims
from datasets.sketch import Sketch, from_arrays, is_exact, merge, sketch, to_arrays

_SAMPLE = 32  # cells along each dimension that the centre is taken from
_LARGEST_MAP = 2**24


@dataclass(frozen=True)
class Measuring:
    """How the pieces of a volume are measured.

    Attributes
    ----------
    sizes
        Dimension -> cells.
    dtype
        Type of the data.
    entries
        Dimensions whose entries are measured each by itself.
    centre
        Value of each entry that its histogram is finest around, float64 [E].
    """

    sizes: dict[str, int]
    dtype: np.dtype
    entries: list[str]
    centre: np.ndarray

    @classmethod
    def of(cls, data: xr.DataArray, centre: np.ndarray | None = None) -> "Measuring":
        """Plan the measuring of a volume; a small sample from its middle gives the centres, if not known."""
        entries = entry_dims(data.sizes)
        dtype = np.dtype(np.uint8) if data.dtype.kind == "b" else data.dtype
        plan = cls({str(dim): size for dim, size in data.sizes.items()}, dtype, entries, np.zeros(0))
        if is_exact(dtype) or centre is not None:
            return cls(plan.sizes, dtype, entries, np.zeros(plan.count) if centre is None else centre)
        middle = {
            dim: slice(max(0, size // 2 - _SAMPLE // 2), size // 2 + _SAMPLE // 2 + 1)
            for dim, size in plan.sizes.items()
            if dim not in entries
        }
        sample = data.isel(middle).transpose(*entries, ...).values.astype(np.float64).reshape(plan.count, -1)
        centres = [np.median(part[np.isfinite(part)]) if np.isfinite(part).any() else 0.0 for part in sample]
        return cls(plan.sizes, plan.dtype, entries, np.array(centres))

    @property
    def count(self) -> int:
        """Number of entries."""
        return math.prod(self.sizes[dim] for dim in self.entries)

    @property
    def columns(self) -> list[str]:
        """Dimensions of the map, if there is a column over each of its cells that can be judged."""
        over = map_dims(self.sizes)
        cells = math.prod(self.sizes[dim] for dim in over)
        deep = math.prod(self.sizes.values()) > cells
        return over if over and deep and cells <= _LARGEST_MAP else []

    def measure(
        self, values: np.ndarray, valid: np.ndarray | None, where: Mapping[str, slice]
    ) -> dict[str, np.ndarray]:
        """Measure one piece.

        Parameters
        ----------
        values, valid
            Data and mask of the piece, in stored order; no mask means that all cells hold data.
        where
            Dimension -> cells of the piece.

        Returns
        -------
        dict
            Arrays that can be stored and handed to `Gathered`.
        """
        dims = list(self.sizes)
        keep = valid
        if values.dtype.kind == "b":
            values = values.view(np.uint8)
        if values.dtype.kind == "f":
            finite = np.isfinite(values)
            keep = finite if valid is None else finite & valid
        order = [dims.index(dim) for dim in [*self.entries, *(dim for dim in dims if dim not in self.entries)]]
        held = np.arange(self.count).reshape([self.sizes[dim] for dim in self.entries])
        held = held[tuple(where[dim] for dim in self.entries)].ravel()
        parts = [np.empty(0, values.dtype)] * self.count
        kept = [np.empty(0, bool)] * self.count
        for row, entry in enumerate(held):
            parts[entry] = self._entry(values, order, row)
            if keep is not None:
                kept[entry] = self._entry(keep, order, row)
        arrays = to_arrays(sketch(parts, None if keep is None else kept, self.centre))
        if self.columns:
            arrays |= _columns(values, keep, tuple(axis for axis, dim in enumerate(dims) if dim not in self.columns))
        return arrays

    def _entry(self, array: np.ndarray, order: list[int], row: int) -> np.ndarray:
        moved = array.transpose(order)
        at = np.unravel_index(row, moved.shape[: len(self.entries)]) if self.entries else ()
        return moved[at].ravel()


def _columns(values: np.ndarray, keep: np.ndarray | None, axes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Smallest and largest value, and number of values, of every column of a piece."""
    kind = np.finfo(values.dtype) if values.dtype.kind == "f" else np.iinfo(values.dtype)
    where = True if keep is None else keep
    cells = np.broadcast_to(np.True_, values.shape) if keep is None else keep
    return {
        "column_low": values.min(axis=axes, where=where, initial=kind.max),
        "column_high": values.max(axis=axes, where=where, initial=kind.min),
        "column_cells": cells.sum(axis=axes, dtype=np.int32),
    }


@dataclass(frozen=True)
class Gathered:
    """What the pieces of a volume add up to.

    Attributes
    ----------
    sketch
        Of every entry.
    dead
        Columns of the map with two values or more, all equal: bool [M]; none where there are no columns.
    """

    sketch: Sketch
    dead: np.ndarray | None

    @classmethod
    def of(cls, plan: Measuring, pieces: Iterable[tuple[Mapping[str, slice], Mapping[str, np.ndarray]]]) -> "Gathered":
        """Add up pieces, each with its place; their order decides the last digits of the moments."""
        shape = tuple(plan.sizes[dim] for dim in plan.columns)
        low, high, cells = (np.zeros(shape, kind) for kind in (plan.dtype, plan.dtype, np.int32))
        seen = np.zeros(shape, bool)

        def add(whole: Sketch | None, piece: tuple[Mapping[str, slice], Mapping[str, np.ndarray]]) -> Sketch:
            where, arrays = piece
            if plan.columns:
                at = tuple(where[dim] for dim in plan.columns)
                low[at] = np.where(seen[at], np.minimum(low[at], arrays["column_low"]), arrays["column_low"])
                high[at] = np.where(seen[at], np.maximum(high[at], arrays["column_high"]), arrays["column_high"])
                cells[at] += arrays["column_cells"]
                seen[at] = True
            own = from_arrays(arrays)
            return own if whole is None else merge(whole, own)

        whole = reduce(add, pieces, None)
        if whole is None:
            raise ValueError("no piece was measured")
        return cls(whole, (cells > 1) & (low == high) if plan.columns else None)
