"""Golden Software Surfer grids: version 7 (DSRB), version 6 binary (DSBB) and text (DSAA).

Source: their descriptions in Surfer's manual. Coordinates are those of the nodes; rows run northwards.
"""

import math
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import xarray as xr

from datasets.config import ConvertConfig
from datasets.errors import InputError
from datasets.lazy_array import LazyArray, plain_array
from datasets.readers.arrays import reading, refuse_short
from datasets.readers.grids import map_grid

_Axis = tuple[float, float]  # first node and spacing
# Rows and columns, axes x and y, type, blank value, and whether what is above is blank too.
_Header = tuple[tuple[int, int], _Axis, _Axis, str, float, bool]
_BLANK = 1.70141e38  # version 6: this and above is blank
_TAG = struct.Struct("<4si")
_GRID = struct.Struct("<2i8d")  # rows, columns; x, y, spacings, range of z, rotation, blank
_DSBB = struct.Struct("<4s2h6d")  # columns, rows; ranges of x, y, z


def read(config: ConvertConfig) -> xr.Dataset:
    """Read (y, x), north first, NaN where the grid is blank. Rotated grids are refused."""
    path = Path(config.source)
    with path.open("rb") as file:
        magic = file.read(4)
        file.seek(0)
        if magic == b"DSAA":
            return _read_text(path, config)
        if magic not in (b"DSRB", b"DSBB"):
            raise InputError(f"{path} is not a Surfer grid: it starts with {magic!r}; check the file")
        shape, x, y, kind, blank, above = (_header_7 if magic == b"DSRB" else _header_6)(file, path)
        start = file.tell()
    dtype = np.dtype(kind)
    refuse_short(path, start + math.prod(shape) * dtype.itemsize, "its header")
    stored = plain_array(path, dtype, shape, offset=start)
    # The stated value has fewer digits than what is stored in single precision: compare in that.
    blank = dtype.type(blank)
    array = LazyArray(shape, stored.dtype, lambda cut: _unblank(stored.read_part(cut), blank, above))
    return map_grid(array, x, y, config)


def _header_7(file: BinaryIO, path: Path) -> _Header:
    version, fields = 1, None
    while len(head := file.read(_TAG.size)) == _TAG.size:
        tag, size = _TAG.unpack(head)
        if tag == b"DATA" and fields is not None:
            rows, columns, x0, y0, dx, dy, _, _, turn, blank = fields
            _check(path, rows, columns, dx, dy)
            if turn:
                raise InputError(f"{path} is rotated by {turn:g} degrees; regrid it along x and y in Surfer first")
            if size != rows * columns * 8:
                raise InputError(
                    f"{path} contradicts itself: {rows} rows x {columns} columns of 8 bytes are {rows * columns * 8:,} "
                    f"bytes, but its data section says {size:,}; save the grid again in Surfer"
                )
            above = version < 2  # from 2 on, only the very value is blank
            return (rows, columns), (x0, dx), (y0, dy), "<f8", blank, above
        body = file.read(max(0, size))
        if tag == b"DSRB" and len(body) == 4:
            (version,) = struct.unpack("<i", body)
        elif tag == b"GRID" and len(body) >= _GRID.size:
            fields = _GRID.unpack_from(body)
    raise InputError(f"{path} is cut short: its sections GRID and DATA are not both there; get the whole file")


def _header_6(file: BinaryIO, path: Path) -> _Header:
    head = file.read(_DSBB.size)
    if len(head) < _DSBB.size:
        raise InputError(f"{path} is cut short: it ends within its header of 56 bytes; get the whole file")
    _, columns, rows, *ranges = _DSBB.unpack(head)
    return (rows, columns), *_axes(path, rows, columns, *ranges[:4]), "<f4", _BLANK, True


def _read_text(path: Path, config: ConvertConfig) -> xr.Dataset:
    with reading(path, "Surfer text grid", ValueError):
        words = path.read_text(encoding="ascii").split()[1:]
        columns, rows = (int(word) for word in words[:2])
        ranges = [float(word) for word in words[2:8]]
        numbers = np.array(words[8:], np.float64)
    if len(ranges) < 6 or numbers.size != rows * columns:
        raise InputError(
            f"{path} is cut short or damaged: its header says {rows} rows x {columns} columns, but it holds "
            f"{numbers.size:,} values; get the whole file"
        )
    return map_grid(_unblank(numbers.reshape(rows, columns), _BLANK), *_axes(path, rows, columns, *ranges[:4]), config)


def _axes(path: Path, rows: int, columns: int, x0: float, x1: float, y0: float, y1: float) -> tuple[_Axis, _Axis]:
    dx, dy = ((last - first) / max(1, nodes - 1) for first, last, nodes in ((x0, x1, columns), (y0, y1, rows)))
    _check(path, rows, columns, dx, dy)
    return (x0, dx), (y0, dy)


def _check(path: Path, rows: int, columns: int, dx: float, dy: float) -> None:
    if rows < 2 or columns < 2 or not dx > 0 or not dy > 0:
        raise InputError(
            f"{path} is not a Surfer grid: its header says {rows} rows x {columns} columns, {dy:g} and {dx:g} apart; "
            "check the file"
        )


def _unblank(values: np.ndarray, blank: float, above: bool = True) -> np.ndarray:
    return np.where(values >= blank if above else values == blank, values.dtype.type(np.nan), values)
