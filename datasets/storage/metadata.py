"""How a Zarr v3 array lies in its store, read from its metadata."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from zarr.dtype import parse_dtype

from datasets.errors import InputError


@dataclass(frozen=True)
class ArrayLayout:
    """An array of D dimensions."""

    shape: tuple[int, ...]
    dtype: np.dtype  # in this machine's byte order
    fill: Any  # value of the cells of chunks that are not stored
    shard: tuple[int, ...]  # cells of a stored object [D]
    chunk: tuple[int, ...]  # cells of the pieces it is decoded in [D]; the same without sharding
    codecs: Sequence[Mapping[str, Any]]  # of a chunk, as the metadata list them
    index_codecs: Sequence[Mapping[str, Any]] | None  # of a shard's index; none without sharding
    index_first: bool  # whether it is at the start of the shard, not at its end
    prefix: str  # of an object's name: `c` and the separator `/` make `c/0/1/2`
    separator: str
    dims: tuple[str, ...]  # empty where they have no names
    attrs: dict[str, Any]

    @property
    def sharded(self) -> bool:
        """Whether a stored object holds chunks and an index."""
        return self.index_codecs is not None

    @property
    def counts(self) -> tuple[int, ...]:
        """Chunks in a shard [D]."""
        return tuple(outer // inner for outer, inner in zip(self.shard, self.chunk, strict=True))

    @property
    def index_bytes(self) -> int:
        """Stored size of a shard's index: two 64-bit numbers a chunk, and the checksum if there is one."""
        checks = sum(codec["name"] == "crc32c" for codec in self.index_codecs or ())
        return 16 * math.prod(self.counts) + 4 * checks

    def key(self, place: Sequence[int]) -> str:
        """Name of the object of the shard at `place`, below the array's own name."""
        parts = list(map(str, place))
        return self.separator.join([self.prefix, *parts] if self.prefix else parts or ["0"])


def parse_layout(document: Mapping[str, Any], where: str) -> ArrayLayout:
    """Read the parsed ``zarr.json`` of an array; `InputError` says `where` it is not of Zarr v3 on a regular grid."""
    try:
        if document["zarr_format"] != 3 or document["node_type"] != "array":
            raise InputError(f"{where} is not a Zarr v3 array; convert its source again")
        kind = parse_dtype(document["data_type"], zarr_format=3)
        if document["chunk_grid"]["name"] != "regular":
            raise InputError(f"{where} has chunks of unequal size; convert its source again")
        shard = tuple(document["chunk_grid"]["configuration"]["chunk_shape"])
        chunk, codecs, index_codecs, index_first = shard, list(document["codecs"]), None, False
        if codecs[0]["name"] == "sharding_indexed":
            inner = codecs[0]["configuration"]
            chunk, codecs, index_codecs = tuple(inner["chunk_shape"]), inner["codecs"], inner["index_codecs"]
            index_first = inner.get("index_location", "end") == "start"
        names = document["chunk_key_encoding"]
        default = names["name"] == "default"
        return ArrayLayout(
            shape=tuple(document["shape"]),
            dtype=np.dtype(kind.to_native_dtype()).newbyteorder("="),
            fill=kind.from_json_scalar(document["fill_value"], zarr_format=3),
            shard=shard,
            chunk=chunk,
            codecs=codecs,
            index_codecs=index_codecs,
            index_first=index_first,
            prefix="c" if default else "",
            separator=(names.get("configuration") or {}).get("separator", "/" if default else "."),
            dims=tuple(str(dim) for dim in document.get("dimension_names") or ()),
            attrs=dict(document.get("attributes") or {}),
        )
    except (KeyError, TypeError, IndexError) as error:
        raise InputError(f"the metadata of {where} are not those of a Zarr v3 array ({error!r})") from error
