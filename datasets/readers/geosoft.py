"""Geosoft (Oasis montaj) grids, plain or compressed, as ``NAME.grd``.

A header of 512 bytes, then vectors of elements; in a compressed grid instead a table of blocks of whole vectors, each
block 16 bytes and a zlib stream. Source: Geosoft's description of its grid file, and real files.
"""

import struct
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import xarray as xr

from datasets.config import ConvertConfig
from datasets.errors import InputError
from datasets.lazy_array import Cut, LazyArray, plain_array
from datasets.readers.arrays import refuse_short
from datasets.readers.grids import map_grid

# Element bytes and kind, elements, vectors, ordering; spacing and origin of both, rotation, base and factor.
_HEADER = struct.Struct("<5i7d")
_HEADER_BYTES = 512
_COMPRESSED = 1024  # added to the element bytes
_TABLE = struct.Struct("<4i")  # signature, compression, blocks, vectors a block
_SIGNATURE = -119023417
_BLOCK_HEADER = 16
_COLOURS = 3
# (element bytes, kind) -> type, and the number that marks no data.
_TYPES: dict[tuple[int, int], tuple[str, float]] = {
    (1, 0): ("<u1", 255), (1, 1): ("<i1", -127), (2, 0): ("<u2", 65535), (2, 1): ("<i2", -32767),
    (4, 0): ("<u4", 4294967295), (4, 1): ("<i4", -2147483647), (4, 2): ("<f4", -1e32), (8, 2): ("<f8", -1e32),
}  # fmt: skip


@dataclass(frozen=True)
class _Grid:
    """What a header says of the cells [vectors, elements]; a value is ``stored / factor + base``."""

    path: Path
    dtype: np.dtype
    dummy: float
    shape: tuple[int, int]
    base: float
    factor: float
    result: np.dtype  # floats that hold the stored numbers and NaN


def read(config: ConvertConfig) -> xr.Dataset:
    """Read (y, x), north first, NaN for dummies. Colours and rotated grids are refused."""
    path = Path(config.source)
    with path.open("rb") as file:
        start = file.read(_HEADER_BYTES)
        if len(start) < _HEADER_BYTES:
            raise InputError(f"{path} is not a Geosoft grid: it ends within the header of 512 bytes; check the file")
        width, kind, elements, vectors, ordering, de, dv, x0, y0, turn, base, factor = _HEADER.unpack_from(start)
        compressed = width >= _COMPRESSED
        width -= _COMPRESSED * compressed
        if kind == _COLOURS:
            raise InputError(f"{path} is a Geosoft grid of colours; export the grid of values that it was drawn from")
        if (width, kind) not in _TYPES or min(elements, vectors) < 1 or abs(ordering) != 1 or not factor:
            raise InputError(
                f"{path} is not a Geosoft grid: elements of {width} bytes and kind {kind}, {elements} x {vectors} "
                f"cells, ordering {ordering}, factor {factor:g}; check the file"
            )
        if turn:
            raise InputError(f"{path} is rotated by {turn:g} degrees; regrid it along x and y in Oasis montaj first")
        blocks, each = _table(file, path, vectors) if compressed else ([], 0)
    dtype, dummy = _TYPES[width, kind]
    result = np.dtype("f4" if width <= 2 or dtype == "<f4" else "f8")
    grid = _Grid(path, np.dtype(dtype), dummy, (vectors, elements), base, factor, result)
    if not compressed:
        refuse_short(path, _HEADER_BYTES + vectors * elements * width, "its header")
        read_stored = plain_array(path, grid.dtype, grid.shape, offset=_HEADER_BYTES).read_part
    else:
        refuse_short(path, max(at + size for at, size in blocks), "its table")
        read_stored = partial(_read_packed, grid, blocks, each)
    if ordering == 1:
        rows = LazyArray(grid.shape, grid.result, lambda cut: _values(grid, read_stored(cut)))
        return map_grid(rows, (x0, de), (y0, dv), config)
    columns = LazyArray(grid.shape[::-1], grid.result, lambda cut: _values(grid, read_stored(cut[::-1])).T)
    return map_grid(columns, (x0, dv), (y0, de), config)


def _table(file: BinaryIO, path: Path, vectors: int) -> tuple[list[tuple[int, int]], int]:
    """Read (first byte, bytes) of each block of compressed vectors, and the vectors in each but the last."""
    head = file.read(_TABLE.size)
    signature, _, count, vectors_each = _TABLE.unpack(head) if len(head) == _TABLE.size else (0, 0, 0, 0)
    if signature != _SIGNATURE or vectors_each < 1 or count != -(-vectors // vectors_each):
        raise InputError(
            f"{path} has no table of blocks that its {vectors} vectors fit into; the grid is damaged, copy it again"
        )
    table = file.read(12 * count)
    if len(table) < 12 * count:
        raise InputError(f"{path} is cut short: it ends within its table of {count} blocks; get the whole file")
    starts, sizes = np.frombuffer(table, "<i8", count), np.frombuffer(table, "<i4", count, 8 * count)
    return list(zip(starts.tolist(), sizes.tolist(), strict=True)), vectors_each


def _read_packed(grid: _Grid, blocks: list[tuple[int, int]], each: int, cut: Cut) -> np.ndarray:
    rows, elements = np.arange(grid.shape[0])[cut[0]], grid.shape[1]
    values = np.empty((rows.size, len(range(elements)[cut[1]])), grid.dtype)
    which = rows // each
    with grid.path.open("rb") as file:
        for block in np.unique(which).tolist():
            start, size = blocks[block]
            file.seek(start)
            try:
                held = zlib.decompress(file.read(size)[_BLOCK_HEADER:])
            except zlib.error as error:
                raise InputError(
                    f"block {block} of {grid.path} cannot be unpacked ({error}); the grid is damaged or compressed in "
                    "another way than zlib: save it again in Oasis montaj, uncompressed"
                ) from error
            vectors = min(each, grid.shape[0] - block * each)
            if len(held) != vectors * elements * grid.dtype.itemsize:
                raise InputError(
                    f"block {block} of {grid.path} holds {len(held):,} bytes and not {vectors} vectors of {elements} "
                    "elements; the grid is damaged, copy it again"
                )
            unpacked = np.frombuffer(held, grid.dtype).reshape(vectors, elements)
            values[which == block] = unpacked[rows[which == block] - block * each, cut[1]]
    return values


def _values(grid: _Grid, stored: np.ndarray) -> np.ndarray:
    dummy = stored <= grid.dummy if grid.dtype.kind == "f" else stored == grid.dummy
    values = np.asarray(stored, grid.result)
    if (grid.factor, grid.base) != (1.0, 0.0):
        values /= grid.factor
        values += grid.base
    values[dummy] = np.nan
    return values
