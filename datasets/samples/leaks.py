"""How far apart the parts of a split lie: proof that no label leaks from one into another, or the cells where one does.

`datasets.samples.parts` dilates masks. Its outcome is measured by other means, distance transforms, on the very codes
by which training and scoring read labels. Where a cell stands for a column, labels are no nearer than their columns.

M cells along the dimensions of the map.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import xarray as xr
from scipy.ndimage import distance_transform_cdt, distance_transform_edt

from datasets.samples.parts import PART_NAMES, TEST, TRAIN, VALIDATION

_METRES = {"m": 1.0, "metre": 1.0, "metres": 1.0, "meter": 1.0, "meters": 1.0, "km": 1e3, "ft": 0.3048, "feet": 0.3048}
Cell = tuple[int, ...]


@dataclass(frozen=True)
class Gap:
    """How far one part of a split is from another: Chebyshev distances in cells; one cell less lies between."""

    parts: tuple[str, str]
    counts: tuple[int, int]  # cells of each part on the map
    distance: int  # the smallest between cells of the two
    nearest: tuple[Cell, Cell]  # at that distance; of several pairs one on a line along an axis, near the map's middle
    euclidean: float  # smallest straight distance between the centres of two cells, in cells
    metres: float | None  # the same, where all steps are known
    along: dict[str, int | None]  # smallest on a line along each dimension; none where no line meets both parts
    histogram: list[int]  # cells of the second part at the distance 0, 1, 2, ... from the first part
    violations: int  # cells of the second part within the buffer of the first
    first_violation: tuple[Cell, Cell] | None  # the first such, after the nearest cell of the first part


@dataclass(frozen=True)
class LeakReport:
    """The distances between all parts of a split."""

    split: xr.DataArray  # part codes over the map
    buffer: int  # cells of two parts must be farther apart than this (Chebyshev)
    spacing: tuple[float | None, ...]  # metres from cell to cell along each dimension, where known
    gaps: tuple[Gap, ...]  # one for each two parts that have cells

    @property
    def dims(self) -> tuple[str, ...]:
        """Dimensions of the map."""
        return tuple(map(str, self.split.dims))

    @property
    def violations(self) -> int:
        """Cells that lie within the buffer of another part, over all pairs of parts."""
        return sum(gap.violations for gap in self.gaps)

    @property
    def focus(self) -> Gap | None:
        """The gap that says most: between training and test, unless only others leak; none where no two parts are."""
        shown = [gap for gap in self.gaps if gap.violations] or self.gaps
        return min(shown, key=lambda gap: gap.parts != ("train", "test"), default=None)

    def place(self, cell: Cell) -> str:
        """Name a cell by its number and, where the map has coordinates, by these."""
        return ", ".join(f"{dim} {at}{_known(self.split, dim, at)}" for dim, at in zip(self.dims, cell, strict=True))

    def statement(self) -> str:
        """Say in one line what was found."""
        if (gap := self.focus) is None:
            return "no leak: the split has cells of one part only"
        first, second = gap.parts
        if gap.first_violation is not None:
            origin, cell = map(self.place, gap.first_violation)
            lie = "lies" if gap.violations == 1 else "lie"
            return (
                f"LEAK: {gap.violations:,} of {gap.counts[1]:,} {second} cells {lie} within the buffer of "
                f"{_cells(self.buffer)} around a {first} cell; the first is at {cell}, "
                f"near the {first} cell at {origin}"
            )
        metres = "" if gap.metres is None else f", {gap.metres:,.4g} m"
        return (
            f"no leak: every {second} cell is more than {_cells(self.buffer)} from every {first} cell; "
            f"the smallest distance is {_cells(gap.distance)}{metres}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain lists, numbers and texts, with the places of the cells in words."""
        gaps = [asdict(gap) | {"nearest_places": [*map(self.place, gap.nearest)]} for gap in self.gaps]
        for gap, plain in zip(self.gaps, gaps, strict=True):
            if gap.first_violation is not None:
                plain["first_violation_places"] = [*map(self.place, gap.first_violation)]
        return {
            "statement": self.statement(),
            "proven": self.violations == 0,
            "violations": self.violations,
            "buffer": self.buffer,
            "dims": list(self.dims),
            "spacing_m": list(self.spacing),
            "gaps": gaps,
        }


def measure_leaks(split: xr.DataArray, buffer: int) -> LeakReport:
    """Measure how far apart the parts of a split are, which must be more than `buffer` cells."""
    spacing = tuple(_spacing(split, str(dim)) for dim in split.dims)
    present = [code for code in (TRAIN, VALIDATION, TEST) if code in split.values]
    gaps = tuple(_measure(split, pair, buffer, spacing) for pair in combinations(present, 2))
    return LeakReport(split, buffer, spacing, gaps)


def chebyshev(parts_M: np.ndarray, code: int) -> np.ndarray:
    """Chebyshev distance of every cell to the nearest cell of a part, in cells: int32 [*M]."""
    return distance_transform_cdt(parts_M != code, metric="chessboard")


def _measure(split: xr.DataArray, codes: tuple[int, int], buffer: int, spacing: Sequence[float | None]) -> Gap:
    from_M, to_M = split.values == codes[0], split.values == codes[1]
    cells_TD = np.argwhere(to_M)  # in the order of the map, so that the first violation is the first on the map
    distance_M, origin_DM = distance_transform_cdt(~from_M, metric="chessboard", return_indices=True)
    straight_M, straight_origin_DM = distance_transform_edt(~from_M, return_indices=True)
    distance_T, straight_T = distance_M[to_M], straight_M[to_M]

    def pair(index: int) -> tuple[Cell, Cell]:
        cell = tuple(cells_TD[index].tolist())
        origins_DM = straight_origin_DM if straight_T[index] == distance_T[index] else origin_DM
        return tuple(origins_DM[(slice(None), *cell)].tolist()), cell

    inside_T = distance_T <= buffer
    off_centre_T = np.abs(cells_TD - np.array(split.shape) / 2).max(axis=1)
    metres = None
    if None not in spacing:
        square = len(set(spacing)) == 1  # which saves a transform
        metres_T = straight_T * spacing[0] if square else distance_transform_edt(~from_M, sampling=spacing)[to_M]
        metres = float(metres_T.min())
    return Gap(
        parts=(PART_NAMES[codes[0]], PART_NAMES[codes[1]]),
        counts=(int(from_M.sum()), len(cells_TD)),
        distance=int(distance_T.min()),
        nearest=pair(int(np.lexsort((off_centre_T, straight_T, distance_T))[0])),
        euclidean=float(straight_T.min()),
        metres=metres,
        along={str(dim): _along(from_M, to_M, axis) for axis, dim in enumerate(split.dims)},
        histogram=np.bincount(distance_T).tolist(),
        violations=int(inside_T.sum()),
        first_violation=pair(int(inside_T.argmax())) if inside_T.any() else None,
    )


def _along(from_M: np.ndarray, to_M: np.ndarray, axis: int) -> int | None:
    size = smallest = from_M.shape[axis]
    number_M = np.arange(size).reshape([-1 if other == axis else 1 for other in range(from_M.ndim)])
    for mask_M, other_M in ((from_M, to_M), (to_M, from_M)):
        last_M = np.maximum.accumulate(np.where(mask_M, number_M, -size), axis=axis)  # the nearest one before
        smallest = min(smallest, int((number_M - last_M)[other_M].min()))
    return smallest if smallest < size else None


def _spacing(split: xr.DataArray, dim: str) -> float | None:
    """Metres from cell to cell: stated with a coordinate of line numbers, or the coordinate's own."""
    if dim not in split.coords:
        return None
    coordinate, attrs = split[dim], split[dim].attrs
    unit = _METRES.get(str(attrs.get("spacing_units" if "spacing" in attrs else "units", "")))
    if unit is not None and "spacing" in attrs:
        return unit * float(attrs["spacing"])
    if unit is None or coordinate.size < 2 or coordinate.dtype.kind not in "iuf":
        return None
    steps = np.diff(coordinate.values.astype(np.float64))
    if not np.allclose(steps, steps.mean(), rtol=1e-3) or steps.mean() == 0:
        return None  # an irregular axis has no one distance from cell to cell
    return float(abs(steps.mean())) * unit


def _cells(count: int) -> str:
    return f"{count} cell{'s' if count != 1 else ''}"


def _known(split: xr.DataArray, dim: str, number: int) -> str:
    if dim not in split.coords:
        return ""
    value, unit = split[dim].values[number], str(split[dim].attrs.get("units", ""))
    if value.dtype.kind not in "iuf":
        return f" ({value})"
    return f" ({value:.10g})" if unit in ("", "1") else f" ({value:.10g} {unit})"
