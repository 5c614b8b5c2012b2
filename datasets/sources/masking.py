"""Where a source holds no data: NaN, a value, missing pieces, dead traces, and what a mask of its own says."""

from functools import reduce
from operator import and_

import dask
import numpy as np
import xarray as xr
from dask.system import CPU_COUNT

from datasets.config import ConvertConfig
from datasets.dims import refuse_unknown
from datasets.progress import Progress
from datasets.storage.layout import pieces, plan_chunks

_TRACE_BYTES = 32 * 2**20
_MOST_READERS = 4


def add_mask(ds: xr.Dataset, config: ConvertConfig, kind: str) -> xr.Dataset:
    """Hand the data to Dask and combine all that says "no data" into ``valid``, over all dimensions of the data.

    What is known of whole traces or slices only takes a first pass over the source, of the format `kind`, and is kept
    in memory, so that the mask of a piece needs nothing but the piece. There is no ``valid`` where nothing can be
    missing. `InputError` where `constant_pieces` names a dimension that the data lack.
    """
    refuse_unknown("constant_pieces", config.constant_pieces, ds["data"].dims)
    masks = [_live_traces(ds["data"], config)] if kind == "segy" else []
    sizes, itemsize = ds["data"].sizes, ds["data"].dtype.itemsize
    edges = pieces(sizes, plan_chunks(sizes, itemsize, config.chunks, config.block)[1])
    for name in [name for name in ("data", "valid") if name in ds]:
        # The token spares Dask the hashing of the whole array.
        own = {dim: edge for dim, edge in edges.items() if dim in ds[name].dims}
        ds[name] = ds[name].chunk(own, token=f"{name}-{config.source}")
    data = ds["data"]
    if "valid" in ds:
        masks.append(ds["valid"])
    if data.dtype.kind == "f":
        masks.append(data.copy(data=np.isfinite(data.data)))
    missing = [*ds.attrs.get("nodata", []), *([] if config.nodata is None else [config.nodata])]
    masks += [data != value for value in missing]
    if config.constant_pieces:
        masks.append(_compute(data.max(config.constant_pieces) != data.min(config.constant_pieces)))
    if not masks:
        return ds
    full = reduce(and_, masks).broadcast_like(data).transpose(*data.dims).reset_coords(drop=True)
    return ds.assign(valid=full.variable)


def _live_traces(data: xr.DataArray, config: ConvertConfig) -> xr.DataArray:
    """Find the traces that are not zero throughout, as dead ones without a flag are."""
    first, second = (dim for dim in data.dims if dim != config.vertical)
    trace = max(1, data.sizes[config.vertical] * data.dtype.itemsize)
    within = min(data.sizes[second], max(1, _TRACE_BYTES // trace))
    edges = {first: max(1, _TRACE_BYTES // (trace * within)), second: within, config.vertical: -1}
    lines = data.chunk(edges, token=f"traces-{config.source}")
    axis = data.dims.index(config.vertical)
    with Progress("looking for dead traces", data.nbytes) as progress:

        def live(block: np.ndarray) -> np.ndarray:
            progress.add(block.nbytes)
            return (block != 0).any(axis=axis)

        mask = lines.data.map_blocks(live, drop_axis=axis, dtype=bool, meta=np.empty((0,) * (data.ndim - 1), bool))
        return _compute(xr.DataArray(mask, dims=[first, second]))


def _compute(mask: xr.DataArray) -> xr.DataArray:
    with dask.config.set(num_workers=min(CPU_COUNT, _MOST_READERS)):
        return mask.compute()
