"""Read regions of one Zarr v3 array: few coalesced requests, all shards at once, every byte accounted for.

A missing or broken chunk is never read as zeros: it is an error that names it, or marked in a mask.
"""

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from datasets.errors import InputError
from datasets.storage.codecs import CorruptChunkError, Decoder
from datasets.storage.metadata import ArrayLayout
from datasets.storage.objects import Ask, MissingObjectError, Objects, TruncatedObjectError
from datasets.storage.shard_index import IndexCache
from datasets.storage.shards import Cells, Piece, ShardPlan, Span, chunks_within, coalesce, plan_region

Stored = tuple[Piece, int, int]  # and the bytes of its chunk within the shard: the first, and the one after the last
Failure = tuple[Piece, Exception]
_GAP = 512 * 2**10  # bytes that a connection carries in the time of a request or less
_SLACK = 0.2  # of the bytes wanted may be fetched in vain to save requests: amplification stays below 1.3
_MOST = 4 * 2**20  # bytes of a request above which a second connection is faster
_WHOLE = 0.85  # share of a shard's chunks from which it is read whole, index and all, ...
_ALONE = 16 * 2**20  # ... if it has no more bytes than this, decoded
_WINDOW = 256 * 2**20  # bytes of decoded chunks on their way at any time
_SHARDS = 32  # shards read at once
_REQUESTS = 32  # requests on their way, and answers being decoded, at once
_BATCH = 2**20  # decoded bytes that are worth a thread


@dataclass(frozen=True)
class _Target:
    values: np.ndarray
    gone: np.ndarray | None  # where it is wanted, marks what could not be read


class ArrayReader:
    """Reads regions of the array named `path` of a store; safe from several threads, pickles without what is cached.

    In a `sparse` one, chunks that are not stored hold the fill value, as the format allows; otherwise they are missing.
    """

    def __init__(self, objects: Objects, path: str, layout: ArrayLayout, *, sparse: bool = False) -> None:
        self.objects, self.path, self.layout, self.sparse = objects, path, layout, sparse
        self.shape, self.dtype = layout.shape, layout.dtype
        self._chunk_bytes = math.prod(layout.chunk) * layout.dtype.itemsize
        self._decode = Decoder(layout.codecs, layout.chunk, layout.dtype)
        self._indices = IndexCache(layout) if layout.sharded else None

    def __reduce__(self) -> tuple:
        return partial(ArrayReader, sparse=self.sparse), (self.objects, self.path, self.layout)

    def read(self, region: Cells) -> np.ndarray:
        """Read a region, cells along each dimension without steps.

        `InputError` where the store fails, an object was replaced meanwhile, or a chunk is broken or missing.
        """
        return self._read(region, masked=False).values

    def read_masked(self, region: Cells) -> tuple[np.ndarray, np.ndarray]:
        """Read a region as far as its chunks are there and sound.

        The second array, bool, is true where the chunk is missing or broken and the cells hold the fill value.
        `InputError` where the store refuses or does not answer, or an object was replaced meanwhile.
        """
        target = self._read(region, masked=True)
        assert target.gone is not None
        return target.values, target.gone

    def _read(self, region: Cells, *, masked: bool) -> _Target:
        shape = [len(range(size)[part]) for part, size in zip(region, self.shape, strict=True)]
        target = _Target(np.empty(shape, self.dtype), np.zeros(shape, bool) if masked else None)
        for plans in self._windows(plan_region(region, self.shape, self.layout.shard, self.layout.chunk)):
            read = partial(self._read_shard, target=target)
            list(map(read, plans) if len(plans) == 1 else _threads("shards", _SHARDS, os.getpid()).map(read, plans))
        return target

    def _windows(self, plans: Sequence[ShardPlan]) -> Iterator[list[ShardPlan]]:
        window: list[ShardPlan] = []
        size = 0
        for plan in plans:
            cost = len(plan.pieces) * self._chunk_bytes
            if window and size + cost > _WINDOW:
                yield window
                window, size = [], 0
            window.append(plan)
            size += cost
        if window:
            yield window

    def _read_shard(self, plan: ShardPlan, target: _Target) -> None:
        """Read what the region takes from one shard; what arrives broken is fetched twice more before it counts so."""
        pieces = plan.pieces
        for _ in range(3):
            try:
                failed = self._fetch(plan.shard, pieces, target)
            except (CorruptChunkError, TruncatedObjectError) as error:
                failed = [(piece, error) for piece in pieces]
            if not failed:
                return
            pieces = [piece for piece, _ in failed]
            if self._indices is not None:
                self._indices.forget(self._key(plan.shard))
        for piece, reason in failed:
            self._leave_out(plan.shard, piece, target, f"broken: {reason}")

    def _fetch(self, shard: tuple[int, ...], pieces: Sequence[Piece], target: _Target) -> list[Failure]:
        key, layout, whole = self._key(shard), self.layout, None
        try:
            if self._indices is None:
                got = self.objects.get(Ask(key))
                return self._place([(pieces[0], 0, len(got.data))], got.data, 0, target)
            index = self._indices.find(key)
            if index is None:
                small = math.prod(layout.counts) * self._chunk_bytes <= _ALONE
                if small and len(pieces) >= _WHOLE * chunks_within(shard, layout.shape, layout.shard, layout.chunk):
                    whole = self.objects.get(Ask(key))
                index = self._indices.keep(key, whole or self.objects.get(self._indices.ask(key)))
        except MissingObjectError as error:
            for piece in pieces:
                self._leave_out(shard, piece, target, cause=error)
            return []
        known: list[Stored] = []
        for piece in pieces:
            found = index.ranges[piece.index]
            if found is None:
                self._leave_out(shard, piece, target)
            else:
                known.append((piece, *found))
        if whole:
            each = max(1, _BATCH // self._chunk_bytes)
            members = list(range(len(known)))
            spans = [Span(0, whole.size, members[at : at + each]) for at in range(0, len(known), each)]
        else:
            spans = coalesce([(start, stop) for _, start, stop in known], gap=_GAP, slack=_SLACK, most=_MOST)

        def read(span: Span) -> list[Failure]:
            got = whole or self.objects.get(Ask(key, span.start, span.stop, etag=index.etag))
            return self._place([known[member] for member in span.members], got.data, span.start, target)

        done = map(read, spans) if len(spans) < 2 else _threads("chunks", _REQUESTS, os.getpid()).map(read, spans)
        return [failure for failures in done for failure in failures]

    def _leave_out(
        self, shard: tuple[int, ...], piece: Piece, target: _Target, broken: str = "", cause: Exception | None = None
    ) -> None:
        target.values[piece.out] = self.layout.fill
        if self.sparse and not broken:
            return
        if target.gone is None:
            name = self.objects.name(self._key(shard))
            if self._indices is None:
                chunk = f"the chunk {name}"
            else:
                inside = np.unravel_index(piece.index, self.layout.counts)
                counted = zip(shard, self.layout.counts, inside, strict=True)
                place = [at * count + int(one) for at, count, one in counted]
                chunk = f"chunk {place} of {self.path or 'the array'} in the shard {name}"
            raise InputError(f"{chunk} is {broken or 'missing'}; restore it or convert the source again") from cause
        target.gone[piece.out] = True

    def _place(self, chunks: Sequence[Stored], data: memoryview, origin: int, target: _Target) -> list[Failure]:
        failed: list[Failure] = []
        used = 0.0
        for piece, start, stop in chunks:
            try:
                cells = self._decode(data[start - origin : stop - origin])
            except CorruptChunkError as error:
                failed.append((piece, error))
                continue
            target.values[piece.out] = cells[piece.chunk]
            used += (stop - start) * piece.cells / cells.size
        self.objects.traffic.add(used=used)
        return failed

    def _key(self, shard: tuple[int, ...]) -> str:
        return f"{self.path}/{self.layout.key(shard)}" if self.path else self.layout.key(shard)


@lru_cache(maxsize=2)
def _threads(name: str, count: int, process: int) -> ThreadPoolExecutor:
    """Threads of all readers of a process; those of shards wait for those of chunks, never the other way round."""
    return ThreadPoolExecutor(count, thread_name_prefix=name)
