"""netCDF of version 3 (through SciPy) and 4 (through h5netcdf, the extra ``formats``), with CF's attributes."""

import importlib.util
from pathlib import Path

import numpy as np
import rioxarray  # noqa: F401  registers the .rio accessor
import scipy.io
import xarray as xr
from xarray.core import indexing

from datasets.config import ConvertConfig
from datasets.errors import InputError
from datasets.lazy_array import plain_array
from datasets.maps.coordinates import coordinate_variable
from datasets.readers import cf
from datasets.readers.arrays import pick_key
from datasets.readers.grids import HDF5, NETCDF_3


def read(config: ConvertConfig) -> xr.Dataset:
    """Read one variable lazily with its coordinates, units, name and coordinate system.

    CF's projected coordinates, longitudes and latitudes become x and y; `config.dims` renames all dimensions. Missing
    values and packing are as `datasets.readers.cf.unpacked` says.
    """
    path = Path(config.source)
    ds = _open(path, config.key)
    data = _pick(ds, path, config.key, "key")
    crs = data.rio.crs
    if ds.encoding["engine"] == "scipy":  # in parts, without mapping the file
        with scipy.io.netcdf_file(path, "r", mmap=True) as file:
            mapped = file.variables[data.name].data
            # The owner of the mapped memory is the whole file.
            first, start = (a.__array_interface__["data"][0] for a in (mapped, mapped.base))
            array = plain_array(path, mapped.dtype, mapped.shape, offset=first - start, strides=mapped.strides)
            del mapped
        data = data.copy(data=indexing.LazilyIndexedArray(array))
    variable, nodata = cf.unpacked(data.variable)
    dims = list(map(str, data.dims))
    if config.dims and len(config.dims) != len(dims):
        raise InputError(f"{config.source} has the dimensions {dims}, but dims names {config.dims}; name them all")
    if config.dims:
        names = dict(zip(dims, config.dims, strict=True))
    else:
        names = cf.map_names({dim: data[dim].variable for dim in dims if dim in data.coords})
    changed = {old: new for old, new in names.items() if old != new}
    data = xr.DataArray(variable, data.coords).rename(changed)
    kept: dict[str, xr.Variable] = {}
    for name, coordinate in data.coords.items():
        if coordinate.ndim and coordinate.dtype.kind in "iufM":
            kept[str(name)] = xr.Variable(coordinate.dims, coordinate.values, cf.kept(coordinate.attrs))
        elif name in data.dims:
            kept[str(name)] = coordinate_variable(str(name), coordinate.values.astype(str))
    out = xr.Dataset({"data": data.variable}, kept).drop_encoding()
    out.attrs = {"files": [str(path)], "nodata": nodata, "title": str(ds.attrs.get("title", ""))}
    return out.assign_attrs(crs=crs.to_wkt()) if crs is not None else out


def load(path: Path, key: str, option: str) -> np.ndarray:
    """Load the values of the variable `key`; parameters and errors as `matlab.load`."""
    return _pick(_open(path, key), path, key, option).values


def _open(path: Path, key: str) -> xr.Dataset:
    """Open the group of a variable: values as stored, times as dates where their calendar is the usual one."""
    with path.open("rb") as file:
        start = file.read(4)
    if start not in (*NETCDF_3, HDF5):
        raise InputError(
            f"{path} is not a netCDF file that can be read: it starts with {start!r}; check the file, or save it again "
            "as netCDF-4"
        )
    engine, special = ("h5netcdf", {"phony_dims": "access"}) if start == HDF5 else ("scipy", None)
    if engine == "h5netcdf" and importlib.util.find_spec("h5netcdf") is None:
        raise InputError(f"{path} is netCDF-4, which needs h5netcdf: pip install -e '.[formats]'")
    try:
        ds = xr.open_dataset(
            path, engine=engine, group=key.rpartition("/")[0] or None, cache=False, mask_and_scale=False,
            decode_times=False, decode_coords="all", backend_kwargs=special,
        )  # fmt: skip
    except (OSError, ValueError, TypeError, KeyError, IndexError) as error:
        raise InputError(f"{path} cannot be read as netCDF ({error}); check the file and the key") from error
    ds.encoding["engine"] = engine
    return ds.assign_coords({name: cf.dates(coordinate.variable) for name, coordinate in ds.coords.items()})


def _pick(ds: xr.Dataset, path: Path, key: str, option: str) -> xr.DataArray:
    name = key.rpartition("/")[2]
    if name in ds.data_vars:
        return ds[name]
    prefix = key.removesuffix(name)
    shapes = {f"{prefix}{name}": var.shape for name, var in ds.data_vars.items() if var.ndim > 1}
    return ds[pick_key(path, key, shapes, option).removeprefix(prefix)]
