"""Blocks of a plain file against NumPy's own indexing, and how many bytes are read for them."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.errors import InputError
from datasets.lazy_array import plain_array


@settings(max_examples=60, deadline=None)
@given(data=st.data(), shape=st.lists(st.integers(1, 7), min_size=1, max_size=4), kind=st.sampled_from(["<f4", ">i2"]))
def test_any_block_of_any_order_of_axes(data: st.DataObject, shape: list[int], kind: str) -> None:
    stored = np.arange(np.prod(shape)).reshape(shape).astype(kind)
    order = data.draw(st.permutations(range(len(shape))))
    offset = data.draw(st.integers(0, 9))
    seen = stored.transpose(order)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.bin"
        path.write_bytes(bytes(offset) + stored.tobytes())
        array = plain_array(path, stored.dtype, seen.shape, offset=offset, strides=seen.strides)
        cut: list[int | slice] = []
        for size in seen.shape:
            first, last = sorted(data.draw(st.tuples(st.integers(0, size - 1), st.integers(0, size))))
            step = data.draw(st.integers(1, 3))
            cut.append(data.draw(st.sampled_from([first, slice(first, last, step), slice(None)])))
        block = array.read(tuple(cut))
        np.testing.assert_array_equal(array.load(), seen)
    np.testing.assert_array_equal(block, seen[tuple(cut)])
    assert block.dtype == stored.dtype.newbyteorder("=")


def test_few_bytes_are_read_that_nobody_wants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(40 * 50 * 60))
    read: list[int] = []
    keep = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, at: read.append(size) or keep(file, size, at))
    array = plain_array(path, np.dtype("u1"), (40, 50, 60))
    array.read((slice(3, 9), slice(None), slice(None)))
    assert read == [6 * 50 * 60]
    read.clear()
    array.read((slice(3, 9), slice(10, 20), slice(0, 40)))
    assert len(read) == 6
    assert sum(read) <= 1.5 * 6 * 10 * 40
    read.clear()
    array.read((slice(3, 9), slice(10, 20), slice(0, 4)))
    assert sum(read) == 6 * 10 * 4


def test_a_block_that_no_single_call_can_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, values = tmp_path / "a.bin", np.arange(100, dtype=np.uint8).reshape(10, 10)
    path.write_bytes(values.tobytes())
    keep = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, at: keep(file, min(size, 7), at))  # as Linux at 2 GiB
    np.testing.assert_array_equal(plain_array(path, values.dtype, values.shape).load(), values)
    path.write_bytes(bytes(90))
    with pytest.raises(InputError, match=r"a\.bin ends at byte 90, within its values; get the whole file"):
        plain_array(path, values.dtype, values.shape).load()


def test_a_file_that_shrank_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(100))
    lazy = xr.DataArray(plain_array(path, np.dtype("u1"), (10, 10)).variable(["y", "x"]))
    path.write_bytes(bytes(90))
    with pytest.raises(InputError, match=r"a\.bin ends at byte 90, within its values; get the whole file"):
        lazy[8:].load()
