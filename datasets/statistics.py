"""Mean and deviation of a volume, in one pass of Dask that ignores no-data.

Shapes: C channels, N the cells along each dimension of space.
"""

import warnings
from dataclasses import dataclass

import dask
import dask.array as da
import numpy as np
import xarray as xr

from datasets.errors import InputError
from datasets.volume import Volume


@dataclass(frozen=True)
class Statistics:
    """What the data are normalised by.

    Attributes
    ----------
    mean, deviation
        float32 [C, 1 or N, ...], to be broadcast against [C, *N]. An entry without data has mean 0; an entry without
        data, or of one value only, has deviation 1.
    valid_share
        Share of the cells that hold data.
    """

    mean: np.ndarray
    deviation: np.ndarray
    valid_share: float


def masked_data(ds: xr.Dataset) -> xr.DataArray:
    """Return the data as lazy float64, NaN where the mask or the value itself says that there is none."""
    data = ds["data"].astype(np.float64)
    keep = np.isfinite(data)
    return data.where(keep & ds["valid"] if "valid" in ds else keep)


def statistics(volume: Volume, keep: list[str] | None = None) -> Statistics:
    """Measure the data, accumulated in float64 by merging the moments of the chunks.

    Parameters
    ----------
    volume
        The volume.
    keep
        Dimensions whose entries are each measured by themselves; all others share. None means the channel dimensions.

    Raises
    ------
    InputError
        Where `keep` names a dimension that the data lack, or no cell holds data.
    """
    data = volume.dataset["data"]
    kept = list(volume.channel_dims) if keep is None else keep
    unknown = [dim for dim in kept if dim not in data.dims]
    if unknown:
        raise InputError(f"data.keep names {unknown}, but the data have the dimensions {list(data.dims)}")
    order = (*volume.channel_dims, *volume.space)
    values = masked_data(volume.dataset).transpose(*order)
    axes = tuple(axis for axis, dim in enumerate(order) if dim not in kept)
    array = values.data if isinstance(values.data, da.Array) else da.from_array(values.data)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=RuntimeWarning)  # entries without data: handled below
        mean, deviation, count = dask.compute(
            da.nanmean(array, axis=axes, keepdims=True),
            da.nanstd(array, axis=axes, keepdims=True),
            da.isfinite(array).sum(axis=axes, keepdims=True),
        )
    if count.sum() == 0:
        raise InputError("the volume holds no data: every cell is NaN or masked; check its no-data value and its mask")
    mean = np.where(count > 0, mean, 0.0)
    # A constant entry's deviation is rounding error of its own size.
    deviation = np.where((count > 0) & (deviation > 1e-9 * np.abs(mean)), deviation, 1.0)
    within = tuple(size if dim in kept else 1 for dim, size in zip(volume.space, volume.shape, strict=True))
    channels = tuple(values.sizes[dim] for dim in volume.channel_dims)

    def to_channels(moment: np.ndarray) -> np.ndarray:
        full = np.broadcast_to(moment, (*channels, *within))
        return full.reshape(volume.n_channels, *within).astype(np.float32)

    return Statistics(to_channels(mean), to_channels(deviation), float(count.sum() / array.size))
