"""SEG-Y cubes after stack, with whatever byte order and header bytes, and with traces missing."""

import struct
from functools import partial
from pathlib import Path

import numpy as np
import segyio
import xarray as xr

from datasets.config import ConvertConfig
from datasets.errors import InputError
from datasets.lazy_array import Cut, LazyArray

# Sample formats of the binary header: those that segyio reads right, and those it takes for IBM floats.
_FORMATS = {1, 2, 3, 5, 6, 8, 9, 10, 11, 12, 16}
_MISREAD = {4: "fixed point with gain", 7: "24-bit integers", 15: "24-bit unsigned integers"}
_FORMAT_OFFSET = 3224
_DEAD = 2
_LENGTHS = 1  # code of positions in metres or feet; higher ones are angles
_LEAST_FILLED = 0.05
_WAY_OUT = "set inline_byte and crossline_byte if the numbers are elsewhere"


def read(config: ConvertConfig) -> xr.Dataset:
    """Read (inline, crossline, twt or depth) of a cube with one trace a cell; missing and dead ones are not valid."""
    path = Path(config.source)
    endian = find_endian(path) if config.endian == "auto" else config.endian
    with open_file(path, endian) as file:
        inline, crossline, x, y = (header_field(file, config, name) for name in ("inline", "crossline", "x", "y"))
        scale = file.attributes(segyio.TraceField.SourceGroupScalar)[:].astype(np.float64)
        measured = (file.attributes(segyio.TraceField.CoordinateUnits)[:] <= _LENGTHS) & ((x != 0) | (y != 0))
        alive = file.attributes(segyio.TraceField.TraceIdentificationCode)[:] != _DEAD
        samples, wrong = sample_axis(file)
        if wrong and config.vertical not in config.coordinates:
            raise InputError(
                f"{path} {wrong}; say where samples lie with coordinates, such as {{{config.vertical}: '0:4'}}"
            )
        dtype = np.dtype(file.dtype)
        length = "ft" if file.bin[segyio.BinField.MeasurementSystem] == 2 else "m"
        _check_lines(file, config, inline, crossline)
    inlines, crosslines = _axis(inline), _axis(crossline)
    shape = len(inlines), len(crosslines)
    rows, columns = np.searchsorted(inlines, inline), np.searchsorted(crosslines, crossline)
    _check_cube(config, shape, rows * shape[1] + columns, inline, crossline)

    def placed(values: np.ndarray, empty: float) -> np.ndarray:
        cells = np.full(shape, empty, values.dtype)
        cells[rows, columns] = values
        return cells

    read_traces = partial(_read_traces, path, endian, placed(np.arange(len(rows)), -1), dtype, len(samples))
    array = LazyArray((*shape, len(samples)), dtype, read_traces)
    units, lines = "ms" if config.vertical == "twt" else length, ["inline", "crossline"]
    ds = xr.Dataset(
        {"data": array.variable([*lines, config.vertical]), "valid": (lines, placed(alive, False))},
        {"inline": inlines, "crossline": crosslines, config.vertical: (config.vertical, samples, {"units": units})},
        {"files": [str(path)]},
    )
    if x[measured].any() and y[measured].any():
        scale[scale == 0] = 1.0
        factor = np.where(scale < 0, -1 / scale, scale)
        for name, position in (("x", x), ("y", y)):
            known = np.where(measured, position * factor, np.nan)
            ds.coords[name] = (lines, placed(known, np.nan), {"units": length})
    return ds


def find_endian(path: Path) -> str:
    """Tell the byte order from the sample format, a small number that is nonsense in the other."""
    with path.open("rb") as file:
        file.seek(_FORMAT_OFFSET)
        code = file.read(2)
    if len(code) < 2:
        raise InputError(f"{path} is not SEG-Y: it ends within the file headers; check the file")
    for endian, order in (("big", ">h"), ("little", "<h")):
        (number,) = struct.unpack(order, code)
        if number in _MISREAD:
            raise InputError(
                f"{path} stores its samples as {_MISREAD[number]} (format {number}), which cannot be read; "
                "export it again as IEEE floats (format 5)"
            )
        if number in _FORMATS:
            return endian
    raise InputError(
        f"{path} is not SEG-Y: its sample format, bytes 3225-3226, is {struct.unpack('>h', code)[0]}; check the file"
    )


def open_file(path: Path, endian: str) -> segyio.SegyFile:
    """Open a file whatever its geometry; `InputError` where it is none."""
    try:
        return segyio.open(path, ignore_geometry=True, endian=endian)
    except (RuntimeError, OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as {endian}-endian SEG-Y ({error}); check the file, or set endian"
        ) from error


def sample_axis(file: segyio.SegyFile) -> tuple[np.ndarray, str]:
    """Return where samples lie, in ms or units of length, and in words what contradicts that, if anything.

    segyio trusts the first trace, though it may be dead, and takes 4 ms where intervals differ.
    """
    field = segyio.TraceField
    alive = file.attributes(field.TraceIdentificationCode)[:] != _DEAD
    alive &= file.attributes(field.TRACE_SAMPLE_COUNT)[:] > 0
    alive |= not alive.any()
    scale = float(file.attributes(field.ScalarTraceHeader)[:][alive][0])
    delays = np.unique(file.attributes(field.DelayRecordingTime)[:][alive])
    delays = delays * (scale if scale > 0 else -1 / scale if scale else 1.0)
    steps = {file.bin[segyio.BinField.Interval], *file.attributes(field.TRACE_SAMPLE_INTERVAL)[:][alive].tolist()}
    steps = {step % 2**16 for step in steps} - {0}  # segyio reads a sign
    step = min(steps, default=0) / 1000
    wrong = f"has traces that start at {delays[0]:g} and {delays[-1]:g} ms" if len(delays) > 1 else ""
    if len(steps) != 1:
        found = " and ".join(f"{step / 1000:g}" for step in sorted(steps)[:2])
        wrong = f"states intervals of {found} ms between samples" if steps else "states no interval between samples"
    return delays[0] + step * np.arange(len(file.samples)), wrong


def header_field(file: segyio.SegyFile, config: ConvertConfig, name: str) -> np.ndarray:
    """Read a number of every trace's header; `InputError` where no field starts at the setting ``{name}_byte``."""
    byte = getattr(config, f"{name}_byte")
    try:
        return np.asarray(file.attributes(byte)[:], np.int64)
    except (KeyError, ValueError, IndexError, RuntimeError) as error:
        raise InputError(
            f"{name}_byte is {byte}, at which no trace header field of {config.source} starts; "
            "common are 9, 189, 193, 21"
        ) from error


def _check_lines(file: segyio.SegyFile, config: ConvertConfig, inline: np.ndarray, crossline: np.ndarray) -> None:
    path, bytes_ = config.source, f"bytes {config.inline_byte} and {config.crossline_byte}"
    inlines, crosslines = len(np.unique(inline)), len(np.unique(crossline))
    if inlines > 1 and crosslines > 1:
        return
    midpoints = len(np.unique(file.attributes(segyio.TraceField.CDP)[:]))
    if inlines == crosslines == midpoints == 1 < file.tracecount:
        raise InputError(
            f"{path} is not a cube: its {file.tracecount} traces all have inline {inline[0]} and crossline "
            f"{crossline[0]} (header {bytes_}), as in a gather before stack; stack it first, or {_WAY_OUT}"
        )
    raise InputError(
        f"{path} is not a cube but a 2-D line of {file.tracecount} traces: the header {bytes_} hold "
        f"{inlines} inline and {crosslines} crossline; {_WAY_OUT}, or save it as .npy"
    )


def _axis(numbers: np.ndarray) -> np.ndarray:
    """Line numbers at their common step, so that missing lines have their place."""
    present = np.unique(numbers)
    return np.arange(present[0], present[-1] + 1, np.gcd.reduce(np.diff(present)))


def _check_cube(
    config: ConvertConfig, shape: tuple[int, int], cells: np.ndarray, inline: np.ndarray, crossline: np.ndarray
) -> None:
    path, traces = config.source, len(cells)
    bytes_ = f"header bytes {config.inline_byte} and {config.crossline_byte}"
    taken, counts = np.unique(cells, return_counts=True)
    if counts.max() > 1:
        first = np.argmax(cells == taken[counts.argmax()])
        raise InputError(
            f"{path} is not a cube after stack: {counts.max()} traces share inline {inline[first]}, crossline "
            f"{crossline[first]} ({bytes_}); stack it first, or {_WAY_OUT}"
        )
    if traces < _LEAST_FILLED * shape[0] * shape[1]:
        raise InputError(
            f"{path} is not a cube: its {traces} traces would fill {traces / shape[0] / shape[1]:.1%} of "
            f"{shape[0]} inlines x {shape[1]} crosslines ({bytes_}); {_WAY_OUT}"
        )


def _read_traces(path: Path, endian: str, index: np.ndarray, dtype: np.dtype, samples: int, cut: Cut) -> np.ndarray:
    """Read a block of the cube; every task opens the file for itself, because segyio's handles are not for threads.

    `index` has each cell's trace [inline, crossline]; where that is -1, for none, the block has NaN, or 0 of integers.
    """
    wanted, kept = index[cut[:2]], len(range(samples)[cut[2]])
    flat = wanted.ravel()
    block = np.full((flat.size, kept), np.nan if dtype.kind == "f" else 0, dtype)
    order = np.argsort(flat, kind="stable")
    order = order[flat[order] >= 0]
    with open_file(path, endian) as file:
        # Runs of neighbouring traces are read at once.
        for run in np.split(order, np.flatnonzero(np.diff(flat[order]) != 1) + 1) if order.size else []:
            block[run] = file.trace.raw[int(flat[run[0]]) : int(flat[run[-1]]) + 1][:, cut[2]]
    return block.reshape(*wanted.shape, kept)
