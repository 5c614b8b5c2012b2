"""Geosoft grids against what harmonica reads, and against grids that the tests write."""

import hashlib
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.config import ConvertConfig
from datasets.errors import InputError
from datasets.readers import geosoft

Convert = Callable[..., xr.Dataset]
KINDS = {"u1": 0, "i1": 1, "u2": 0, "i2": 1, "u4": 0, "i4": 1, "f4": 2, "f8": 2}
DUMMIES = {"u1": 255, "i1": -127, "u2": 65535, "i2": -32767, "u4": 2**32 - 1, "i4": 1 - 2**31, "f4": -1e32, "f8": -1e32}


def pack(
    cells: np.ndarray, *, vectors: int = 0, ordering: int = 1, turn: float = 0, base: float = 0, factor: float = 1,
    width: int = 0, kind: int | None = None,
) -> bytes:  # fmt: skip
    """Make a grid of cells [vector, element] with 10 m between elements and 20 m between vectors; packed in blocks of
    `vectors`, or plain.
    """
    size = width or cells.itemsize
    kind = KINDS[cells.dtype.str[1:]] if kind is None else kind
    head = struct.pack(
        "<5i7d", size + 1024 * bool(vectors), kind, cells.shape[1], cells.shape[0], ordering,
        10.0, 20.0, 5e5, 6e6, turn, base, factor,
    ).ljust(512, b"\0")  # fmt: skip
    if not vectors:
        return head + cells.tobytes()
    blocks = [bytes(16) + zlib.compress(cells[at : at + vectors].tobytes()) for at in range(0, len(cells), vectors)]
    starts = 528 + 12 * len(blocks) + np.cumsum([0, *map(len, blocks)])[:-1]
    table = struct.pack("<4i", -119023417, 2, len(blocks), vectors) + starts.astype("<i8").tobytes()
    return head + table + np.array([len(block) for block in blocks], "<i4").tobytes() + b"".join(blocks)


@pytest.mark.parametrize(
    ("name", "shape", "x", "y", "gaps", "digest"),
    [
        ("bhn_tmi_250m", (467, 399), (885210.718, 925010.718), (6172884.23, 6126284.23), 0,
         "b64867c525836b8da0338b2f95ad0d289c00e6893938ad5a6c58d9ad9c0948a1"),
        ("Wittichica_DEM", (485, 486), (405300.0, 417425.0), (6099225.0, 6087125.0), 11090,
         "d9a2369155916769798d62ced11fa7a97f293419fd9daec691a25af4d5f71c31"),
    ],
)  # fmt: skip
def test_real_grids_as_harmonica_reads_them(
    shared_data: Path, converted: Convert, name: str, shape: tuple[int, int], x: tuple[float, float],
    y: tuple[float, float], gaps: int, digest: str,
) -> None:  # fmt: skip
    """The figures are of `harmonica.load_oasis_montaj_grid`, version 0.7.0, which brings numba: too heavy a dependency.

    Its digest is of the float32 values, south first, with -1e32 for NaN.
    """
    ds = converted(shared_data / "airborne" / f"{name}.grd", crs="local", chunks={"y": 100, "x": 90})
    assert ds["data"].shape == shape
    np.testing.assert_allclose(ds["x"][[0, -1]], x, rtol=0, atol=1e-6)
    np.testing.assert_allclose(ds["y"][[0, -1]], y, rtol=0, atol=1e-6)
    values = ds["data"].values[::-1]
    assert values.dtype == np.float32
    assert np.isnan(values).sum() == gaps
    filled = np.ascontiguousarray(np.where(np.isnan(values), np.float32(-1e32), values), "<f4")
    assert hashlib.sha256(filled.tobytes()).hexdigest() == digest
    if gaps:
        np.testing.assert_array_equal(ds["valid"].values, np.isfinite(ds["data"].values))
    assert "spatial_ref" not in ds.coords


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 5)),
    vectors=st.integers(0, 9),
    ordering=st.sampled_from([1, -1]),
    data=st.data(),
)
def test_every_layout_reads_the_same_block(
    kind: str, shape: tuple[int, int], vectors: int, ordering: int, data: st.DataObject
) -> None:
    cells = np.random.default_rng(1).integers(0, 100, shape).astype(kind)
    cells.flat[0] = DUMMIES[kind]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.grd"
        path.write_bytes(pack(cells, vectors=vectors, ordering=ordering, base=3, factor=2))
        ds = geosoft.read(ConvertConfig(source=str(path), crs="EPSG:28354"))
        expected = np.where(cells == np.array(DUMMIES[kind], kind), np.nan, cells / 2 + 3)
        expected = (expected if ordering == 1 else expected.T)[::-1]
        np.testing.assert_array_equal(ds["data"].values, expected)
        starts = [data.draw(st.integers(0, n - 1)) for n in expected.shape]
        cuts = tuple(slice(at, at + data.draw(st.integers(1, 9))) for at in starts)
        np.testing.assert_array_equal(ds["data"][cuts].values, expected[cuts])
        np.testing.assert_array_equal(ds["data"][0].values, expected[0])
    dx, dy = (10, 20) if ordering == 1 else (20, 10)
    np.testing.assert_array_equal(ds["x"], 5e5 + dx * np.arange(expected.shape[1]))
    np.testing.assert_array_equal(ds["y"], 6e6 + dy * np.arange(expected.shape[0])[::-1])


CELLS = np.arange(12, dtype="<f4").reshape(4, 3)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pack(CELLS)[:300], "is not a Geosoft grid: it ends within the header of 512 bytes; check the file"),
        (pack(CELLS)[:-4], r"a\.grd is cut short: its header makes it 560 bytes, but it holds 556; get the whole file"),
        (pack(CELLS, vectors=2)[:530], "is cut short: it ends within its table of 2 blocks; get the whole file"),
        (pack(CELLS, vectors=2)[:-1], "is cut short: its table makes it .* bytes, but it holds"),
        (pack(CELLS, vectors=2)[:-9] + bytes(9), r"block 1 of .*a\.grd cannot be unpacked .*: save it again in Oasis"),
        (pack(CELLS, vectors=2).replace(zlib.compress(CELLS[:2].tobytes()), zlib.compress(bytes(24), 0)),
         r"block 0 of .* (holds 0 bytes|cannot be unpacked)"),
        (pack(CELLS, vectors=2)[:512] + bytes(99), "has no table of blocks that its 4 vectors fit into; the grid is"),
        (pack(CELLS, turn=30), "is rotated by 30 degrees; regrid it along x and y in Oasis montaj first"),
        (pack(CELLS, kind=3), "is a Geosoft grid of colours; export the grid of values"),
        (pack(CELLS, ordering=2), "is not a Geosoft grid: elements of 4 bytes and kind 2, 3 x 4 cells, ordering 2"),
        (pack(CELLS, factor=0), "is not a Geosoft grid: .* factor 0; check the file"),
        (b"PK\x03\x04" + bytes(600), r"a\.grd starts with b'PK\\x03\\x04': no Geosoft, Surfer or netCDF grid; check"),
    ],
)  # fmt: skip
def test_broken_grids(tmp_path: Path, converted: Convert, content: bytes, words: str) -> None:
    (tmp_path / "a.grd").write_bytes(content)
    with pytest.raises(InputError, match=words):
        converted(tmp_path / "a.grd", crs="EPSG:28354")
    assert not (tmp_path / "volume.zarr").exists()


def test_the_coordinate_system_is_asked_for(tmp_path: Path, converted: Convert) -> None:
    (tmp_path / "a.grd").write_bytes(pack(CELLS))
    with pytest.raises(
        InputError, match=r"a\.grd does not hold its coordinate system; set crs, such as EPSG:28354, or crs: local"
    ):
        converted(tmp_path / "a.grd")
    assert "MGA zone 54" in converted(tmp_path / "a.grd", crs="EPSG:28354")["spatial_ref"].attrs["crs_wkt"]
