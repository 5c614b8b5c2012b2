"""Channels from several grids, against GDAL's warp of the whole file and against averages by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rioxarray
from pyproj import Transformer
from rasterio.enums import Resampling
from rasterio.transform import from_origin

from datasets.config import ConvertConfig
from datasets.convert import convert
from datasets.errors import InputError
from datasets.maps.map_grid import MapGrid
from datasets.readers import resample
from datasets.readers.resample import Raster, onto_grid
from datasets.store import open_volume


def write(path: Path, values: np.ndarray, west: float, north: float, cell: float, crs: str | None = "EPSG:32633",
          nodata: float | None = None) -> str:  # fmt: skip
    rows, columns = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", width=columns, height=rows, count=1, dtype=values.dtype, crs=crs, nodata=nodata,
        transform=from_origin(west, north, cell, cell),
    ) as file:  # fmt: skip
        file.write(values, 1)
    return str(path)


@pytest.fixture
def pair(tmp_path: Path) -> ConvertConfig:
    """A 3 x 4 grid of 100 m cells and a finer one of 50 m over its left three columns, one cell without data."""
    coarse = np.arange(12, dtype=np.int16).reshape(3, 4)
    fine = np.random.default_rng(0).integers(0, 90, (6, 6)).astype(np.int16)
    fine[0, 0] = -1
    return ConvertConfig(
        source=write(tmp_path / "coarse.tif", coarse, 5e5, 5e6, 100),
        more_sources=[write(tmp_path / "fine.tif", fine, 5e5, 5e6, 50, nodata=-1)],
        out=str(tmp_path / "t.zarr"), overwrite=True,
    )  # fmt: skip


def test_average_by_hand_and_its_words(pair: ConvertConfig) -> None:
    ds = open_volume(convert(replace(pair, resample="average"))).load()
    with rasterio.open(pair.others[0].source) as file:
        fine = np.where(file.read(1) == -1, np.nan, file.read(1))
    expected = np.nanmean(fine.reshape(3, 2, 3, 2), axis=(1, 3))
    assert ds["data"].dtype == np.float32
    np.testing.assert_array_equal(ds["data"].values[0], np.arange(12).reshape(3, 4))
    np.testing.assert_allclose(ds["data"].values[1, :, :3], expected, rtol=1e-6)
    np.testing.assert_array_equal(ds["valid"].values[1], [[True, True, True, False]] * 3)
    assert ds["band"].attrs["names"] == ["coarse", "fine"]
    assert ds.attrs["resampling"] == (
        "band 2 (fine.tif): average from cells of 50 x 50 (EPSG:32633) to cells of 100 x 100 (EPSG:32633), "
        "the grid of coarse.tif"
    )


def test_nothing_is_resampled_in_silence(pair: ConvertConfig, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"fine\.tif has the size \(6, 6\), but .*coarse\.tif has \(3, 4\); set resample"
    ):
        convert(pair)
    same = write(tmp_path / "same.tif", np.ones((3, 4)), 5e5, 5e6, 100)
    ds = open_volume(convert(replace(pair, more_sources=[same], resample="nearest")))
    assert "resampling" not in ds.attrs
    assert ds["data"].dtype == np.float64


def test_what_cannot_be_resampled(pair: ConvertConfig, tmp_path: Path) -> None:
    far = write(tmp_path / "far.tif", np.ones((3, 4)), 6e5, 5e6, 100)
    with pytest.raises(
        InputError, match=r"far\.tif covers x 600000 to 600400, .*: they do not overlap; check their CRS"
    ):
        convert(replace(pair, more_sources=[far], resample="nearest"))
    bare = write(tmp_path / "bare.tif", np.ones((3, 4)), 5e5, 5e6, 90, crs=None)
    with pytest.raises(
        InputError,
        match=r"bare\.tif does not say its coordinate system, and .*coarse\.tif is in EPSG:32633; "
        r"write \{source: .*bare\.tif, crs: EPSG:28354\}, say, in more_sources$",
    ):
        convert(replace(pair, more_sources=[bare], resample="nearest"))


@pytest.mark.parametrize("method", ["nearest", "bilinear", "average"])
def test_real_magnetics_from_degrees(shared_data: Path, tmp_path: Path, method: str) -> None:
    folder = shared_data / "airborne" / "tempest_map"
    magnetics = rioxarray.open_rasterio(folder / "mag_aligned.tif")
    degrees = magnetics.rio.reproject("EPSG:4326", resolution=0.02, resampling=Resampling.average)
    degrees.rio.to_raster(tmp_path / "degrees.tif")
    first = folder / "resistivity_0_5m.tif"
    config = ConvertConfig(
        source=str(first), more_sources=[str(tmp_path / "degrees.tif")], resample=method, out=str(tmp_path / "m.zarr"),
        chunks={"y": 100, "x": 90},
    )  # fmt: skip
    ds = open_volume(convert(config)).load()
    valid = ds["valid"].values[1]
    values = ds["data"].values[1]
    if method == "nearest":
        # By PROJ and by hand: the cell of the source in which the centre of the target's cell lies.
        transform = Transformer.from_crs(5070, 4326, always_xy=True)
        longitude, latitude = transform.transform(*np.meshgrid(ds["x"], ds["y"]))
        with rasterio.open(tmp_path / "degrees.tif") as file:
            column, row = (np.floor(at).astype(int) for at in ~file.transform @ (longitude, latitude))
            source = file.read(1)
            inside = (column >= 0) & (column < file.width) & (row >= 0) & (row < file.height)
            expected = np.where(
                inside, source[row.clip(0, file.height - 1), column.clip(0, file.width - 1)], file.nodata
            )
            np.testing.assert_array_equal(valid, expected != file.nodata)
        np.testing.assert_array_equal(values[valid], expected[valid])
    else:
        # GDAL's warp of the whole in one piece; it differs by some cells in what it takes for the edge of the data.
        whole = degrees.rio.reproject_match(rioxarray.open_rasterio(first), resampling=Resampling[method])
        both = valid & (whole.values[0] != whole.rio.nodata)
        assert (both != valid).mean() < 0.001
        off = np.abs(values - whole.values[0])[both]
        assert np.quantile(off, 0.99) < 0.05 * np.std(values[both])
    true = magnetics.values[0]
    both = valid & (true != magnetics.rio.nodata)
    assert np.corrcoef(values[both], true[both])[0, 1] > 0.95


def test_windows_do_not_change_what_is_read(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shared_data / "airborne" / "tempest_map"
    first = rioxarray.open_rasterio(folder / "resistivity_0_5m.tif")
    magnetics = rioxarray.open_rasterio(folder / "mag_aligned.tif", masked=True)
    degrees = magnetics.rio.reproject("EPSG:4326", resolution=0.05, resampling=Resampling.average)
    grids = [MapGrid.of(layer.to_dataset(name="data"), "testing") for layer in (degrees, first)]
    values = degrees.values.astype(np.float32)
    read = []

    def part(bands: range, rows: range, columns: range) -> np.ndarray:
        read.append(len(rows) * len(columns))
        return values[bands[0] : bands[-1] + 1, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]

    warped = onto_grid(Raster(grids[0], 1, part), grids[1], "bilinear", np.dtype(np.float32))
    whole = warped.load()[0]
    assert len(read) == 1
    pieces = [warped.read((0, slice(at, at + 110), slice(None))) for at in range(0, 770, 110)]
    np.testing.assert_allclose(np.concatenate(pieces), whole, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(warped.read((0, slice(40, 300, 3), slice(7, None, 5))), whole[40:300:3, 7::5],
                               rtol=1e-5, atol=1e-4)  # fmt: skip
    read.clear()
    monkeypatch.setattr(resample, "_MOST_CELLS", 1000)
    np.testing.assert_allclose(warped.load()[0], whole, rtol=1e-5, atol=1e-4)
    assert len(read) > 20
    assert max(read) <= 1000
