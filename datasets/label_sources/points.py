"""Positions: of a table's rows on a volume's map, by x and y or the names of its dimensions, and of cells downwards."""

from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from datasets.config import ConvertConfig
from datasets.errors import InputError
from datasets.maps.map_grid import MapGrid, parse_crs, project
from datasets.maps.tables import XY_NAMES, find_column, find_optional, numbers

_DOWNWARD = ["twt", "depth", "time", "layer", "elevation", "z"]


def map_points(table: pd.DataFrame, path: Path, grid: MapGrid, config: ConvertConfig) -> tuple[np.ndarray, np.ndarray]:
    """Take x and y of each row, which are in `config.labels_crs` or else the grid's own system, in the latter."""
    x, y = (numbers(table, find_column(table, names, path, "label_columns"), path) for names in XY_NAMES)
    if not config.labels_crs:
        return x, y
    if grid.crs is None:
        raise InputError(f"labels_crs is {config.labels_crs}, but the volume has no CRS to bring {path} to; set crs")
    return project(x, y, parse_crs(config.labels_crs, "labels_crs"), grid.crs, str(path))


def map_cells(
    table: pd.DataFrame, path: Path, ds: xr.Dataset, dims: tuple[str, str], config: ConvertConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the nearest cell of each row of a table with x and y, or columns named as the map's dimensions `dims`.

    Returns rows and columns of the map [N], and whether they are within the volume.
    """
    named = [find_optional(table, [dim]) for dim in dims if dim in ds.coords and dim not in ("x", "y")]
    found = [name for name in named if name]
    if len(found) == 2:
        places = [
            _index(ds[dim].values.astype(np.float64), numbers(table, name, path))
            for dim, name in zip(dims, found, strict=True)
        ]
    else:
        grid = MapGrid.of(ds, f"placing {path.name}")
        places = list(grid.cells(*map_points(table, path, grid, config)))
        if grid.dims != dims:
            places.reverse()
    inside = np.all([(at >= -0.5) & (at < ds.sizes[dim] - 0.5) for at, dim in zip(places, dims, strict=True)], axis=0)
    rows, columns = (np.floor(np.where(inside, at, 0) + 0.5).astype(np.int64) for at in places)
    return rows, columns, inside


def _index(coordinate: np.ndarray, values: np.ndarray) -> np.ndarray:
    if len(coordinate) == 1:
        return np.where(np.abs(values - coordinate[0]) < 0.5, 0.0, np.nan)
    first, last = np.diff(coordinate)[[0, -1]] / 2
    edges = np.concatenate([[coordinate[0] - first], coordinate, [coordinate[-1] + last]])
    indices = np.arange(-1.0, len(coordinate) + 1).clip(0, len(coordinate) - 1)
    sign = np.sign(last)
    return np.interp(sign * values, sign * edges, indices, -np.inf, np.inf)


def vertical_dim(ds: xr.Dataset) -> str | None:
    """Name of the vertical dimension, or None."""
    return next((name for name in _DOWNWARD if name in ds["data"].dims), None)


def vertical_values(ds: xr.Dataset, purpose: str) -> tuple[str, np.ndarray]:
    """Name and coordinate of the vertical dimension; `InputError` without one that always rises or always falls."""
    dim = vertical_dim(ds)
    if dim is None:
        dims = list(map(str, ds["data"].dims))
        raise InputError(
            f"{purpose} needs a vertical dimension, one of {_DOWNWARD}, but the data have {dims}; rename dims"
        )
    if dim not in ds.coords:
        raise InputError(f"{purpose} needs the coordinate of {dim}; give it with coordinates, as in {dim}: 0:4")
    values = ds[dim].values
    if values.dtype.kind not in "iuf" or not (np.all(np.diff(values) > 0) or np.all(np.diff(values) < 0)):
        raise InputError(f"{purpose} needs a coordinate of {dim} that always rises or always falls; correct it")
    return dim, values.astype(np.float64)
