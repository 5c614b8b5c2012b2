"""What the readers of map grids share: which program wrote a .grd, and how its rows and columns lie on the map."""

from pathlib import Path

import numpy as np
import xarray as xr

from datasets.config import ConvertConfig
from datasets.errors import InputError
from datasets.lazy_array import LazyArray

HDF5 = b"\x89HDF"
NETCDF_3 = (b"CDF\x01", b"CDF\x02")
_GEOSOFT_WIDTHS = {size + packed for size in (1, 2, 4, 8) for packed in (0, 1024)}


def grid_format(path: Path) -> str:
    """Tell Surfer, Geosoft and (as GMT writes) netCDF, which share the suffix .grd, by the first bytes."""
    with path.open("rb") as file:
        start = file.read(4)
    if start in (b"DSRB", b"DSBB", b"DSAA"):
        return "surfer"
    if start in (*NETCDF_3, HDF5):
        return "netcdf"
    if int.from_bytes(start, "little") in _GEOSOFT_WIDTHS:
        return "geosoft"
    raise InputError(f"{path} starts with {start!r}: no Geosoft, Surfer or netCDF grid; check the file, or set format")


def map_grid(
    array: LazyArray | np.ndarray, x: tuple[float, float], y: tuple[float, float], config: ConvertConfig
) -> xr.Dataset:
    """Place cells [y, x], the southernmost row first, on the map, turned so that y falls with the row as in a GeoTIFF.

    `x` and `y` are the centre of the first column or row and the distance to the next. `InputError` asks for the
    coordinate system, which these formats do not hold, where `config` lacks it.
    """
    if not config.crs:
        raise InputError(
            f"{config.source} does not hold its coordinate system; set crs, such as EPSG:28354, or crs: local where "
            "nobody knows it"
        )
    data = array.variable(["y", "x"]) if isinstance(array, LazyArray) else (("y", "x"), array)
    rows, columns = map(np.arange, array.shape)
    coords = {"y": y[0] + y[1] * rows, "x": x[0] + x[1] * columns}
    return xr.Dataset({"data": data}, coords, {"files": [config.source]}).isel(y=slice(None, None, -1))
