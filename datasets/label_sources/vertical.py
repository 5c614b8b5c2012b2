"""Which dimension of a volume points down, and where its cells are."""

import numpy as np
import xarray as xr

from datasets.errors import InputError

_DOWNWARD = ("twt", "depth", "time", "layer", "elevation", "z")


def vertical_dim(ds: xr.Dataset) -> str | None:
    """Name of the vertical dimension of the data, or None."""
    return next((name for name in _DOWNWARD if name in ds["data"].dims), None)


def vertical_values(ds: xr.Dataset, purpose: str) -> tuple[str, np.ndarray]:
    """Name and coordinate of the vertical dimension.

    Raises
    ------
    InputError
        Where there is none, or it has no increasing or decreasing coordinate.
    """
    dim = vertical_dim(ds)
    if dim is None:
        dims = list(map(str, ds["data"].dims))
        raise InputError(
            f"{purpose} needs a vertical dimension, one of {list(_DOWNWARD)}, but the data have {dims}; rename dims"
        )
    if dim not in ds.coords:
        raise InputError(f"{purpose} needs the coordinate of {dim}; give it with coordinates, as in {dim}: 0:4")
    values = ds[dim].values
    if values.dtype.kind not in "iuf" or not (np.all(np.diff(values) > 0) or np.all(np.diff(values) < 0)):
        raise InputError(f"{purpose} needs a coordinate of {dim} that always rises or always falls; correct it")
    return dim, values.astype(np.float64)
