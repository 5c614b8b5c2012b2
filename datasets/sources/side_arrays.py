"""Labels and masks that are arrays of their own, in a file beside the data or in the data's own."""

from pathlib import Path

import numpy as np
import xarray as xr

from datasets.config import ConvertConfig
from datasets.errors import InputError, existing
from datasets.label_sources.place import is_placed
from datasets.labels import encode_labels
from datasets.lazy_array import LazyArray
from datasets.maps.coordinates import add_coordinates
from datasets.maps.map_grid import MapGrid
from datasets.readers import matlab, netcdf, numpy
from datasets.readers.arrays import name_dims
from datasets.readers.formats import READERS, file_kind

_LOADERS = {"matlab": matlab.load, "numpy": numpy.load, "netcdf": netcdf.load}


def load_array(source: str, key: str, option: str) -> np.ndarray:
    """Load the array `key` of a file that the setting `option` names, its axes unnamed.

    `InputError` where there is no such file or array, or the format has no arrays.
    """
    array = _array(source, key, option)
    return array.load() if isinstance(array, LazyArray) else array


def _array(source: str, key: str, option: str) -> np.ndarray | LazyArray:
    path = existing(source, option)
    kind = file_kind(path)
    if kind in _LOADERS:
        return _LOADERS[kind](path, key, f"{option}_key")
    if kind in ("geotiff", "envi"):
        return READERS[kind](ConvertConfig(source=source))["data"].values
    raise InputError(
        f"{path} is not an array that {option} can be read from; use .npy, .npz, .mat, .tif, .nc or an ENVI .hdr"
    )


def add_side_arrays(ds: xr.Dataset, config: ConvertConfig) -> xr.Dataset:
    """Add labels, as class indices, and mask from their own files or keys.

    `InputError` where an array cannot be read or does not fit the data, or the classes have no names.
    """
    if config.valid or config.valid_key:
        valid = read_mask(ds["data"], config)
        ds["valid"] = valid & ds["valid"].variable if "valid" in ds else valid
    return add_raster_labels(ds, config)


def read_mask(data: xr.DataArray, config: ConvertConfig) -> xr.Variable:
    """Read the mask of `config.valid` and `config.valid_key`, true where there is data; errors as `add_side_arrays`."""
    array = _array(config.valid or config.source, config.valid_key, "valid")
    dims = config.valid_dims or [str(dim) for dim in data.dims]
    shape = config.shape
    if shape and len(dims) < len(config.dims):  # it is that of all dimensions
        flat = sum(size > 1 for size in array.shape) < len(dims)
        shape = [data.sizes.get(dim, 0) for dim in dims] if flat else []
    valid = name_dims(array, dims, shape, config.order, "the valid mask")
    refuse_misfit(valid, data.variable, "valid mask")
    return valid.astype(bool)


def add_raster_labels(ds: xr.Dataset, config: ConvertConfig) -> xr.Dataset:
    """Add the labels of `config.labels` and `config.labels_key`, where they are an array; errors as there."""
    named = config.labels or config.labels_key
    if is_placed(config) or not (named or "labels" in ds):
        return ds
    where, share = config.labels or config.source, config.labels_dominant
    if named:
        array = _array(where, config.labels_key, "labels")
        dims = config.label_dims or [str(dim) for dim in ds["data"].dims]
        if share is not None:
            dims = ["class", *dims]
        if not config.label_dims and len(array.shape) < len(dims) and not config.label_shape:
            raise InputError(f"the labels in {where} have shape {array.shape}; name their dimensions with label_dims")
        labels = name_dims(array, dims, config.label_shape, config.order, f"the labels array in {where}")
    else:
        labels = ds["labels"].variable
    if share is not None:
        shares = labels.values
        labels = xr.Variable(labels.dims[1:], np.where(shares.max(axis=0) >= share, shares.argmax(axis=0), -1))
    refuse_misfit(labels, ds["data"].variable, f"labels array in {where}")
    codes, attrs = encode_labels(labels.values, config.class_names, where)
    return ds.assign(labels=(labels.dims, codes, attrs))


def refuse_elsewhere(ds: xr.Dataset, config: ConvertConfig) -> None:
    """Raise `InputError` where labels or a mask say where on the map they lie, and the data lie on other cells."""
    for option in ("labels", "valid"):
        path = Path(getattr(config, option))
        if (kind := file_kind(path)) not in ("geotiff", "envi") or not path.is_file():
            continue
        own = ConvertConfig(source=str(path))
        try:
            here = MapGrid.of(ds.transpose(..., "y", "x", missing_dims="ignore"), "data")
            there = MapGrid.of(add_coordinates(READERS[kind](own), own, np.asarray), option)
        except InputError:  # one of them does not say
            continue
        if here.crs and there.crs and not there.same_cells(here):
            raise InputError(
                f"the {option} in {path} lie on other cells, {there.bounds()}, than the data, {here.bounds()}, or in "
                "another order of rows; bring them to the cells of the data, as with gdalwarp"
            )


def refuse_misfit(array: xr.Variable, data: xr.Variable, what: str) -> None:
    """Raise `InputError` where an array is not as long as the data along its dimensions."""
    strange = [str(dim) for dim in array.dims if array.sizes[dim] != data.sizes.get(dim)]
    if strange:
        raise InputError(
            f"the {what} has the shape {dict(array.sizes)}, but the data have {dict(data.sizes)}; "
            f"they must agree along {strange}"
        )
