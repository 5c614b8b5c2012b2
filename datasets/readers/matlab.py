"""MATLAB files up to version 7."""

from pathlib import Path

import numpy as np
import scipy.io
import xarray as xr

from datasets.config import ConvertConfig
from datasets.errors import InputError
from datasets.readers.arrays import name_dims, pick_key, source_dims


def read(config: ConvertConfig) -> xr.Dataset:
    """Read one array of a .mat file; see `datasets.readers`."""
    path = Path(config.source)
    data = name_dims(load(path, config.key, "key"), source_dims(config), config.shape, config.order, f"{path}")
    return xr.Dataset({"data": data}, attrs={"files": [str(path)]})


def load(path: Path, key: str, option: str) -> np.ndarray:
    """Load the array `key` of a .mat file, or its only one.

    Parameters
    ----------
    path
        File to read.
    key
        Name of the array; may be empty where there is one only.
    option
        Setting that names the key, for the error message.

    Raises
    ------
    InputError
        Where the file is not of this format, or lacks the key.
    """
    try:
        shapes = {name: shape for name, shape, _ in scipy.io.whosmat(path)}
        key = pick_key(path, key, shapes, option)
        value = scipy.io.loadmat(path, variable_names=[key])[key]
    except NotImplementedError as error:
        raise InputError(
            f"{path} is a MATLAB file of version 7.3; save it again in MATLAB with the option -v7"
        ) from error
    except (ValueError, TypeError, scipy.io.matlab.MatReadError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a MATLAB file that can be read ({error}); check the file") from error
    if value.dtype.kind not in "biuf":
        raise InputError(f"{key!r} in {path} is a {value.dtype.name} array; {option} must name one of numbers")
    return value
