"""Labels between horizons: each class lies between two picked surfaces."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from datasets.config import ConvertConfig
from datasets.errors import InputError, existing
from datasets.label_sources.points import map_cells, vertical_values
from datasets.labels import FILLS, UNLABELLED
from datasets.maps.tables import find_column, numbers, read_table


def place(ds: xr.Dataset, config: ConvertConfig) -> tuple[xr.DataArray, str]:
    """Give each cell between two horizons their class, where both are picked.

    `config.horizons` rise with the vertical coordinate and may not cross: class 0 lies before the first, 1 between it
    and the second, and so on; one without a name stays unlabelled. A cell exactly on a horizon is of the class after
    it. Several picks of a cell count by their mean.
    """
    dim, values_Z = vertical_values(ds, "labels from horizons")
    dims = [str(name) for name in ds["data"].dims if name not in (dim, "band", "date")]
    if len(dims) != 2:
        raise InputError(f"labels from horizons need two dimensions of the map besides {dim}, but there are {dims}")
    last = len(config.horizons)
    strange = [value for value in config.class_names if not 0 <= value <= last]
    if strange or not config.class_names:
        raise InputError(
            f"class_names has {config.class_names}, but {last} horizons part the classes 0 to {last}: 0 is before the "
            "first; name those to learn"
        )
    found = (_surface(Path(path), ds, (dims[0], dims[1]), dim, config) for path in config.horizons)
    surfaces_HM, placed = zip(*found, strict=True)
    for (upper, upper_M), (lower, lower_M) in combinations(zip(config.horizons, surfaces_HM, strict=True), 2):
        crossed = np.argwhere(upper_M > lower_M)
        if len(crossed):
            cell = tuple(crossed[0])
            where = ", ".join(
                f"{name} {ds[name].values[at] if name in ds.coords else at}"
                for name, at in zip(dims, cell, strict=True)
            )
            raise InputError(
                f"{upper} crosses {lower} in {len(crossed)} cells, the first at {where}: {upper_M[cell]:g} is after "
                f"{lower_M[cell]:g}; order horizons by rising coordinate, and edit the picks"
            )
    pieces = ds["data"].chunksizes
    surfaces = [xr.DataArray(surface, dims=dims).chunk({d: pieces[d] for d in dims if d in pieces})
                for surface in surfaces_HM]  # fmt: skip
    values = xr.DataArray(values_Z, dims=[dim]).chunk({dim: pieces[dim]} if dim in pieces else {})
    labels = xr.full_like(surfaces[0] + values, UNLABELLED, np.uint8)
    bounds: list[xr.DataArray | float] = [-np.inf, *surfaces, np.inf]
    for index, value in enumerate(config.class_names):
        within = (values >= bounds[value]) & (values < bounds[value + 1])
        labels = labels.where(~within, np.uint8(index))
    return labels, "; ".join(placed)


def _surface(
    path: Path, ds: xr.Dataset, dims: tuple[str, str], vertical: str, config: ConvertConfig
) -> tuple[np.ndarray, str]:
    """Vertical coordinate of a horizon in each cell of the map, NaN without a pick; how much of it fits."""
    shape = tuple(ds.sizes[dim] for dim in dims)
    if path.suffix.lower() == ".npy":
        surface = _picked(np.load(existing(path, "horizons"), allow_pickle=False).astype(np.float64))
        if surface.shape != shape:
            raise InputError(
                f"{path} has shape {surface.shape}, but the map of the volume, {list(dims)}, has {shape}; transpose "
                "or resample it"
            )
        return surface, f"{path.name}: {np.isfinite(surface).sum()} cells{_reach(surface, ds[vertical])}"
    table = read_table(path, config.label_columns, "label_columns")
    names = list(dict.fromkeys([vertical, *(["time", "twt"] if vertical in ("time", "twt") else []), "z"]))
    picks = _picked(numbers(table, find_column(table, names, path, "label_columns"), path))
    rows, columns, inside = map_cells(table, path, ds, dims, config)
    use = inside & np.isfinite(picks)
    if not use.any():
        raise InputError(
            f"none of the {len(table)} picks of {path} is within the volume; check labels_crs and which column is which"
        )
    flat = rows[use] * shape[1] + columns[use]
    mean = pd.Series(picks[use]).groupby(flat).mean()
    surface = np.full(shape, np.nan)
    surface.flat[mean.index] = mean
    known = f"{path.name}: {use.sum()} of {len(table)} picks, {len(mean)} cells"
    return surface, known + _reach(surface, ds[vertical])


def _picked(values: np.ndarray) -> np.ndarray:
    return np.where(np.isin(values.astype("f4"), np.asarray(FILLS, "f4")), np.nan, values)  # as grids round them


def _reach(surface: np.ndarray, vertical: xr.DataArray) -> str:
    """Say from where to where a horizon goes, which shows units and a sign of its own."""
    picks, (low, high) = surface[np.isfinite(surface)], np.sort(vertical.values[[0, -1]])
    if not picks.size:
        return ""
    outside = ", all outside the volume" if picks.max() < low or picks.min() > high else ""
    return f", {vertical.name} {picks.min():g} to {picks.max():g}{outside}"
