"""Coarser copies of a volume's data for viewing, each half as fine as the one before: means of the cells with data."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from zarr.abc.store import Store

from datasets.dims import entry_dims
from datasets.storage.layout import SHARD_BYTES, encoding_of, plan_chunks

GROUP = "overviews"
FINE_ENOUGH = 256  # cells along a dimension that is not halved again


def plan_levels(data: xr.DataArray) -> list[dict[str, int]]:
    """By how much each level divides each dimension, but for bands and dates, of the one before; none for one piece."""
    keep = entry_dims(data.sizes)
    sizes = {str(dim): size for dim, size in data.sizes.items()}
    levels: list[dict[str, int]] = []
    while data.nbytes > SHARD_BYTES:
        factors = {dim: 2 if dim not in keep and size > FINE_ENOUGH else 1 for dim, size in sizes.items()}
        if set(factors.values()) == {1}:
            break
        levels.append(factors)
        sizes = {dim: -(-size // factors[dim]) for dim, size in sizes.items()}
    return levels


@dataclass(frozen=True)
class Source:
    """The written level that the next one is made from."""

    data: zarr.Array
    valid: zarr.Array | None  # none where the data themselves say it
    like: xr.Dataset  # of its sizes and coordinates

    @classmethod
    def of(cls, target: Path | Store, group: str, like: xr.Dataset) -> "Source":
        """Open what has been written of a level."""
        stored: Any = zarr.open_group(target, mode="r", path=group)
        valid = stored["valid"] if "valid" in stored and like["valid"].dims == like["data"].dims else None
        return cls(stored["data"], valid, like)


Encoding = dict[Hashable, dict[str, Any]]


def level(source: Source, factors: Mapping[str, int]) -> tuple[xr.Dataset, Encoding]:
    """Describe the next level as a dataset that Dask computes piece by piece, with its encoding for xarray.

    A last, incomplete cell and its coordinates are means of what there is of it.
    """
    largest = SHARD_BYTES // 8  # pieces are small: each is made from up to eight times as many cells
    stored = source.data
    if stored.shards is not None and math.prod(stored.shards) * 4 <= largest:
        cut = {"chunks": stored.chunks, "shards": stored.shards}  # so that each is made from whole shards
    else:
        sizes = {dim: -(-size // factors[str(dim)]) for dim, size in source.like["data"].sizes.items()}
        cut = encoding_of(*plan_chunks(sizes, 4, shard_bytes=largest))
    return _describe(source, factors, cut)


def halved(source: Source) -> tuple[xr.Dataset, Encoding]:
    """Describe the first level with pieces that are those of the data, halved; these have even edges there."""
    data = source.like["data"]
    factors = plan_levels(data)[0]
    edges = [-(-own[0] // factors[str(dim)]) for dim, own in zip(data.dims, data.chunks or (), strict=True)]
    fitting = [
        next(size for size in (-(-chunk // factors[str(dim)]), chunk, edge) if edge % size == 0)
        for dim, chunk, edge in zip(data.dims, source.data.chunks, edges, strict=True)
    ]
    return _describe(source, factors, {"chunks": tuple(fitting), "shards": tuple(edges)})


def _describe(
    source: Source, factors: Mapping[str, int], cut: dict[str, tuple[int, ...]]
) -> tuple[xr.Dataset, Encoding]:
    data = source.like["data"]
    steps = tuple(factors[str(dim)] for dim in data.dims)
    sizes = tuple(-(-size // step) for size, step in zip(data.shape, steps, strict=True))
    coarse = da.map_blocks(
        partial(_coarsen_block, source, steps),
        chunks=da.core.normalize_chunks(cut.get("shards", sizes), sizes),
        dtype=np.float32,
        meta=np.empty((0,) * data.ndim),
    )
    attrs = {key: data.attrs[key] for key in ("long_name", "units") if key in data.attrs}
    coords = {name: _coarsen_coordinate(coord, factors) for name, coord in data.coords.items()}
    encoding: Encoding = {name: {"_FillValue": None} for name in (*coords, "data")}
    encoding["data"] |= cut | {"compressors": source.data.compressors}
    if "spatial_ref" in coords:
        encoding["data"]["grid_mapping"] = "spatial_ref"
    return xr.Dataset({"data": (data.dims, coarse, attrs)}, coords).drop_encoding(), encoding


def masked(values: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """Bring values to float32, NaN where the mask says that there are none."""
    wide = values.astype(np.float32)
    if valid is not None:
        wide[~valid] = np.nan
    return wide


def coarsen(values: np.ndarray, steps: tuple[int, ...]) -> np.ndarray:
    """Average cubes of so many cells along every axis, NaN aside if not all are: float32 [*N] -> [*ceil(N / steps)]."""
    held = np.isfinite(values)
    total, count = np.where(held, values, np.float32(0)), held.astype(np.uint16)
    for axis, step in enumerate(steps):
        if step > 1:
            starts = np.arange(0, values.shape[axis], step)
            total, count = (np.add.reduceat(part, starts, axis=axis) for part in (total, count))
    return np.where(count, total / np.maximum(count, 1), np.nan).astype(np.float32)


def _coarsen_block(source: Source, steps: tuple[int, ...], block_info: Any = None) -> np.ndarray:
    where = tuple(
        slice(start * step, min(stop * step, size))
        for (start, stop), step, size in zip(block_info[None]["array-location"], steps, source.data.shape, strict=True)
    )
    valid = None if source.valid is None else np.asarray(source.valid[where])
    return coarsen(masked(np.asarray(source.data[where]), valid), steps)


def _coarsen_coordinate(coord: xr.DataArray, factors: Mapping[str, int]) -> xr.DataArray:
    steps = {dim: factors[str(dim)] for dim in coord.dims if factors.get(str(dim), 1) > 1}
    coarse = coord.reset_coords(drop=True)
    if steps and coord.dtype.kind in "iuf":
        coarse = coarse.astype(np.float64).coarsen(steps, boundary="pad").mean()
    else:
        coarse = coarse.isel({dim: slice(None, None, step) for dim, step in steps.items()})
    attrs = {key: value for key, value in coord.attrs.items() if key != "GeoTransform"}
    if "spacing" in attrs and coord.ndim == 1:
        attrs["spacing"] *= steps.get(coord.dims[0], 1)
    return xr.DataArray(coarse.values, dims=coarse.dims, attrs=attrs)
