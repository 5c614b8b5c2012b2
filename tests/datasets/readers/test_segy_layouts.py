"""SEG-Y in the layouts that surveys come in, decoded from the bytes and not by segyio; and broken files."""

import struct
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import segyio
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.config import ConvertConfig
from datasets.errors import InputError
from datasets.readers import segy

Convert = Callable[..., xr.Dataset]
IBM, INT32, INT16, IEEE = 1, 2, 3, 5
TYPES = {IBM: "u4", INT32: "i4", INT16: "i2", IEEE: "f4"}


def write(
    path: Path, cells: list[tuple[int, int]], values: np.ndarray, code: int, endian: str, places: tuple[int, int],
    extra_headers: int = 0, start: float = 0.0,
) -> None:  # fmt: skip
    """Write one trace a cell [trace, sample], every 4 ms, with the cell's numbers at the bytes of `places`."""
    spec = segyio.spec()
    spec.format, spec.endian, spec.tracecount, spec.ext_headers = code, endian, len(cells), extra_headers
    spec.samples = start + 4.0 * np.arange(values.shape[1])
    with segyio.create(path, spec) as file:
        for number, (inline, crossline) in enumerate(cells):
            file.header[number] = {places[0]: inline, places[1]: crossline, 109: int(start), 115: values.shape[1]}
            file.trace[number] = values[number]


def raw_traces(path: Path, samples: int, code: int, endian: str, extra_headers: int) -> np.ndarray:
    """Decode the samples from the file's bytes, IBM floats by their definition: (-1)^s 16^(e - 64) m / 2^24."""
    order = "<" if endian == "little" else ">"
    kind = np.dtype(order + TYPES[code])
    record = np.dtype([("header", "V240"), ("trace", kind, (samples,))])
    stored = np.frombuffer(path.read_bytes()[3600 + 3200 * extra_headers :], record)["trace"]
    if code != IBM:
        return stored
    mantissa = (stored & 0x00FFFFFF).astype(np.float64)
    exponent = ((stored >> 24) & 0x7F).astype(np.float64)
    return np.where(stored >> 31, -1, 1) * mantissa * 16.0 ** (exponent - 64) / 2**24


@settings(max_examples=25, deadline=None)
@given(
    code=st.sampled_from(sorted(TYPES)),
    endian=st.sampled_from(["big", "little"]),
    places=st.sampled_from([(189, 193), (9, 21), (17, 5)]),
    steps=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    extra_headers=st.integers(0, 1),
    seed=st.integers(0, 99),
)
def test_any_layout_with_irregular_edges(
    code: int, endian: str, places: tuple[int, int], steps: tuple[int, int], extra_headers: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    # A survey whose crosslines start later on every inline, with holes in it, traces in no order.
    there = [(i, j) for i in range(5) for j in range(i, 6) if (i, j) in ((0, 0), (1, 1), (4, 5)) or rng.random() < 0.8]
    rng.shuffle(there)
    cells = [(100 + steps[0] * i, 700 + steps[1] * j) for i, j in map(tuple, there)]
    values = (rng.normal(size=(len(cells), 7)) * 1000).astype(np.float32 if code in (IBM, IEEE) else TYPES[code])
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.sgy"
        write(path, cells, values, code, endian, places, extra_headers, start=100)
        ds = segy.read(ConvertConfig(source=str(path), inline_byte=places[0], crossline_byte=places[1]))
        data = ds["data"].values
        part = ds["data"][1:4, ::2, 2:5].values
        expected = raw_traces(path, 7, code, endian, extra_headers)
    np.testing.assert_array_equal(ds["twt"], 100 + 4.0 * np.arange(7))
    inlines, crosslines = ds["inline"].values.tolist(), ds["crossline"].values.tolist()
    assert inlines == [100 + steps[0] * i for i in range(5)]
    assert crosslines == [700 + steps[1] * j for j in range(6)]
    seen = np.zeros(ds["valid"].shape, bool)
    for number, (inline, crossline) in enumerate(cells):
        cell = inlines.index(inline), crosslines.index(crossline)
        np.testing.assert_array_equal(data[cell], expected[number].astype(data.dtype))
        seen[cell] = True
    np.testing.assert_array_equal(ds["valid"].values, seen)
    np.testing.assert_array_equal(part, data[1:4, ::2, 2:5])


CELLS = [(i, j) for i in range(1, 4) for j in range(1, 5)]
VALUES = np.arange(1, 121, dtype=np.float32).reshape(12, 10)


def test_a_text_header_in_ascii_reads_as_one_in_ebcdic(tmp_path: Path, converted: Convert) -> None:
    write(tmp_path / "a.sgy", CELLS, VALUES, IEEE, "big", (189, 193))
    first = converted(tmp_path / "a.sgy")
    with (tmp_path / "a.sgy").open("r+b") as file:
        file.write(b"C 1 CLIENT".ljust(3200))
    xr.testing.assert_equal(first, converted(tmp_path / "a.sgy"))


def test_dead_traces_are_masked_and_the_others_not(tmp_path: Path, converted: Convert) -> None:
    values = VALUES.copy()
    values[5] = 0
    write(tmp_path / "a.sgy", CELLS, values, IBM, "big", (189, 193))
    with segyio.open(tmp_path / "a.sgy", "r+", ignore_geometry=True) as file:
        file.header[2].update({segyio.TraceField.TraceIdentificationCode: 2})
    valid = converted(tmp_path / "a.sgy")["valid"].values
    expected = np.ones(12, bool)
    expected[[2, 5]] = False
    np.testing.assert_array_equal(valid, np.repeat(expected.reshape(3, 4, 1), 10, axis=2))


def test_gathers_are_refused(tmp_path: Path, converted: Convert) -> None:
    offsets = [(i, j) for i in range(1, 3) for j in range(1, 3) for _ in range(3)]
    write(tmp_path / "a.sgy", offsets, VALUES, IEEE, "big", (189, 193))
    with pytest.raises(
        InputError, match=r"is not a cube after stack: 3 traces share inline 1, crossline 1 .*; stack it"
    ):
        converted(tmp_path / "a.sgy")


def test_files_that_are_cut_short_or_say_more_than_they_hold(tmp_path: Path, converted: Convert) -> None:
    path = tmp_path / "a.sgy"
    write(path, CELLS, VALUES, IEEE, "big", (189, 193))
    whole = path.read_bytes()
    for broken in (whole[:-7], whole[:3220] + struct.pack(">h", 11) + whole[3222:]):
        path.write_bytes(broken)
        with pytest.raises(
            InputError, match=r"a\.sgy cannot be read as big-endian SEG-Y \(.*\); check the file, or set"
        ):
            converted(path)
    path.write_bytes(b"PK\x03\x04" * 2000)
    with pytest.raises(InputError, match=r"a\.sgy is not SEG-Y: its sample format, bytes 3225-3226, is"):
        converted(path)
