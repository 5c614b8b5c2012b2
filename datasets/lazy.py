"""Stored arrays as lazy variables of xarray: chunked by shard for Dask, and open to reads that need no Dask."""

import json
from collections.abc import Collection, Hashable, Mapping
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import xarray as xr
from dask.base import tokenize
from xarray.backends import BackendArray
from xarray.core import indexing

from datasets.errors import InputError
from datasets.metadata import parse_layout
from datasets.objects import Objects
from datasets.reader import ArrayReader

_BY_NAME: WeakValueDictionary[str, "StoredArray"] = WeakValueDictionary()
_OPENED = count()  # tells two openings of one volume apart: each has a reader, and a count of bytes, of its own


class StoredArray(BackendArray):
    """An array of a store as xarray's lazy indexing wants it.

    Parameters
    ----------
    reader
        Reads its regions.
    masked
        Whether cells whose chunks are missing or broken are true, and all others false, in place of the values.
    lenient
        Whether such cells are read as the fill value, because a mask made with `masked` goes with them.
    """

    def __init__(self, reader: ArrayReader, *, masked: bool = False, lenient: bool = False) -> None:
        self.reader, self.masked, self.lenient = reader, masked, lenient
        self.shape = reader.shape
        self.dtype = np.dtype(bool) if masked else reader.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, key: tuple[int | slice, ...]) -> np.ndarray:
        """Read the cells that integers from 0 up and slices, with steps of any sign, name."""
        region: list[slice] = []
        inside: list[slice | int] = []
        for part, size in zip(key, self.shape, strict=True):
            if isinstance(part, slice):
                cells = range(*part.indices(size))
                ends = sorted((cells[0], cells[-1])) if len(cells) else [0, -1]
                region.append(slice(ends[0], ends[1] + 1))
                inside.append(slice(None, None, cells.step))
            else:
                region.append(slice(int(part), int(part) + 1))
                inside.append(0)
        return np.asarray(self.read(tuple(region))[tuple(inside)])

    def read(self, region: tuple[slice, ...]) -> np.ndarray:
        """Read the cells of slices without steps."""
        if self.masked:
            return self.reader.read_masked(region)[1]
        return self.reader.read_masked(region)[0] if self.lenient else self.reader.read(region)


def open_lazily(
    objects: Objects, group: Mapping[str, Any], *, version: str | None, sparse: bool, lenient: Collection[str] = ()
) -> xr.Dataset:
    """Open all arrays of a group whose metadata are consolidated.

    Parameters
    ----------
    objects
        The store.
    group
        Its parsed ``zarr.json``.
    version
        Version of that file, by which Dask tells an older store of the same address apart.
    sparse
        Whether chunks that are not stored hold the fill value; otherwise they are missing.
    lenient
        Variables whose missing and broken chunks are read as the fill value; each gets a neighbour ``NAME_gone`` that
        is true there.

    Returns
    -------
    xarray.Dataset
        Stored values, neither masked nor scaled; coordinates of dimensions in memory, all else backed by Dask in
        pieces of a shard.

    Raises
    ------
    InputError
        Where an array cannot be read here, or its dimensions have no names.
    """
    variables: dict[str, xr.Variable] = {}
    sources: dict[str, StoredArray] = {}
    for name, document in group["consolidated_metadata"]["metadata"].items():
        if document["node_type"] != "array" or "/" in name:
            continue  # groups within hold other things, such as overviews
        layout = parse_layout(document, objects.name(name))
        if len(layout.dims) != len(layout.shape):
            raise InputError(f"the dimensions of {objects.name(name)} have no names; convert its source again")
        reader = ArrayReader(objects, name, layout, sparse=sparse)
        sources[name] = StoredArray(reader, lenient=name in lenient)
        encoding = {"chunks": layout.chunk, "shards": layout.shard if layout.sharded else None}
        variables[name] = xr.Variable(layout.dims, _lazy(sources[name]), dict(layout.attrs), encoding)
        if name in lenient:
            sources[f"{name}_gone"] = StoredArray(reader, masked=True)
            variables[f"{name}_gone"] = xr.Variable(layout.dims, _lazy(sources[f"{name}_gone"]), None, encoding)
    raw = xr.Dataset(variables, attrs=dict(group.get("attributes") or {}))
    ds = xr.decode_cf(raw, mask_and_scale=False, decode_coords="all", decode_timedelta=False)
    stamp = tokenize(objects.uri, version, sorted(lenient), json.dumps(group, sort_keys=True))
    opened = next(_OPENED)
    chunked: dict[Hashable, xr.Variable] = {}
    for name, source in sources.items():
        if name in ds.xindexes:
            continue
        dask_name = f"{name}-{stamp}-{opened}"
        pieces = dict(zip(ds[name].dims, source.reader.layout.shard, strict=True))
        chunked[name] = ds.variables[name].chunk(pieces, name=dask_name, inline_array=True)
        if ds[name].dtype.kind in "biuf":  # not so for dates, which are decoded from numbers
            _BY_NAME[dask_name] = source
    return ds.assign({name: var for name, var in chunked.items() if name not in ds.coords}).assign_coords(
        {name: var for name, var in chunked.items() if name in ds.coords}
    )


def stored_array(array: xr.DataArray) -> StoredArray | None:
    """Find what lies behind a variable of `open_lazily`, so that a block is read without Dask's detour.

    Parameters
    ----------
    array
        The variable just as it was opened; nothing is found for one that was cut or computed with, for one in memory,
        or in another process.
    """
    return _BY_NAME.get(str(getattr(array.variable.data, "name", ""))) if array.chunks is not None else None


def _lazy(source: StoredArray) -> indexing.LazilyIndexedArray:
    return indexing.LazilyIndexedArray(source)
