"""How arrays are cut into chunks and shards, and what reading blocks from them costs: pure planning.

A chunk is the least that is read, a shard one object of the store.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

_CHUNK_BYTES = 2 * 2**20
_BLOCK_CHUNK_BYTES = 2**20
SHARD_BYTES = 64 * 2**20


def plan_chunks(
    sizes: Mapping[Hashable, int],
    itemsize: int,
    preferred: Mapping[str, int] | None = None,
    block: Mapping[str, int] | None = None,
    *,
    shard_bytes: int | None = None,
    within: bool = False,
) -> tuple[dict[Hashable, int], dict[Hashable, int] | None]:
    """Choose chunks, and shards, none where one holds all: edges in cells, in the order of `sizes`.

    Without a block, chunks are of 1 to 2 MiB with edges as even as can be. With one, they are at most 1 MiB and divide
    it, and shards are whole blocks wherever these fit, so that an aligned block reads nothing but itself. Shards are
    multiples of chunks, of up to `shard_bytes`, else 64 MiB; `within` makes them divide the blocks, for arrays that are
    written block by block. Sizes are cells, of `itemsize` bytes; `preferred` edges of chunks and those of the block are
    given along some dimensions, others are read whole.
    """
    limit = SHARD_BYTES if shard_bytes is None else shard_bytes
    fixed, blocks = (
        {dim: min(edge, sizes[dim]) for dim, edge in (edges or {}).items() if dim in sizes}
        for edges in (preferred, block)
    )
    chunks = {dim: max(1, fixed.get(str(dim), blocks.get(str(dim), size))) for dim, size in sizes.items()}
    free = [dim for dim in sizes if dim not in fixed]
    largest = _BLOCK_CHUNK_BYTES if blocks else _CHUNK_BYTES
    while free and math.prod(chunks.values()) * itemsize > largest:
        longest = max(free, key=lambda dim: chunks[dim])
        if chunks[longest] == 1:
            break
        # One that must divide its block is cut by its smallest factor, where that is small.
        factors = (factor for factor in (2, 3, 5, 7) if longest in blocks and chunks[longest] % factor == 0)
        chunks[longest] = -(-chunks[longest] // next(factors, 2))
    if math.prod(sizes.values()) * itemsize <= limit:
        return chunks, None
    units = {dim: max(chunks[dim], blocks.get(str(dim), 0) // chunks[dim] * chunks[dim]) for dim in sizes}
    most = {dim: blocks.get(str(dim), size) if within else size for dim, size in sizes.items()}
    shards = dict(chunks)
    while True:
        larger = {dim: _next_shard(shards[dim], chunks[dim], units[dim], within) for dim in sizes}
        size = math.prod(shards.values()) * itemsize
        growing = [dim for dim in sizes if shards[dim] < most[dim] and size // shards[dim] * larger[dim] <= limit]
        if not growing:
            return chunks, shards
        shortest = min(growing, key=lambda dim: shards[dim] / units[dim])
        shards[shortest] = larger[shortest]


def _next_shard(shard: int, chunk: int, block: int, within: bool) -> int:
    if shard >= block:
        return shard + block
    if not within:
        return shard + chunk
    return next(edge for edge in range(shard + chunk, block + 1, chunk) if block % edge == 0)


def pieces(sizes: Mapping[Hashable, int], shards: Mapping[Hashable, int] | None) -> dict[Hashable, int]:
    """Edges of what is computed and written at once: a shard, or the whole of an array that has none."""
    return {dim: min(edge, sizes[dim]) for dim, edge in (shards or sizes).items()}


def encoding_of(chunks: Mapping[Hashable, int], shards: Mapping[Hashable, int] | None) -> dict[str, tuple[int, ...]]:
    """Say to xarray what `plan_chunks` chose."""
    cut = {"chunks": tuple(chunks.values())}
    return cut if shards is None else cut | {"shards": tuple(shards.values())}


@dataclass(frozen=True)
class ReadCost:
    """What `read_cost` finds."""

    used: int  # cells of the blocks
    fetched: int  # cells of the chunks that they touch; a chunk counts once for every block
    objects: float  # mean number of shards that a block touches, or of chunks without shards


def read_cost(
    blocks: Sequence[Sequence[slice]], sizes: Sequence[int], chunks: Sequence[int], shards: Sequence[int] | None = None
) -> ReadCost:
    """Plan the reading of blocks, each by itself, from an array whose sizes, chunks and shards are edges in cells."""
    used = fetched = objects = 0
    for block in blocks:
        used += math.prod(cut.stop - cut.start for cut in block)
        fetched += math.prod(  # the last chunk ends with the array
            min(-(-cut.stop // edge) * edge, size) - cut.start // edge * edge
            for cut, size, edge in zip(block, sizes, chunks, strict=True)
        )
        objects += math.prod(
            -(-cut.stop // edge) - cut.start // edge for cut, edge in zip(block, shards or chunks, strict=True)
        )
    return ReadCost(used, fetched, objects / max(len(blocks), 1))
