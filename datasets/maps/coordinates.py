"""Coordinates, units and coordinate system of a volume, from what a recipe and its side files say."""

import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import rioxarray  # noqa: F401  registers the .rio accessor
import xarray as xr

from datasets.config import ConvertConfig
from datasets.errors import InputError, existing
from datasets.maps.map_grid import parse_crs

_DATE = re.compile(r"\d{4}-\d{2}")
LOCAL = "local"  # in the place of a coordinate system: that nobody knows it
_USUAL_UNITS = {"twt": "ms", "depth": "m"}


def add_coordinates(ds: xr.Dataset, config: ConvertConfig, load: Callable[[str], np.ndarray]) -> xr.Dataset:
    """Attach coordinates, their units and the coordinate reference system; `load` takes an array of the source by key.

    `InputError` where a coordinate does not fit its dimension, or a side file or CRS is not understood.
    """
    for dim, given in config.coordinates.items():
        if dim not in ds.dims:
            raise InputError(f"coordinates names {dim!r}, but the data have the dimensions {list(ds['data'].dims)}")
        values = _values(dim, given, ds.sizes[dim], load)
        if values.shape != (ds.sizes[dim],):
            raise InputError(
                f"coordinates.{dim} has {values.size} values, but the data have {ds.sizes[dim]} along {dim}; correct it"
            )
        ds = ds.assign_coords({dim: coordinate_variable(dim, values)})
    crs = config.crs
    if config.extent:
        path = existing(config.extent, "extent")
        if not {"x", "y"} <= set(ds.dims):
            dims = list(ds["data"].dims)
            raise InputError(f"extent needs the dimensions x and y, but the data have {dims}; rename dims")
        try:
            outline = json.loads(path.read_text())
            points = np.asarray(outline["coordinates"], float).reshape(-1, 2)
            crs = crs or outline.get("crs", {}).get("properties", {}).get("name", "")
        except (ValueError, KeyError, AttributeError) as error:
            raise InputError(f"{path} does not hold one GeoJSON polygon ({error}); check extent") from error
        (west, south), (east, north) = points.min(axis=0), points.max(axis=0)
        columns, rows = ds.sizes["x"], ds.sizes["y"]
        x = west + (np.arange(columns) + 0.5) * (east - west) / columns
        y = north - (np.arange(rows) + 0.5) * (north - south) / rows
        ds = ds.assign_coords(x=x, y=y)
    crs = crs or ds.attrs.pop("crs", "")
    if crs and crs != LOCAL:
        ds = ds.rio.write_crs(parse_crs(crs, "crs").to_wkt())
    if strange := [name for name in config.coordinate_units if name not in ds.coords]:
        raise InputError(f"coordinate_units names {strange}, but the coordinates are {list(ds.coords)}; correct it")
    for name, coordinate in ds.coords.items():
        units = config.coordinate_units.get(str(name)) or coordinate.attrs.get("units") or _USUAL_UNITS.get(str(name))
        if units is None and name in ("x", "y") and (system := ds.rio.crs) is not None:
            units = system.linear_units if system.is_projected else "degree"
            units = "m" if units in ("metre", "meter") else units
        if units is not None:
            coordinate.attrs["units"] = units
    return ds


def _values(dim: str, given: Sequence[Any] | str, size: int, load: Callable[[str], np.ndarray]) -> np.ndarray:
    if not isinstance(given, str):
        return np.asarray(given)
    if given.lower().endswith((".json", ".npy")):
        path = existing(given, f"coordinates.{dim}")
        try:
            return np.load(path) if path.suffix.lower() == ".npy" else np.asarray(json.loads(path.read_text()))
        except ValueError as error:
            raise InputError(f"{path} does not hold a list of values ({error}); check coordinates.{dim}") from error
    start, colon, step = given.partition(":")
    if colon:
        try:
            return _number(start) + _number(step) * np.arange(size)
        except ValueError as error:
            raise InputError(f"coordinates.{dim} is {given!r}; write start:step, such as 0:4") from error
    return load(given).squeeze()


def _number(text: str) -> int | float:
    return int(text) if text.strip().lstrip("+-").isdigit() else float(text)


def coordinate_variable(dim: str, values: np.ndarray) -> xr.Variable:
    """Make a coordinate of values; text becomes dates where all of it looks so, else names beside numbers."""
    if values.dtype.kind not in "US":
        return xr.Variable(dim, values)
    with suppress(ValueError, OverflowError):  # a month 13, say
        texts = values.astype(str)
        times = texts.astype("datetime64")
        exact = times.astype("datetime64[ns]")  # which wraps around beyond the years 1678 to 2262
        if all(map(_DATE.match, texts)) and (exact.astype(times.dtype) == times).all():
            return xr.Variable(dim, exact)
    # Zarr v3 has no stable type for text: names go beside numbers.
    return xr.Variable(dim, np.arange(len(values)), {"names": [str(value) for value in values]})
