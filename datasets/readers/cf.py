"""What the attributes of the CF conventions say of a variable: packing, missing values, dates."""

import base64
import struct
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import xarray as xr

from datasets.config_convert import ConvertConfig

# What CF says of a coordinate -> its name in a volume.
_STANDARD = {
    "projection_x_coordinate": "x", "longitude": "x", "projection_y_coordinate": "y", "latitude": "y",
}  # fmt: skip
_MISSING = ("_FillValue", "missing_value")


def unpacked(variable: xr.Variable) -> tuple[xr.Variable, list[float]]:
    """Undo the packing of a variable as stored, lazily, or say which of its values are missing.

    A packed one (``scale_factor``, ``add_offset``) becomes floats with NaN, and none are missing.
    """
    missing = [number for name in _MISSING for number in _numbers(variable.attrs.get(name))]
    if not {"scale_factor", "add_offset"} & set(variable.attrs):
        return variable, [value for value in missing if value == value]  # NaN is no data anyway
    packed = variable.copy(deep=False)
    packed.attrs = {name: value for name, value in variable.attrs.items() if name not in _MISSING}
    if missing:
        packed.attrs.update({"_FillValue": missing[0], "missing_value": missing})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", xr.SerializationWarning)  # that several become NaN, as is meant
        decoded = xr.decode_cf(xr.Dataset({"packed": packed}), decode_times=False, decode_coords=False)
    return decoded["packed"].variable, []


def map_names(coords: Mapping[str, xr.Variable]) -> dict[str, str]:
    """Names x and y for dimensions of projected coordinates, longitudes or latitudes, as CF calls them."""
    new = {name: _STANDARD.get(str(coordinate.attrs.get("standard_name"))) for name, coordinate in coords.items()}
    return {old: name for old, name in new.items() if name and name not in coords}


def described(attrs: Mapping[str, Any], config: ConvertConfig) -> dict[str, str]:
    """Name and units of the data, from the settings or else the source's attributes."""
    found = {"long_name": config.name or attrs.get("long_name"), "units": config.units or attrs.get("units")}
    return {name: str(text) for name, text in found.items() if text}


def kept(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Take what a volume keeps of a coordinate's attributes."""
    return {name: attrs[name] for name in ("units", "long_name", "standard_name") if name in attrs}


def dates(times: xr.Variable) -> xr.Variable:
    """Turn times since some day into dates; of a rare calendar, as of 360 days, into numbers with units."""
    if " since " not in str(times.attrs.get("units", "")):
        return times
    with suppress(ValueError, OverflowError):
        decoded = xr.decode_cf(xr.Dataset({"time": times.copy()}))["time"].variable
        if decoded.dtype.kind == "M":
            return decoded
    # In words that nobody takes for a date again.
    units = f"{times.attrs['units'].replace(' since ', ' after ')}, calendar {times.attrs.get('calendar', 'standard')}"
    return xr.Variable(times.dims, times.values, {"units": units})


def _numbers(value: Any) -> list[float]:
    """Missing values of an attribute; xarray writes floats into Zarr v3 as base64 of eight bytes."""
    if isinstance(value, str):
        try:
            return list(struct.unpack("<d", base64.standard_b64decode(value)))
        except (ValueError, struct.error):
            return []
    return [] if value is None else np.atleast_1d(value).tolist()
