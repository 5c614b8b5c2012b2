"""Arrays that are read from a file only where they are asked for."""

from collections.abc import Callable

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

Cut = tuple[int | slice, ...]


class LazyArray(BackendArray):
    """An array behind a function that reads a part of it; xarray and Dask ask for parts.

    Parameters
    ----------
    shape, dtype
        Cells along each axis, and type of a cell.
    read
        From integers and slices with positive steps, one an axis, to the values there.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, read: Callable[[Cut], np.ndarray]) -> None:
        self.shape = shape
        self.dtype = dtype
        self.read = read

    def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        """Read what xarray asks for, in integers and slices."""
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self.read)

    def load(self) -> np.ndarray:
        """Read everything."""
        return self.read((slice(None),) * len(self.shape))

    def variable(self, dims: list[str]) -> xr.Variable:
        """Name the dimensions; still nothing is read."""
        return xr.Variable(dims, indexing.LazilyIndexedArray(self))
