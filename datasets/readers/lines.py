"""Airborne lines and ground stations, in ASEG-GDF2, XYZ or CSV, gridded."""

from pathlib import Path

import numpy as np
import xarray as xr

from datasets.config import ConvertConfig
from datasets.errors import InputError
from datasets.maps.gridding import Cells, grid_readings, plan_cells
from datasets.maps.map_grid import extent, parse_crs, project
from datasets.maps.tables import XY_NAMES, find_column, numbers, read_table
from datasets.readers import aseg_gdf

_DEGREES = {"longitude", "lon", "latitude", "lat"}


def read(config: ConvertConfig, onto: Cells | None = None) -> xr.Dataset:
    """Grid the readings of `config.columns` to (band, y, x), or (layer, y, x) for one of several values, NAME[0] etc.

    The cells are `onto`, or else those that `config.cell_size` makes.
    """
    path = Path(config.source)
    _check(config, onto)
    definition = aseg_gdf.beside(path, ".dfn")
    if definition == path or (path.suffix.lower() == ".dat" and definition.is_file()):
        table, files = aseg_gdf.read_table(path), [str(aseg_gdf.beside(path, ".dat")), str(definition)]
    else:
        table, files = read_table(path, config.table_columns, "table_columns"), [str(path)]
    columns: list[str] = []
    for name in config.columns:
        layers = [str(column) for column in table.columns if str(column).lower().startswith(f"{name.lower()}[")]
        columns += layers or [find_column(table, [name], path, "columns")]
    wanted = [[name] for name in config.xy_columns] or XY_NAMES
    places = [find_column(table, names, path, "xy_columns") for names in wanted]
    x, y = (numbers(table, column, path) for column in places)
    if config.lines_crs:
        x, y = project(x, y, parse_crs(config.lines_crs, "lines_crs"), parse_crs(config.crs, "crs"), str(path))
    elif {column.lower() for column in places} & _DEGREES:
        raise InputError(
            f"{path} gives positions as {' and '.join(places)}; set lines_crs to their coordinate system, such as "
            "EPSG:4326"
        )
    values = np.column_stack([numbers(table, column, path) for column in columns])
    if config.nodata is not None:
        values[values == config.nodata] = np.nan
    use = np.isfinite(x) & np.isfinite(y) & np.isfinite(values).any(axis=1)
    if not use.any():
        raise InputError(f"{path} has no reading of {', '.join(config.columns)}; check columns and nodata")
    x, y, values = x[use], y[use], values[use]
    cells = plan_cells(x, y, float(config.cell_size or 0)) if onto is None else onto
    blank_distance = float(config.blank_distance or 0)
    grid = grid_readings(x, y, values, cells, config.gridding, blank_distance)
    if not np.isfinite(grid).any():
        raise InputError(
            f"no cell of {cells.size:g} lies within blank_distance {blank_distance:g} of a reading of {path}; raise it"
            + ("" if onto is None else f", or check the CRS: the readings are at {extent(x, y)}, the cells at "
               f"{extent(cells.x, cells.y)}")
        )  # fmt: skip
    dim, levels = "band", xr.Variable("band", np.arange(1, len(columns) + 1), {"names": columns})
    if len(columns) > len(config.columns) == 1:
        dim, levels = "layer", xr.Variable("layer", np.arange(len(columns)))
    return xr.Dataset(
        {"data": ((dim, "y", "x"), grid)},
        coords={dim: levels, "y": cells.y, "x": cells.x},
        attrs={
            "files": files,
            "gridding": f"medians of cells of {cells.size:g}, {config.gridding} between them, {len(x)} of {len(table)} "
            f"readings; no data farther than {blank_distance:g} from any",
        },
    )


def _check(config: ConvertConfig, onto: Cells | None) -> None:
    source = config.source
    if not config.columns:
        raise InputError(f"columns is empty; name the readings of {source} to grid, as in [mag]")
    if not config.crs:
        raise InputError(f"crs is empty; name the coordinate system to grid {source} in, such as EPSG:32633")
    lengths = (
        {"cell_size": "a fifth to a quarter of the distance between flight lines is usual"} if onto is None else {}
    )
    lengths["blank_distance"] = "cells farther than that from any reading become no data"
    for name, what in lengths.items():
        value = getattr(config, name)
        if value is None or not value > 0:
            raise InputError(f"{name} is {value}; gridding {source} needs it, in the units of crs, above 0: {what}")
    if config.xy_columns and len(config.xy_columns) != 2:
        raise InputError(f"xy_columns is {config.xy_columns}; name two columns, as in [easting, northing]")
