"""Channels of several formats on one grid: ramps that must come out exact, masks a band, words and refusals."""

import struct
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import xarray as xr
import yaml
from pyproj import Transformer
from rasterio.transform import Affine
from scipy.interpolate import RegularGridInterpolator

from datasets.config import ConvertConfig
from datasets.convert import convert
from datasets.errors import InputError
from datasets.readers.formats import READERS
from datasets.store import open_volume

UTM = "EPSG:32633"
Field = Callable[[np.ndarray, np.ndarray], np.ndarray]
Writer = Callable[..., str]


def ramp(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x - 5e5) + 0.5 * (y - 5e6)


def centres(west: float, north: float, cell: float, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the centres of cells, of which the outer corner of the first is given."""
    return west + cell * (np.arange(shape[1]) + 0.5), north - cell * (np.arange(shape[0]) + 0.5)


def geotiff(path: Path, x: np.ndarray, y: np.ndarray, values: np.ndarray, crs: str | None = UTM) -> str:
    dx, dy = x[1] - x[0], y[1] - y[0]
    corner = Affine(dx, 0, x[0] - dx / 2, 0, dy, y[0] - dy / 2)
    path = path.with_suffix(".tif")
    with rasterio.open(
        path, "w", driver="GTiff", width=len(x), height=len(y), count=1, dtype=values.dtype, crs=crs, transform=corner
    ) as file:
        file.write(values, 1)
    return str(path)


def geosoft(path: Path, x: np.ndarray, y: np.ndarray, values: np.ndarray, crs: str | None = UTM) -> str:
    """Double precision, south first, plain."""
    path = path.with_suffix(".grd")
    head = struct.pack("<5i7d", 8, 2, len(x), len(y), 1, x[1] - x[0], y[0] - y[1], x[0], y[-1], 0, 0, 1)
    cells = np.where(np.isnan(values), -1e32, values)[::-1]
    path.write_bytes(head.ljust(512, b"\0") + cells.astype("<f8").tobytes())
    return str(path)


def surfer(path: Path, x: np.ndarray, y: np.ndarray, values: np.ndarray, crs: str | None = UTM) -> str:
    """Version 7, as GDAL writes it from a GeoTIFF."""
    path = path.with_suffix(".grd")
    rasterio.shutil.copy(geotiff(path, x, y, values, None), path, driver="GS7BG")
    return str(path)


def netcdf(path: Path, x: np.ndarray, y: np.ndarray, values: np.ndarray, crs: str | None = UTM) -> str:
    """Version 3, south first, columns before rows."""
    path = path.with_suffix(".nc")
    data = xr.DataArray(values, {"y": y, "x": x}, ["y", "x"], name="field").isel(y=slice(None, None, -1))
    data = data.rio.write_crs(crs) if crs else data
    data.transpose("x", "y").to_dataset().to_netcdf(path, engine="scipy", format="NETCDF3_64BIT")
    return str(path)


def envi(path: Path, x: np.ndarray, y: np.ndarray, values: np.ndarray, crs: str | None = UTM) -> str:
    path = path.with_suffix(".img")
    dx, dy = x[1] - x[0], y[0] - y[1]
    path.write_bytes(values.astype("<f8").tobytes())
    path.with_suffix(".hdr").write_text(
        f"ENVI\nsamples = {len(x)}\nlines = {len(y)}\nbands = 1\ndata type = 5\ninterleave = bsq\n"
        f"map info = {{UTM, 1, 1, {x[0] - dx / 2}, {y[0] + dy / 2}, {dx}, {dy}, 33, North, WGS-84}}\n"
    )
    return str(path)


WRITERS: dict[str, Writer] = {
    "geotiff": geotiff, "geosoft": geosoft, "surfer": surfer, "netcdf": netcdf, "envi": envi,
}  # fmt: skip
SILENT = ("geosoft", "surfer")  # formats that do not say their coordinate system


def source(kind: str, path: str) -> str | dict[str, str]:
    return {"source": path, "crs": UTM} if kind in SILENT else path


def opened(config: ConvertConfig) -> xr.Dataset:
    return open_volume(convert(config)).load()


@pytest.mark.parametrize("first", WRITERS)
def test_formats_on_one_grid_are_stacked_as_they_are(tmp_path: Path, first: str) -> None:
    x, y = centres(5e5, 5e6, 100, (5, 7))
    fields = {kind: np.random.default_rng(at).normal(size=(5, 7)) for at, kind in enumerate(WRITERS)}
    fields["geosoft"][1, 2] = np.nan
    paths = {kind: write(tmp_path / kind, x, y, fields[kind]) for kind, write in WRITERS.items()}
    order = [first, *(kind for kind in WRITERS if kind != first)]
    ds = opened(
        ConvertConfig(
            source=paths[first], more_sources=[source(kind, paths[kind]) for kind in order[1:]],
            crs=UTM if first in SILENT else "", out=str(tmp_path / "v.zarr"),
        )
    )  # fmt: skip
    ds = ds.sortby("y", ascending=False)
    assert ds["band"].attrs["names"] == order
    assert "resampling" not in ds.attrs
    assert "UTM zone 33N" in ds["spatial_ref"].attrs["crs_wkt"]
    np.testing.assert_allclose(ds["x"], x, rtol=1e-12)
    np.testing.assert_allclose(ds["y"], y, rtol=1e-12)
    for band, kind in enumerate(order):
        np.testing.assert_array_equal(ds["data"].values[band], fields[kind])
    gap = np.argwhere(~ds["valid"].values)
    np.testing.assert_array_equal(gap, [[order.index("geosoft"), 1, 2]])


@pytest.mark.parametrize(
    ("first", "other"), [(a, b) for a, b in product(WRITERS, WRITERS) if a != b and "netcdf" in (a, b)]
)
def test_a_ramp_resampled_between_formats_is_exact(tmp_path: Path, first: str, other: str) -> None:
    """Half a cell of shift, of the 20 m or the 30 m, would be an error of 10."""
    x, y = centres(5e5, 5e6, 30, (8, 9))
    x2, y2 = centres(5e5 - 110, 5e6 + 70, 20, (30, 31))
    paths = [
        WRITERS[first](tmp_path / "first", x, y, np.zeros((8, 9))),
        WRITERS[other](tmp_path / "other", x2, y2, ramp(*np.meshgrid(x2, y2))),
    ]
    ds = opened(
        ConvertConfig(
            source=paths[0], more_sources=[source(other, paths[1])], crs=UTM if first in SILENT else "",
            resample="bilinear", out=str(tmp_path / "v.zarr"),
        )
    )  # fmt: skip
    expected = ramp(*np.meshgrid(ds["x"], ds["y"]))
    assert "valid" not in ds or bool(ds["valid"].all())
    np.testing.assert_allclose(ds["data"].values[1], expected, rtol=0, atol=1e-7)
    assert ds.attrs["resampling"] == (
        f"band 2 ({Path(paths[1]).name}): bilinear from cells of 20 x 20 (EPSG:32633) to cells of 30 x 30 "
        f"(EPSG:32633), the grid of {Path(paths[0]).name}"
    )


@pytest.mark.parametrize("other", SILENT)
def test_a_ramp_in_degrees_comes_onto_a_grid_in_metres(tmp_path: Path, other: str) -> None:
    x, y = centres(5e5, 5e6, 500, (12, 10))
    longitude, latitude = centres(14.99, 45.25, 0.001, (150, 60))
    column, row = np.meshgrid(np.arange(60.0), np.arange(150.0))
    path = WRITERS[other](tmp_path / "other", longitude, latitude, column + 1000 * row)
    config = ConvertConfig(
        source=geotiff(tmp_path / "first", x, y, np.zeros((12, 10), np.float32)), resample="bilinear",
        more_sources=[{"source": path, "crs": "EPSG:4326"}], out=str(tmp_path / "v.zarr"), crs=UTM,
    )  # fmt: skip
    ds = opened(config)
    at = Transformer.from_crs(32633, 4326, always_xy=True).transform(*np.meshgrid(x, y))
    expected = (at[0] - longitude[0]) / 0.001 + 1000 * (latitude[0] - at[1]) / 0.001
    inside = ds["valid"].values[1]
    assert 0.5 < inside.mean() < 1
    rim = (at[0] < longitude[0]) | (at[0] > longitude[-1])  # within the outermost cells, beyond their centres
    inside &= ~rim
    np.testing.assert_allclose(ds["data"].values[1][inside], expected[inside], rtol=1e-6)
    assert "(EPSG:4326) to cells of 500 x 500 (EPSG:32633), the grid of first.tif" in ds.attrs["resampling"]


def test_no_data_of_each_source_is_masked_before_it_is_resampled(tmp_path: Path) -> None:
    x, y = centres(5e5, 5e6, 20, (6, 6))
    x2, y2 = centres(5e5, 5e6, 10, (12, 12))
    fine = np.ones((12, 12))
    fine[0, :2] = fine[1, 0] = -7
    fine[10:, :2] = -99  # no data in the first source only
    coarse = np.full((6, 6), -7.0)
    coarse[5, 5] = -99
    config = ConvertConfig(
        source=geotiff(tmp_path / "a", x, y, coarse), nodata=-99, resample="average", out=str(tmp_path / "v.zarr"),
        more_sources=[{"source": surfer(tmp_path / "b", x2, y2, fine), "crs": UTM, "nodata": -7}],
    )  # fmt: skip
    ds = opened(config)
    expected = np.ones((6, 6))
    expected[5, 0] = -99
    np.testing.assert_allclose(ds["data"].values[1], expected, atol=1e-6)
    assert np.argwhere(~ds["valid"].values).tolist() == [[0, 5, 5]]


def test_lines_are_gridded_onto_the_first_grid(tmp_path: Path) -> None:
    x, y = centres(5e5, 5e6, 50, (4, 6))
    first = netcdf(tmp_path / "first", x, y, np.zeros((4, 6)))
    at = [axis.ravel() for axis in np.meshgrid(*centres(5e5 - 50, 5e6 + 50, 50, (6, 8)))]  # also around it
    to_degrees = Transformer.from_crs(32633, 4326, always_xy=True)
    longitude, latitude = to_degrees.transform(*at)
    rows = [f"{lon:.9f},{lat:.9f},{value:.6f},{value - 1:.6f}"
            for lon, lat, value in zip(longitude, latitude, ramp(*at), strict=True)]  # fmt: skip
    (tmp_path / "lines.csv").write_text("\n".join(["longitude,latitude,mag,em", *rows]))
    lines = {"source": str(tmp_path / "lines.csv"), "crs": "EPSG:4326", "columns": ["mag", "em"], "blank_distance": 10}
    config = ConvertConfig(source=first, more_sources=[lines], out=str(tmp_path / "v.zarr"), overwrite=True)
    ds = opened(config)
    assert ds["band"].attrs["names"] == ["first", "mag", "em"]
    assert ds["y"].values[0] < ds["y"].values[-1]
    expected = ramp(*np.meshgrid(ds["x"], ds["y"]))
    np.testing.assert_allclose(ds["data"].values[1], expected, atol=1e-2)
    np.testing.assert_allclose(ds["data"].values[2], expected - 1, atol=1e-2)
    assert ds.attrs["gridding"] == (
        "bands 2 to 3 (lines.csv): onto the cells of first.nc, medians of cells of 50, linear between them, "
        "48 of 48 readings; no data farther than 10 from any"
    )
    grid = {"source": geosoft(tmp_path / "grid", x, y, np.ones((4, 6))), "crs": UTM}
    own = {"lines_crs": "EPSG:4326", "crs": UTM, "cell_size": 50.0, "columns": ["mag"], "blank_distance": 10.0}
    turned = replace(config, source=lines["source"], **own, more_sources=[grid], resample="nearest")  # type: ignore[arg-type]
    ds = opened(turned)
    assert ds["band"].attrs["names"] == ["mag", "grid"]
    assert ds.attrs["gridding"].startswith("band 1 (lines.csv): medians of cells of 50, linear between them, 48 of 48")
    assert "to cells of 50 x 50 (EPSG:32633), the grid of lines.csv" in ds.attrs["resampling"]
    assert int(ds["valid"].values[1].sum()) == 24
    with pytest.raises(InputError, match=r"lines\.csv does not say its coordinate system, and .*first\.nc is in EPSG:"):
        convert(replace(config, more_sources=[lines | {"crs": ""}]))
    with pytest.raises(
        InputError,
        match=r"no cell of 50 lies within blank_distance 10 of a reading of .*lines\.csv; "
        r"raise it, or check the CRS: the readings are at x .*, the cells at x 500025 to 500275, y 4",
    ):
        convert(replace(config, more_sources=[lines | {"xy_columns": ["latitude", "longitude"]}]))


def test_settings_of_a_further_source_are_part_of_what_the_volume_is(tmp_path: Path) -> None:
    x, y = centres(5e5, 5e6, 20, (3, 3))
    (tmp_path / "b").mkdir()
    paths = [geosoft(folder / "grid", x, y, np.full((3, 3), value)) for value, folder in
             ((1.0, tmp_path), (2.0, tmp_path / "b"))]  # fmt: skip
    recipe = yaml.safe_load(
        f"{{source: {paths[0]}, crs: {UTM}, out: {tmp_path / 'v.zarr'}, overwrite: true, "
        f"more_sources: [{{source: {paths[1]}, crs: {UTM}}}]}}"
    )
    config = ConvertConfig(**recipe)
    assert ConvertConfig(**asdict(config)) == config
    ds = opened(config)
    conversion = yaml.safe_load(ds.attrs["conversion"])
    assert conversion["settings"]["more_sources"] == [{"crs": UTM}]
    assert len(set(conversion["sha256"].values())) == 2
    other = opened(replace(config, more_sources=[{"source": paths[1], "crs": UTM, "nodata": -5}]))
    assert other.attrs["conversion"] != ds.attrs["conversion"]
    assert other.attrs["source_sha256"] == ds.attrs["source_sha256"]


def test_systems_that_nobody_knows(tmp_path: Path) -> None:
    """Two local grids are one map; that they are is said for both where values move."""
    x, y = centres(0, 0, 30, (8, 9))
    x2, y2 = centres(-110, 70, 20, (30, 31))
    first = geosoft(tmp_path / "first", x, y, np.zeros((8, 9)))
    other = surfer(tmp_path / "other", x2, y2, ramp(*np.meshgrid(x2, y2)))
    config = ConvertConfig(source=first, crs="local", resample="bilinear", out=str(tmp_path / "v.zarr"), overwrite=True)
    ds = opened(replace(config, more_sources=[{"source": other, "crs": "local"}]))
    np.testing.assert_allclose(ds["data"].values[1], ramp(*np.meshgrid(x, y)), rtol=1e-12)
    assert "spatial_ref" not in ds.coords
    with pytest.raises(InputError, match=r"other\.grd has no coordinate system, so it cannot be resampled to .* local"):
        convert(replace(config, more_sources=[other]))
    with pytest.raises(InputError, match=r"first\.grd has no coordinate system, but .*other\.grd is in EPSG:32633; "):
        convert(replace(config, more_sources=[{"source": other, "crs": UTM}]))
    with pytest.raises(InputError, match=r"other\.grd is said to be local, and .*first\.grd is in EPSG:32633; write"):
        convert(replace(config, crs=UTM, more_sources=[{"source": other, "crs": "local"}]))


@pytest.mark.parametrize("shift", [0.5, 0.01])
def test_a_shift_is_another_grid(tmp_path: Path, shift: float) -> None:
    x, y = centres(5e5, 5e6, 30, (8, 9))
    config = ConvertConfig(
        source=netcdf(tmp_path / "first", x, y, np.zeros((8, 9))), out=str(tmp_path / "v.zarr"),
        more_sources=[source("geosoft", geosoft(tmp_path / "other", x + 30 * shift, y, np.zeros((8, 9))))],
    )  # fmt: skip
    with pytest.raises(
        InputError, match=r"other\.grd has the grid of cells of 30 x 30 with the first at x 50\d+\.?\d*, y \d+, but "
        r".*first\.nc has of cells of 30 x 30 .*; set resample to nearest"
    ):  # fmt: skip
        convert(config)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([{"source": "b.tif", "crss": "EPSG:1"}], r"more_sources holds \{.*'crss'.*an entry is a file, or a map"),
        ([{"crs": "EPSG:1"}], r"more_sources holds \{'crs': 'EPSG:1'\}, which names no source; write \{source: FILE"),
        ([7], r"more_sources holds 7; an entry is a file, or a mapping of the settings \['source', 'crs', "),
        ([{"source": "a.csv", "columns": "mag"}], r"columns = 'mag' for a\.csv; it must be a list such as \[mag\]"),
        ([{"source": "a.csv", "nodata": "-"}], r"more_sources has nodata = '-' for a\.csv; it must be a number"),
        ([{"source": "a.csv", "nodata": False}], r"more_sources has nodata = False for a\.csv; it must be a number"),
        ([{"source": "a.csv", "key": 1}], r"more_sources has key = 1 for a\.csv; it must be text"),
        ([{"source": "a.csv", "gridding": "spline"}], r"gridding = 'spline' .* must be one of nearest, linear, cubic"),
        (["gone.tif"], r"no file at gone\.tif; check more_sources"),
        (["cube.npy"], r"cube\.npy has the format numpy; with more_sources, sources are geotiff, .*: save it as one"),
        (["cube.nc"], r"cube\.nc has the dimensions \['a', 'b'\]; with more_sources a source has y and x, .*: name"),
        ([{"source": "cube.nc", "dims": ["y", "x"]}], r"cube\.nc has no x along its columns and y along its"),
        (["grid.grd"], r"grid\.grd does not say its coordinate system, and first\.tif is in EPSG:32633; write"),
        ([{"source": "grid.grd", "crs": "EPSG:no"}], r"the crs of grid\.grd is 'EPSG:no', which is no coordinate ref"),
        ([{"source": "grid.grd", "crs": "EPSG:32634"}], r"grid\.grd has the coordinate system EPSG:32634, but "
         r"first\.tif has EPSG:32633; set resample"),
    ],
)  # fmt: skip
def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    x, y = centres(5e5, 5e6, 30, (8, 9))
    first = geotiff(Path("first"), x, y, np.zeros((8, 9), np.float32))
    geosoft(Path("grid"), x, y, np.zeros((8, 9)))
    np.save("cube.npy", np.zeros((3, 3)))
    xr.Dataset({"z": (("a", "b"), np.zeros((3, 3)))}).to_netcdf("cube.nc", engine="scipy", format="NETCDF3_64BIT")
    with pytest.raises(InputError, match=words):
        convert(ConvertConfig(source=first, more_sources=more, out="v.zarr"))
    assert not Path("v.zarr").exists()


def test_a_real_geosoft_grid_onto_cells_of_another_format(shared_data: Path, tmp_path: Path) -> None:
    """Against SciPy's interpolation of what `tests.datasets.readers.test_geosoft` compares with harmonica."""
    source = shared_data / "airborne" / "bhn_tmi_250m.grd"
    real = READERS["geosoft"](ConvertConfig(source=str(source), crs="local"))["data"].load()
    x, y = centres(890130.0, 6165070.0, 250, (120, 100))
    first = netcdf(tmp_path / "first", x, y, np.zeros((120, 100), np.float32), None)
    more: list[str | dict] = [{"source": str(source), "crs": "local"}]
    config = ConvertConfig(source=first, crs="local", more_sources=more, resample="bilinear",
                           out=str(tmp_path / "v.zarr"))  # fmt: skip
    ds = opened(config)
    surface = RegularGridInterpolator((real["y"].values[::-1], real["x"].values), real.values[::-1].astype(np.float64))
    at = np.stack(np.meshgrid(ds["y"], ds["x"], indexing="ij"), -1)
    assert ds["data"].dtype == np.float32
    np.testing.assert_allclose(ds["data"].values[1], surface(at), rtol=2e-7)
    assert ds["band"].attrs["names"] == ["first", "bhn_tmi_250m"]
    assert ds.attrs["resampling"] == (
        "band 2 (bhn_tmi_250m.grd): bilinear from cells of 100 x 100 (no CRS) to cells of 250 x 250 (no CRS), "
        "the grid of first.nc"
    )
