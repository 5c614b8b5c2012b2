"""Grids on other cells or in another coordinate system, brought to given cells window by window, by GDAL's warp.

Shapes: B bands, R rows and C columns.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.io import MemoryFile
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform, transform_bounds

from datasets.lazy_array import Cut, LazyArray
from datasets.maps.map_grid import MapGrid

# GDAL would guess for each window how wide bilinear reaches; fixed, a cell has one value in whatever window.
_SAME_EVERYWHERE = {"XSCALE": "1", "YSCALE": "1"}
_EXACT = 1e-6  # cells by which a position may be off; GDAL's virtual warp cannot do with 0
_NO_SYSTEM = CRS.from_epsg(3857)  # on both sides, where positions are of one system that nobody knows
_LATTICE = 21  # points along each side of a window that show where it is in the source
_MARGIN = 3  # cells read around what these show
_MOST_CELLS = 2**22  # of the source, read for one window
Window = tuple[range, range]


@dataclass(frozen=True)
class Raster:
    """Bands on a grid, unread: its cells and coordinate system, and their number.

    `read` takes ranges of bands, rows and columns to the values [B, R, C] there, floats with NaN for no data.
    """

    grid: MapGrid
    bands: int
    read: Callable[[range, range, range], np.ndarray]


def onto_grid(source: Raster, target: MapGrid, method: str, dtype: np.dtype) -> LazyArray:
    """Resample all bands lazily; cells that the source does not cover, and its no data, are NaN.

    No data of one band leaves the others as they are, and a cell next to it takes what there is of its neighbours.
    Both or neither have a coordinate system. The method is ``nearest``, ``bilinear`` (of the nearest four) or
    ``average`` (of all cells within a target cell), the type of the result float32 or float64.
    """
    shape = (source.bands, *target.shape)
    return LazyArray(shape, dtype, partial(_read, source, target, Resampling[method], dtype))


def overlap(source: MapGrid, target: MapGrid) -> tuple[tuple[float, ...], tuple[float, ...], bool]:
    """Bounds (west, south, east, north) of both, in the target's coordinate system, and whether they overlap."""
    bounds = _bounds(target)
    moved = tuple(transform_bounds(*_systems(source, target), *_bounds(source)))
    apart = moved[2] <= bounds[0] or moved[0] >= bounds[2] or moved[3] <= bounds[1] or moved[1] >= bounds[3]
    return moved, bounds, not apart


def _bounds(grid: MapGrid) -> tuple[float, float, float, float]:
    rows, columns = grid.shape
    x, y = zip(*(grid.transform() @ corner for corner in product((0, columns), (0, rows))), strict=True)
    return min(x), min(y), max(x), max(y)


def _systems(source: MapGrid, target: MapGrid) -> tuple[CRS, CRS]:
    if source.crs is None or target.crs is None:
        return _NO_SYSTEM, _NO_SYSTEM
    far = CRS.from_wkt(target.crs.to_wkt())
    return (far if source.same_system(target) else CRS.from_wkt(source.crs.to_wkt())), far


def _read(source: Raster, target: MapGrid, how: Resampling, dtype: np.dtype, cut: Cut) -> np.ndarray:
    shape = (source.bands, *target.shape)
    bands, rows, columns = (range(size)[part] for part, size in zip(cut, shape, strict=True))
    if not (bands and rows and columns):
        return np.zeros((len(bands), len(rows), len(columns)), dtype)
    window = range(rows[0], rows[-1] + 1), range(columns[0], columns[-1] + 1)
    return _warp(source, target, how, dtype, bands, window)[:, :: rows.step, :: columns.step]


def _warp(
    source: Raster, target: MapGrid, how: Resampling, dtype: np.dtype, bands: range, window: Window
) -> np.ndarray:
    """Warp a window of the target, in halves where it takes too much of the source at once."""
    needed = _needed(source.grid, target, window)
    if needed is None:
        return np.full((len(bands), len(window[0]), len(window[1])), np.nan, dtype)
    axis = int(len(window[1]) >= len(window[0]))
    if len(bands) * len(needed[0]) * len(needed[1]) > _MOST_CELLS and len(window[axis]) > 1:
        middle = len(window[axis]) // 2
        halves = [
            _warp(source, target, how, dtype, bands, (window[0], part) if axis else (part, window[1]))
            for part in (window[axis][:middle], window[axis][middle:])
        ]
        return np.concatenate(halves, axis=1 + axis)
    block = source.read(bands, *needed).astype(dtype)
    near, far = _systems(source.grid, target)
    stored = _profile(source.grid, near, needed, dtype)
    wanted = {**_profile(target, far, window, dtype), "src_nodata": np.nan, "resampling": how}
    exactly = {"tolerance": _EXACT, "warp_mem_limit": 64, **_SAME_EVERYWHERE}
    warped = []
    for band in block:  # by itself: GDAL's warp of several would take no data for data unless all of them lack it
        with MemoryFile() as memory:
            with memory.open(driver="GTiff", count=1, **stored) as file:
                file.write(band, 1)
            with memory.open() as file, WarpedVRT(file, **wanted, **exactly) as virtual:
                warped.append(virtual.read(1))
    return np.stack(warped)


def _profile(grid: MapGrid, crs: CRS, window: Window, dtype: np.dtype) -> dict[str, Any]:
    rows, columns = window
    transform = grid.transform() @ Affine.translation(columns[0], rows[0])
    size = {"height": len(rows), "width": len(columns)}
    return {"crs": crs, "transform": transform, **size, "dtype": dtype.name, "nodata": np.nan}


def _needed(source: MapGrid, target: MapGrid, window: Window) -> Window | None:
    near, far = _systems(source, target)
    sides = [np.linspace(side[0] - 0.5, side[-1] + 0.5, _LATTICE) for side in window]
    x, y = target.positions(*(at.ravel() for at in np.meshgrid(*sides, indexing="ij")))
    moved = np.array(transform(far, near, x, y)[:2])
    known = np.isfinite(moved).all(axis=0)
    if not known.any():
        return None
    found = []
    for at, size in zip(source.cells(*moved[:, known]), source.shape, strict=True):
        reach = _MARGIN + 0.02 * np.ptp(at)  # what is bent between two points of the lattice
        found.append(range(max(0, int(np.floor(at.min() - reach))), min(size, int(np.ceil(at.max() + reach)) + 1)))
    rows, columns = found
    return (rows, columns) if rows and columns else None


def describe_cells(grid: MapGrid) -> str:
    """Size of a grid's cells, for a sentence."""
    (row_x, row_y), (column_x, column_y) = grid.steps
    return f"{np.hypot(column_x, column_y):g} x {np.hypot(row_x, row_y):g}"
