"""Labels around wells: points of a map, or intervals of depth, spread over a radius."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from datasets.config import ConvertConfig
from datasets.errors import InputError
from datasets.label_sources.classes import class_indices
from datasets.label_sources.points import map_points, vertical_dim, vertical_values
from datasets.labels import UNLABELLED
from datasets.maps.map_grid import MapGrid, extent
from datasets.maps.tables import find_column, find_optional, numbers, read_table

_ROUNDING = 1e-6  # share of a cell within which distances are equal


def place(ds: xr.Dataset, config: ConvertConfig) -> tuple[xr.DataArray, str]:
    """Give the cells around the wells of the table `config.labels` their classes.

    A column of the map belongs to the nearest well within `label_radius` of its centre, to the first in the file of
    equals. In a table with z a row holds in the cell nearest to z, nowhere without one; in a table with from and to
    where from <= coordinate < to; in any other in the whole column. Rows that contradict each other are refused.
    """
    path = Path(config.labels)
    if config.label_radius is None or not config.label_radius > 0:
        raise InputError(
            f"label_radius is {config.label_radius}; labels from {path} need the radius of a well in map units, above 0"
        )
    table = read_table(path, config.label_columns, "label_columns")
    grid = MapGrid.of(ds, f"placing {path.name}")
    x, y = map_points(table, path, grid, config)
    named = [config.labels_key] if config.labels_key else ["class", "label", "unit", "lithology"]
    column = find_column(table, named, path, "labels_key")
    codes = class_indices(table[column], config.class_names, f"column {column} of {path}")
    well_N, wells = pd.factorize(pd.MultiIndex.from_arrays([x, y]))  # in the order of the file
    x_W, y_W = np.array(list(wells), np.float64).T
    nearest_M = _nearest(grid, x_W, y_W, config.label_radius)
    reached = np.unique(nearest_M[nearest_M >= 0])
    if not len(reached):
        raise InputError(
            f"no cell lies within {config.label_radius:g} of a well of {path}: they are at {extent(x_W, y_W)}, the "
            f"cells at {grid.bounds()}; set labels_crs, or raise label_radius"
        )
    dim, within_NZ = _spans(table, path, ds) or ("", np.ones((len(table), 1), bool))
    logs_WZ = np.full((len(wells) + 1, within_NZ.shape[1]), UNLABELLED, np.uint8)  # the last, for -1, is of no well
    for row in np.flatnonzero(codes != UNLABELLED):
        along = well_N[row], within_NZ[row]
        if not np.isin(logs_WZ[along], (UNLABELLED, codes[row])).all():
            raise InputError(
                f"row {row + 1} of {path} gives another class to a place that an earlier row named; correct it"
            )
        logs_WZ[along] = codes[row]
    labelled = (logs_WZ[reached] != UNLABELLED).any(axis=1)
    placed = f"{path.name}: {labelled.sum()} of {len(wells)} wells"
    if not dim:
        return xr.DataArray(logs_WZ[nearest_M, 0], dims=grid.dims), placed
    pieces = {name: size for name, size in ds["data"].chunksizes.items() if name in grid.dims}
    labels = xr.apply_ufunc(
        partial(np.take, logs_WZ, axis=0),
        xr.DataArray(nearest_M, dims=grid.dims).chunk(pieces),
        output_core_dims=[[dim]],
        dask="parallelized",
        output_dtypes=[np.uint8],
        dask_gufunc_kwargs={"output_sizes": {dim: ds.sizes[dim]}},
    )
    return labels, placed


def _nearest(grid: MapGrid, x_W: np.ndarray, y_W: np.ndarray, radius: float) -> np.ndarray:
    """Nearest well within `radius` of each cell, the first of equals, or -1."""
    nearest = np.full(grid.shape, -1)
    distance = np.full(grid.shape, np.inf)
    row_W, column_W = grid.cells(x_W, y_W)
    rounding = _ROUNDING * np.linalg.norm(grid.steps, axis=1).min()
    reach = np.linalg.norm(np.linalg.inv(grid.steps), axis=0) * (radius + rounding)  # cells that the radius spans
    for index, centre in enumerate(zip(row_W, column_W, strict=True)):
        if not np.isfinite(centre).all():
            continue
        cut = tuple(
            slice(max(0, int(np.ceil(at - most))), max(0, int(np.floor(at + most)) + 1))
            for at, most in zip(centre, reach, strict=True)
        )
        rows, columns = (np.arange(size)[part] for size, part in zip(grid.shape, cut, strict=True))
        x, y = grid.positions(rows[:, None], columns)
        away = np.hypot(x - x_W[index], y - y_W[index])
        closer = (away <= radius + rounding) & (away < distance[cut] - rounding)
        nearest[cut] = np.where(closer, index, nearest[cut])
        distance[cut] = np.where(closer, away, distance[cut])
    return nearest


def _spans(table: pd.DataFrame, path: Path, ds: xr.Dataset) -> tuple[str, np.ndarray] | None:
    """Vertical dimension, and which cells along it each row holds [N, Z]; None without depths."""
    z = find_optional(table, ["z", vertical_dim(ds) or "depth"])
    if not z and not find_optional(table, ["from"]) and not find_optional(table, ["to"]):
        return None
    dim, values = vertical_values(ds, f"placing the depths of {path.name}")
    if z:
        at = numbers(table, z, path)
        off = np.nan_to_num(np.abs(at[:, None] - values), nan=np.inf)
        edge = np.abs(np.diff(values)).max() / 2 if len(values) > 1 else np.inf
        found = np.isfinite(at) & (off.min(1) <= edge)
        return dim, found[:, None] & (np.arange(len(values)) == off.argmin(1)[:, None])
    top, bottom = (numbers(table, find_column(table, [name], path, "label_columns"), path) for name in ("from", "to"))
    if len(empty := np.flatnonzero(np.isnan(top) | np.isnan(bottom))):
        raise InputError(f"{path} has an empty from or to in row {empty[0] + 1}; fill it in")
    wrong = np.flatnonzero(~(top < bottom))
    if len(wrong):
        row = wrong[0]
        raise InputError(
            f"{path} has an interval from {top[row]:g} to {bottom[row]:g}, row {row + 1}; from must be less"
        )
    return dim, (values >= top[:, None]) & (values < bottom[:, None])
