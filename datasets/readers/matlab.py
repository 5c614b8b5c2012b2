"""MATLAB files: up to version 7 through SciPy, and 7.3, which is HDF5, in parts through h5py."""

from functools import partial
from pathlib import Path

import numpy as np
import scipy.io
import xarray as xr

from datasets.config import ConvertConfig
from datasets.errors import InputError
from datasets.lazy_array import Cut, LazyArray
from datasets.readers.arrays import pick_key, read_array, reading
from datasets.readers.grids import HDF5

_BEFORE_HDF5 = 512  # MATLAB's own header, in front of that of HDF5


def read(config: ConvertConfig) -> xr.Dataset:
    """Read one array, of version 7.3 only where it is asked for."""
    return read_array(config, load)


def load(path: Path, key: str, option: str) -> np.ndarray | LazyArray:
    """Load the array `key` of a .mat file, or its only one.

    `InputError` says where the file is not of this format, or lacks the key, which the setting `option` gives.
    """
    with path.open("rb") as file:
        start = file.read(_BEFORE_HDF5 + len(HDF5))
    # Version 7.3, also without MATLAB's header, as another program writes it.
    if start.startswith((HDF5, b"MATLAB 7.3")) or start[_BEFORE_HDF5:] == HDF5:
        return _open_hdf5(path, key, option)
    with reading(path, "MATLAB file", ValueError, TypeError, NotImplementedError, scipy.io.matlab.MatReadError):
        shapes = {name: shape for name, shape, _ in scipy.io.whosmat(path)}
        key = pick_key(path, key, shapes, option)
        value = scipy.io.loadmat(path, variable_names=[key])[key]
    if not isinstance(value, np.ndarray):
        raise InputError(f"{key!r} in {path} is sparse; {option} must name a full array of numbers")
    if value.dtype.kind not in "biuf":
        raise InputError(f"{key!r} in {path} is a {value.dtype.name} array; {option} must name one of numbers")
    return value


def _open_hdf5(path: Path, key: str, option: str) -> LazyArray:
    """Open an array of version 7.3 with its axes in MATLAB's order, the reverse of HDF5's."""
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise InputError(
            f"{path} is a MATLAB file of version 7.3, which needs h5py: pip install -e '.[formats]'; or save it again "
            "in MATLAB with the option -v7"
        ) from error
    with reading(path, "MATLAB file", OSError), h5py.File(path, "r") as file:
        held = {name: item for name, item in file.items() if not name.startswith("#")}
        arrays = {name: item for name, item in held.items() if isinstance(item, h5py.Dataset)}
        shapes = {name: item.shape[::-1] for name, item in arrays.items()}
        if key in held and key not in arrays:
            raise InputError(f"{key!r} in {path} is a struct or sparse; {option} must name a full array of numbers")
        key = pick_key(path, key, shapes, option)
        dtype, attrs = arrays[key].dtype, arrays[key].attrs
        kind = attrs.get("MATLAB_class", b"").decode()
        if dtype.kind not in "biuf" or kind in ("char", "cell") or "MATLAB_empty" in attrs:
            kind = "complex" if dtype.names else kind or dtype.name
            raise InputError(f"{key!r} in {path} is a {kind} array; {option} must name one of real numbers")
    return LazyArray(shapes[key], dtype.newbyteorder("="), partial(_read_hdf5, path, key))


def _read_hdf5(path: Path, key: str, cut: Cut) -> np.ndarray:
    import h5py

    with h5py.File(path, "r") as file:
        values = file[key][cut[::-1]]
    return np.asarray(values).T.astype(values.dtype.newbyteorder("="), order="C", copy=False)
