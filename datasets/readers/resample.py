"""GeoTIFFs on another grid or coordinate system, brought to that of the first, window by window."""

from functools import partial
from pathlib import Path

import numpy as np
import rasterio
import xarray as xr
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from datasets.errors import InputError
from datasets.readers.lazy import Cut, LazyArray

# GDAL would guess from each window how wide to reach for bilinear; fixed, a cell has one value in whatever window.
_SAME_EVERYWHERE = {"XSCALE": "1", "YSCALE": "1"}
_EXACT = 1e-6  # cells by which a position may be approximated; GDAL's virtual warp cannot do with 0


def onto_grid(path: Path, like: xr.DataArray, first: Path, method: str, dtype: np.dtype) -> tuple[xr.DataArray, str]:
    """Resample all bands of a file lazily; cells that it does not cover, and its no data, are NaN.

    Parameters
    ----------
    path
        GeoTIFF to resample.
    like
        Bands of the first file, whose grid and coordinate system are the target.
    first
        The first file, for messages.
    method
        ``nearest``, ``bilinear`` (of the nearest four) or ``average`` (of all cells within a target cell).
    dtype
        Type of the result, float32 or float64.

    Returns
    -------
    layer, words
        (band, y, x) on the target's coordinates, and what was done.

    Raises
    ------
    InputError
        Where a coordinate system is missing, or the file does not overlap the target.
    """
    crs, transform = like.rio.crs, like.rio.transform()
    height, width = like.sizes["y"], like.sizes["x"]
    with rasterio.open(path) as file:
        for place, known in ((path, file.crs), (first, crs)):
            if known is None:
                raise InputError(
                    f"{place} has no coordinate system, so {path} cannot be resampled to the grid of {first}; "
                    "write one into it, as with `rio edit-info --crs EPSG:32633`"
                )
        west, south, east, north = transform_bounds(file.crs, crs, *file.bounds)
        left, bottom, right, top = like.rio.bounds()
        if east <= left or west >= right or north <= bottom or south >= top:
            raise InputError(
                f"{path} covers x {west:g} to {east:g}, y {south:g} to {north:g} in the coordinate system of {first}, "
                f"which covers x {left:g} to {right:g}, y {bottom:g} to {top:g}: they do not overlap; check their CRS"
            )
        count = file.count
        words = (
            f"{path.name}: {method} from cells of {_cell(file.transform)} ({_name(file.crs)}) to cells of "
            f"{_cell(transform)} ({_name(crs)}), the grid of {first.name}"
        )
    shape = (count, height, width)
    read = partial(_read, path, crs, transform, shape, Resampling[method], dtype)
    layer = xr.DataArray(
        LazyArray(shape, dtype, read).variable(["band", "y", "x"]),
        coords={"band": np.arange(1, count + 1), "y": like["y"], "x": like["x"], "spatial_ref": like["spatial_ref"]},
    )
    return layer.chunk({dim: edges for dim, edges in like.chunksizes.items() if dim != "band"}), words


def _read(
    path: Path, crs: CRS, transform: Affine, shape: tuple[int, int, int], how: Resampling, dtype: np.dtype, cut: Cut
) -> np.ndarray:
    """Warp one window; every read opens the file for itself, so that threads do not share it."""
    ranges = [range(size)[part] if isinstance(part, slice) else range(part, part + 1)
              for part, size in zip(cut, shape, strict=True)]  # fmt: skip
    empty = [len(steps) == 0 for steps in ranges]
    if any(empty):
        return np.zeros([len(steps) for steps in ranges], dtype)
    bands, rows, columns = ranges
    window = Window(columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)
    with (
        rasterio.open(path) as file,
        # Positions are not approximated either.
        WarpedVRT(
            file, crs=crs, transform=transform, height=shape[1], width=shape[2], resampling=how, tolerance=_EXACT,
            src_nodata=file.nodata, nodata=np.nan, dtype=dtype.name, warp_mem_limit=64, **_SAME_EVERYWHERE,
        ) as warped,
    ):  # fmt: skip
        values = warped.read([band + 1 for band in bands], window=window)
    values = values[:, :: rows.step, :: columns.step]
    return values[tuple(0 if isinstance(part, int) else slice(None) for part in cut)]


def _cell(transform: Affine) -> str:
    return f"{np.hypot(transform.a, transform.d):g} x {np.hypot(transform.b, transform.e):g}"


def _name(crs: CRS) -> str:
    return crs.to_string() if crs.to_epsg() else str(crs.to_dict().get("proj", "a CRS of its own"))
