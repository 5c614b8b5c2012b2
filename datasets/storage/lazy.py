"""Stored arrays as lazy variables of xarray, chunked by shard for Dask, and open to reads without Dask."""

import json
from collections.abc import Collection, Hashable, Mapping
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import xarray as xr
from dask.base import tokenize

from datasets.errors import InputError
from datasets.lazy_array import Cut, LazyArray
from datasets.storage.metadata import parse_layout
from datasets.storage.objects import Objects
from datasets.storage.reader import ArrayReader

_BY_NAME: WeakValueDictionary[str, "StoredArray"] = WeakValueDictionary()
_OPENED = count()  # tells two openings of one volume apart: each has a reader, and a count of bytes, of its own


class StoredArray(LazyArray):
    """An array of a store.

    One that is `masked` holds, in place of the values, where chunks are missing or broken; in one that is `lenient`,
    with which such a mask goes, their cells hold the fill value.
    """

    def __init__(self, reader: ArrayReader, *, masked: bool = False, lenient: bool = False) -> None:
        super().__init__(reader.shape, np.dtype(bool) if masked else reader.dtype, self._read)
        self.reader, self.masked, self.lenient = reader, masked, lenient

    def _read(self, cut: Cut) -> np.ndarray:
        axes = [range(size)[part] for part, size in zip(cut, self.shape, strict=True)]
        region = tuple(slice(cells[0], cells[-1] + 1) if cells else slice(0) for cells in axes)
        whole = not (self.masked or self.lenient)
        values = self.reader.read(region) if whole else self.reader.read_masked(region)[self.masked]
        return values[tuple(slice(None, None, cells.step) for cells in axes)]


def open_lazily(
    objects: Objects, group: Mapping[str, Any], *, version: str | None, sparse: bool, lenient: Collection[str] = ()
) -> xr.Dataset:
    """Open all arrays of a group whose metadata are consolidated: values as stored, neither masked nor scaled.

    Coordinates of dimensions are in memory, all else is backed by Dask in pieces of a shard. `InputError` where one
    cannot be read here, or its dimensions have no names.

    `group` is the parsed ``zarr.json`` and `version` that file's, by which Dask tells an older store apart; `sparse` is
    as in `ArrayReader`. Variables named in `lenient` are lenient `StoredArray`s, each with a masked ``NAME_gone``.
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
        opened_as = {name: StoredArray(reader, lenient=name in lenient)}
        if name in lenient:
            opened_as[f"{name}_gone"] = StoredArray(reader, masked=True)
        for key, source in opened_as.items():
            variables[key] = source.variable(list(layout.dims))
            variables[key].encoding = {"chunks": layout.chunk, "shards": layout.shard if layout.sharded else None}
        variables[name].attrs = dict(layout.attrs)
        sources |= opened_as
    raw = xr.Dataset(variables, attrs=group.get("attributes"))
    ds = xr.decode_cf(raw, mask_and_scale=False, decode_coords="all", decode_timedelta=False)
    stamp = tokenize(objects.uri, version, sorted(lenient), json.dumps(group, sort_keys=True))
    opened = next(_OPENED)
    chunked: dict[Hashable, xr.Variable] = {}
    for name, source in sources.items():
        if name in ds.xindexes:
            continue
        dask_name = f"{name}-{stamp}-{opened}"
        variable = ds.variables[name]
        pieces = dict(zip(variable.dims, source.reader.layout.shard, strict=True))
        chunked[name] = variable.chunk(pieces, name=dask_name, inline_array=True)
        if variable.dtype.kind in "biuf":  # not so for dates, which are decoded from numbers
            _BY_NAME[dask_name] = source
    return ds.assign(chunked)


def stored_array(array: xr.DataArray) -> StoredArray | None:
    """Find what lies behind a variable of `open_lazily`, so that a block is read without Dask's detour.

    None for one that was cut or computed with, in memory, or of another process.
    """
    return _BY_NAME.get(str(getattr(array.variable.data, "name", ""))) if array.chunks is not None else None
