"""Where the chunks of each shard lie: the indices that Zarr v3 stores in them, read once and kept."""

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from datasets.storage.codecs import CorruptChunkError, Decoder
from datasets.storage.metadata import ArrayLayout
from datasets.storage.objects import Ask, Got

_ABSENT = 2**64 - 1
_KEPT = 4096  # shards; an index takes 16 bytes a chunk


@dataclass(frozen=True)
class ShardIndex:
    """First byte of every chunk of a shard, and the byte after the last, if it is stored; and the shard's version."""

    ranges: list[tuple[int, int] | None]
    etag: str | None


class IndexCache:
    """Indices of the shards of one array, of which the last used are kept; safe from several threads."""

    def __init__(self, layout: ArrayLayout) -> None:
        self._layout = layout
        self._decode = Decoder(layout.index_codecs or (), (*layout.counts, 2), np.dtype("uint64"))
        self._kept: OrderedDict[str, ShardIndex] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: str) -> ShardIndex | None:
        """Return the index of a shard, if it is known."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def forget(self, key: str) -> None:
        """Drop the index of a shard that was replaced."""
        with self._lock:
            self._kept.pop(key, None)

    def ask(self, key: str) -> Ask:
        """Say which bytes hold the index of a shard."""
        size = self._layout.index_bytes
        return Ask(key, 0, size) if self._layout.index_first else Ask(key, suffix=size)

    def keep(self, key: str, got: Got) -> ShardIndex:
        """Read the index from the bytes asked for, or those of the whole shard, and keep it.

        `CorruptChunkError` where it is none, or points beyond the shard.
        """
        size = self._layout.index_bytes
        data = got.data[:size] if self._layout.index_first else got.data[-size:]
        table = self._decode(data).reshape(-1, 2).tolist()
        ranges = [None if first == length == _ABSENT else (first, first + length) for first, length in table]
        if any(place and place[1] > got.size for place in ranges):
            raise CorruptChunkError("its index points beyond its end")
        index = ShardIndex(ranges, got.etag)
        with self._lock:
            self._kept[key] = index
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return index
