"""A map goes back to where its volume came from: SEG-Y with the headers of the survey's own file."""

import itertools
import signal
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
import segyio
import xarray as xr

from datasets.config_convert import ConvertConfig
from datasets.config_export import ExportConfig
from datasets.errors import InputError
from datasets.prediction import FORMAT, NO_DATA
from datasets.progress import Progress
from datasets.readers.segy import find_endian, header_field, open_file, sample_axis
from datasets.store import open_node, refuse_existing

EMPTY = -1.0  # written where the map has no data, or no cell at all
_PIECE_BYTES = 16 * 2**20
_BINARY, _FIRST = 3200, 3600  # where the binary header and the first trace lie
_LINE = 76  # characters of a line of the textual header


def export(config: ExportConfig, *, overwrite: bool = False) -> Path:
    """Write a map over inline, crossline and time or depth as SEG-Y, all of it or nothing; returns the file.

    `InputError` where there is no such map, or it does not lie on the traces and samples of `like`.
    """
    if not (config.map and config.like and config.out):
        raise InputError(
            "export needs a map, a SEG-Y file to take the headers of, and a place: "
            "python -m pipeline export maps/NAME.zarr SURVEY.sgy OUT.sgy"
        )
    array, text = _open_map(config)
    like, out = Path(config.like), Path(config.out)
    if not like.is_file():
        raise InputError(f"no file at {like}; give the SEG-Y file that the volume was converted from")
    if out.suffix.lower() not in (".sgy", ".segy") or out.resolve() == like.resolve():
        raise InputError(f"{out} is the survey itself or does not end in .sgy or .segy; name another file to write")
    refuse_existing(out, overwrite)
    endian = find_endian(like) if config.endian == "auto" else config.endian
    partial = out.with_name(f".{out.name}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open_file(like, endian) as source:
                rows, columns, samples = _place(array, source, config)
                headers, long = _headers(like, source), len(source.samples)
            order = ">" if endian == "big" else "<"
            record = np.dtype([("header", headers.dtype), ("values", f"{order}f4", long)])
            progress = Progress("writing", len(rows) * record.itemsize)
            with _interruptible(), partial.open("wb") as target, progress:
                target.write(segyio.tools.create_text_header(dict(enumerate(text, 1))).encode("cp037"))
                target.write(_binary_header(like, order))
                for traces, values in _pieces(array, rows, columns, record.itemsize):
                    records = np.empty(len(traces), record)
                    records["header"], records["values"] = headers[traces], EMPTY
                    records["values"][:, samples] = values
                    _put(records, traces, target)
                    progress.add(records.nbytes)
            partial.replace(out)
        finally:
            partial.unlink(missing_ok=True)
        print(f"wrote {out}: {(rows >= 0).sum()} of {len(rows)} traces lie on the map")
    except OSError as error:
        raise InputError(f"{out} was not written ({error.strerror or error}); choose another place") from error
    return out


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM end this as Ctrl-C does, so that nothing is left behind; only the main thread may."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _open_map(config: ExportConfig) -> tuple[xr.DataArray, list[str]]:
    """Open what is wanted of a map, as [inline, crossline, twt or depth], and say in lines what it is."""
    node = open_node(config.map)
    if node.attrs.get("format") != FORMAT:
        raise InputError(f"{config.map} is no map; name a store that `python -m pipeline predict` wrote")
    ds = xr.open_zarr(node.store, chunks=None, mask_and_scale=False)
    array, names = ds["class"], list(ds["class"].attrs["class_names"])
    vertical = [dim for dim in array.dims if dim not in ("inline", "crossline")]
    if array.ndim != 3 or len(vertical) != 1:
        raise InputError(
            f"{config.map} is over {', '.join(map(str, array.dims))}; SEG-Y takes a map over inline, crossline and twt "
            "or depth"
        )
    if config.value not in ("class", *names):
        raise InputError(f"value is {config.value!r}; take class, or for its probability one of {', '.join(names)}")
    what = ", ".join(f"{index} {name}" for index, name in enumerate(names))
    if config.value != "class":
        array, what = ds["probability"][names.index(config.value)], f"probability of {config.value}"
    said = (f"model {ds.attrs['model_version']}", f"map {Path(config.map).name}", f"{EMPTY:g} no data, {what}")
    plain = (line.encode("ascii", "replace").decode() for line in said)  # an EBCDIC header has no other letters
    lines = [line[at : at + _LINE] for line in plain for at in range(0, len(line), _LINE)]
    return array.transpose("inline", "crossline", ...), lines


def _place(array: xr.DataArray, source: segyio.SegyFile, config: ExportConfig) -> tuple[np.ndarray, ...]:
    lines = ConvertConfig(config.like, inline_byte=config.inline_byte, crossline_byte=config.crossline_byte)
    rows, columns = (
        array.indexes[name].get_indexer(header_field(source, lines, name)) for name in ("inline", "crossline")
    )
    rows[columns < 0] = -1
    axis, wrong = sample_axis(source)
    times = array.indexes[array.dims[2]] if wrong and array.shape[2] == len(axis) else pd.Index(axis)
    near = abs(times[-1] - times[0]) / max(len(times) - 1, 1) / 100
    samples = times.get_indexer(array.indexes[array.dims[2]], method="nearest", tolerance=near)
    if (rows < 0).all() or (samples < 0).any():
        raise InputError(
            f"{config.map} does not lie on the traces and samples of {config.like}; give the file that its volume was "
            "converted from, and inline_byte and crossline_byte where the line numbers are elsewhere"
        )
    return rows, columns, samples


def _binary_header(path: Path, order: str) -> bytes:
    """Return a file's binary header, but of IEEE floats and without what revision 2 says of further headers."""
    with path.open("rb") as file:
        file.seek(_BINARY)
        header = bytearray(file.read(_FIRST - _BINARY))
    struct.pack_into(f"{order}h", header, 24, 5)
    header[304:] = bytes(96)
    return bytes(header)


def _headers(path: Path, source: segyio.SegyFile) -> np.ndarray:
    """View the header of each trace as it lies in the file: segyio copies one at a time."""
    trace = np.dtype([("header", "V240"), ("samples", f"V{len(source.samples) * np.dtype(source.dtype).itemsize}")])
    start = path.stat().st_size - source.tracecount * trace.itemsize
    return np.memmap(path, trace, "r", start, (source.tracecount,))["header"]


def _pieces(
    array: xr.DataArray, rows: np.ndarray, columns: np.ndarray, trace_bytes: int
) -> Iterator[tuple[np.ndarray, np.ndarray | float]]:
    off = np.flatnonzero(rows < 0)
    for first in range(0, len(off), at_once := max(_PIECE_BYTES // trace_bytes, 1)):
        yield off[first : first + at_once], EMPTY
    at_once = max(_PIECE_BYTES // (trace_bytes * array.shape[1]), 1)
    for first in range(0, len(array), at_once):
        piece = array[first : first + at_once].values
        lacks = piece == NO_DATA if piece.dtype == np.uint8 else np.isnan(piece)
        traces = np.flatnonzero((rows >= first) & (rows < first + at_once))
        if len(traces):
            yield traces, np.where(lacks, np.float32(EMPTY), piece)[rows[traces] - first, columns[traces]]


def _put(records: np.ndarray, traces: np.ndarray, target: BinaryIO) -> None:
    bounds = [0, *np.flatnonzero(np.diff(traces) != 1) + 1, len(traces)]
    for start, stop in itertools.pairwise(bounds):
        target.seek(_FIRST + int(traces[start]) * records.itemsize)
        target.write(records[start:stop].tobytes())
