"""Surfer grids of three kinds against GDAL's readers."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import xarray as xr
from rasterio.transform import from_origin

from datasets.errors import InputError

Convert = Callable[..., xr.Dataset]
BLANK = 1.70141e38


def surfer_7(
    cells: np.ndarray, *, version: int = 1, turn: float = 0, blank: float = BLANK, size: int | None = None
) -> bytes:
    """Make a version 7 grid of cells [y, x], south first."""
    rows, columns = cells.shape
    grid = struct.pack("<2i8d", rows, columns, 1000, 2000, 10, 20, 0, 1, turn, blank)
    size = cells.size * 8 if size is None else size
    sections = [(b"DSRB", struct.pack("<i", version)), (b"NOTE", b"skipped"), (b"GRID", grid)]
    head = b"".join(tag + struct.pack("<i", len(body)) + body for tag, body in sections)
    return head + b"DATA" + struct.pack("<i", size) + cells.astype("<f8").tobytes()


def test_the_real_grid_as_gdal_reads_it(shared_data: Path, converted: Convert) -> None:
    source = shared_data / "airborne" / "elevation_surfer.GRD"
    ds = converted(source, crs="EPSG:28354", units="m", chunks={"y": 40, "x": 70})
    with rasterio.open(source) as file:
        assert file.driver == "GS7BG"
        values = file.read(1)
        assert (float(ds["x"][8]), float(ds["y"][3])) == file.xy(3, 8)
    assert ds["data"].shape == (126, 199)
    blank = values >= BLANK
    assert 0 < blank.sum() < values.size
    np.testing.assert_array_equal(ds["data"].values[~blank], values[~blank])
    np.testing.assert_array_equal(ds["valid"].values, ~blank)
    assert np.isnan(ds["data"].values[blank]).all()


@pytest.mark.parametrize("driver", ["GS7BG", "GSBG", "GSAG"])
def test_grids_that_gdal_writes(tmp_path: Path, converted: Convert, driver: str) -> None:
    values = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    values[2, 3] = BLANK
    options = {"width": 5, "height": 7, "count": 1, "dtype": "float32", "transform": from_origin(100, 900, 10, 20)}
    with rasterio.open(tmp_path / "plain.tif", "w", driver="GTiff", **options) as file:
        file.write(values, 1)
    rasterio.shutil.copy(tmp_path / "plain.tif", tmp_path / "a.grd", driver=driver)
    assert (tmp_path / "a.grd").read_bytes()[:4] == {"GS7BG": b"DSRB", "GSBG": b"DSBB", "GSAG": b"DSAA"}[driver]
    ds = converted(tmp_path / "a.grd", crs="local")
    valid = values < BLANK
    np.testing.assert_array_equal(ds["valid"].values, valid)
    np.testing.assert_allclose(ds["data"].values[valid], values[valid], rtol=1e-6)
    np.testing.assert_allclose(ds["x"], 105 + 10 * np.arange(5))
    np.testing.assert_allclose(ds["y"], 890 - 20 * np.arange(7))


def test_the_blank_value_of_a_later_version_is_that_value_only(tmp_path: Path, converted: Convert) -> None:
    cells = np.array([[1.0, -5.0], [9.0, 2.0]])
    for version, gaps in ((1, 1), (2, 0)):
        (tmp_path / "a.grd").write_bytes(surfer_7(cells, version=version, blank=8.5))
        assert np.isnan(converted(tmp_path / "a.grd", crs="local")["data"].values).sum() == gaps
    (tmp_path / "a.grd").write_bytes(surfer_7(cells, version=2, blank=-5))
    np.testing.assert_array_equal(converted(tmp_path / "a.grd", crs="local")["data"].values, [[9, 2], [1, np.nan]])


CELLS = np.arange(6.0).reshape(2, 3)
HEAD_6 = struct.pack("<4s2h6d", b"DSBB", 3, 2, 0, 20, 0, 10, 0, 5)
TEXT = "DSAA\n3 2\n0 20\n0 10\n0 5\n0 1 2\n3 4 {}\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (surfer_7(CELLS)[:-1], r"a\.grd is cut short: its header makes it .* bytes, but it holds .*; get the whole"),
        (surfer_7(CELLS)[:70], "is cut short: its sections GRID and DATA are not both there; get the whole file"),
        (surfer_7(CELLS, size=40), r"contradicts itself: 2 rows x 3 columns of 8 bytes are 48 bytes, but .* says 40"),
        (surfer_7(CELLS, turn=12), "is rotated by 12 degrees; regrid it along x and y in Surfer first"),
        (HEAD_6[:30], "is cut short: it ends within its header of 56 bytes; get the whole file"),
        (HEAD_6 + bytes(23), "is cut short: its header makes it 80 bytes, but it holds 79; get the whole file"),
        (struct.pack("<4s2h6d", b"DSBB", 3, 2, 5, 5, 0, 10, 0, 5) + bytes(24), "2 rows x 3 columns, 10 and 0 apart"),
        (TEXT.format("").encode(), "cut short or damaged: its header says 2 rows x 3 columns, but it holds 5 values"),
        (TEXT.format("x").encode(), r"is not a Surfer text grid that can be read \(could not convert string"),
        (b"DSAA\n3\n", "is not a Surfer text grid that can be read|is cut short"),
    ],
)  # fmt: skip
def test_broken_grids(tmp_path: Path, converted: Convert, content: bytes, words: str) -> None:
    (tmp_path / "a.grd").write_bytes(content)
    with pytest.raises(InputError, match=words):
        converted(tmp_path / "a.grd", crs="local")
    assert not (tmp_path / "volume.zarr").exists()


def test_another_file_by_the_name_of_the_format(tmp_path: Path, converted: Convert) -> None:
    (tmp_path / "a.grd").write_bytes(b"GIF89a" + bytes(99))
    with pytest.raises(InputError, match=r"a\.grd is not a Surfer grid: it starts with b'GIF8'; check the file"):
        converted(tmp_path / "a.grd", crs="local", format="surfer")
