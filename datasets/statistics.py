"""Mean and deviation of a volume's cells with data: from what is stored beside it, or in one pass of Dask.

They are of all parts of the split: no label goes into them, but a network has so seen the test cells as unlabelled
input. Shapes: C channels, N the cells along each dimension of space.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import dask
import numpy as np
import xarray as xr

from datasets.dims import refuse_unknown
from datasets.errors import InputError
from datasets.measures.measuring import Gathered, Measuring
from datasets.measures.summary import GROUP, VERSION, summarise
from datasets.storage.grids import grids, mask_of
from datasets.storage.layout import pieces, plan_chunks
from datasets.store import open_part
from datasets.volume import Volume


@dataclass(frozen=True)
class Statistics:
    """What the data are normalised by, float32 [C, 1 or N, ...], to be broadcast against [C, *N]."""

    mean: np.ndarray  # 0 of an entry without data
    deviation: np.ndarray  # 1 of an entry without data, or of one value only


def masked_data(ds: xr.Dataset) -> xr.DataArray:
    """Return the data as lazy float64, NaN where the mask or the value says that there is none."""
    data = ds["data"].astype(np.float64)
    keep = np.isfinite(data)
    return data.where(keep & ds["valid"] if "valid" in ds else keep)


def read_summary(uri: str | Path) -> xr.Dataset | None:
    """Read the statistics stored beside a volume; None without any, or of an unknown version."""
    stored = open_part(uri, GROUP)
    return stored.load() if stored is not None and stored.attrs.get("version") == VERSION else None


def measure(ds: xr.Dataset) -> xr.Dataset:
    """Make what `datasets.measures.summary.summarise` makes of an opened volume, read once in pieces of a shard."""
    data = ds["data"]
    plan = Measuring.of(data)
    stored = data.encoding.get("shards") or data.encoding.get("chunks") or ()
    preferred = dict(zip(map(str, data.dims), stored, strict=False))
    edges = pieces(data.sizes, plan_chunks(data.sizes, data.dtype.itemsize, preferred)[1])
    ds = ds.assign(data=data.chunk(edges))
    blocks, mask = ds["data"].data.to_delayed(), mask_of(ds)
    masks = np.full(blocks.shape, None) if mask is None else mask.data.to_delayed()
    (grid,) = grids(ds[["data"]])
    later = dask.delayed(plan.measure, pure=False)
    (measured,) = dask.compute([(where, later(blocks[at], masks[at], where)) for at, where in grid.pieces()])
    return summarise(plan, Gathered.of(plan, measured))


def count_labels(labels: xr.DataArray) -> np.ndarray:
    """Count the cells of every value of a uint8 array, int64 [256], chunk by chunk."""
    count = dask.delayed(lambda block: np.bincount(block.ravel(), minlength=256), pure=False)
    counts = dask.compute(*map(count, labels.chunk().data.to_delayed().ravel()))
    return np.asarray(np.sum(counts, axis=0, dtype=np.int64))


def statistics(volume: Volume, keep: list[str] | None = None, stored: xr.Dataset | None = None) -> Statistics:
    """Measure the data, in float64: each entry of the dimensions `keep` by itself; none means the channel dimensions.

    Where `stored`, what `read_summary` found beside the volume, tells these entries apart, nothing is read.
    `InputError` where `keep` names a dimension that the data lack, or no cell holds data.
    """
    kept = list(volume.channel_dims) if keep is None else keep
    refuse_unknown("data.keep", kept, volume.dataset["data"].dims)
    if stored is not None and set(kept) <= set(stored["mean"].dims):
        return _shape(volume, kept, *_merge(stored, kept))
    values = masked_data(volume.dataset).transpose(*volume.channel_dims, *volume.space).chunk()
    others = [dim for dim in values.dims if dim not in kept]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=RuntimeWarning)  # entries without data: handled below
        moments = dask.compute(values.mean(others), values.std(others), values.count(others))
    return _shape(volume, kept, *moments)


def _merge(stored: xr.Dataset, kept: list[str]) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    others = [dim for dim in stored["mean"].dims if dim not in kept]
    count = stored["count"].sum(others)
    whole = np.maximum(count, 1)
    mean = (stored["mean"] * stored["count"]).sum(others) / whole
    squares = ((stored["deviation"] ** 2 + (stored["mean"] - mean) ** 2) * stored["count"]).sum(others)
    return mean, (squares / whole) ** 0.5, count


def _shape(volume: Volume, kept: list[str], *moments: xr.DataArray) -> Statistics:
    sizes = volume.dataset["data"].sizes
    order = (*volume.channel_dims, *volume.space)
    full = [dim for dim in order if dim in kept]
    shape = [sizes[dim] if dim in kept else 1 for dim in order]
    mean, deviation, count = (moment.transpose(*full).values.reshape(shape) for moment in moments)
    if count.sum() == 0:
        raise InputError("the volume holds no data: every cell is NaN or masked; check its no-data value and its mask")
    mean = np.where(count > 0, mean, 0.0)
    # A constant entry's deviation is rounding error of its own size.
    deviation = np.where((count > 0) & (deviation > 1e-9 * np.abs(mean)), deviation, 1.0)
    channels, within = [sizes[dim] for dim in volume.channel_dims], shape[len(volume.channel_dims) :]
    both = (np.broadcast_to(moment, (*channels, *within)) for moment in (mean, deviation))
    return Statistics(*(moment.reshape(volume.n_channels, *within).astype(np.float32) for moment in both))
