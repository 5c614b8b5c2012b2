"""netCDF files against SciPy's, h5py's and GDAL's readers."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import scipy.io
import xarray as xr

from datasets.errors import InputError

Convert = Callable[..., xr.Dataset]
ENGINES = {"netcdf3": "scipy", "netcdf4": "h5netcdf"}


@pytest.fixture
def scene() -> xr.Dataset:
    """Counts over (time, latitude, longitude) with -1 for no data, and a second variable on the map alone."""
    counts = np.random.default_rng(0).integers(0, 99, (3, 4, 5)).astype(np.int16)
    counts[1, 2] = -1
    attrs = {"units": "counts", "long_name": "photon counts", "_FillValue": np.int16(-1)}
    return xr.Dataset(
        {
            "counts": (("time", "latitude", "longitude"), counts, attrs),
            "height": (("latitude", "longitude"), np.ones((4, 5), np.float32)),
        },
        coords={
            "time": ("time", [0, 31, 60], {"units": "days since 2020-01-01"}),
            "latitude": ("latitude", [10.5, 10, 9.5, 9], {"standard_name": "latitude", "units": "degrees_north"}),
            "longitude": ("longitude", np.arange(5.0), {"standard_name": "longitude", "units": "degrees_east"}),
            "platform": ((), 7),
        },
        attrs={"title": "Photons"},
    )


@pytest.mark.parametrize("version", sorted(ENGINES))
def test_a_variable_with_all_that_it_says_of_itself(
    tmp_path: Path, converted: Convert, scene: xr.Dataset, version: str
) -> None:
    source = tmp_path / "scene.nc"
    scene.to_netcdf(source, engine=ENGINES[version], format="NETCDF3_64BIT" if version == "netcdf3" else "NETCDF4")
    if version == "netcdf3":
        with scipy.io.netcdf_file(source, mmap=False) as file:
            stored = file.variables["counts"][:].copy()
    else:
        with h5py.File(source) as file:
            stored = file["counts"][:]
    ds = converted(source, key="counts", crs="EPSG:4326", chunks={"time": 2})
    assert ds["data"].dims == ("time", "y", "x")
    assert ds["data"].dtype == np.int16
    np.testing.assert_array_equal(ds["data"].values, stored)
    np.testing.assert_array_equal(ds["valid"].values, stored != -1)
    assert ds["data"].attrs["units"] == "counts"
    assert ds["data"].attrs["long_name"] == "photon counts"
    np.testing.assert_array_equal(ds["y"], [10.5, 10, 9.5, 9])
    assert ds["x"].attrs["units"] == "degrees_east"
    assert ds["time"].values.astype("datetime64[D]").astype(str).tolist() == ["2020-01-01", "2020-02-01", "2020-03-01"]
    assert ds.attrs["title"] == "Photons"
    assert converted(source, key="counts", units="1", dims=["date", "row", "column"])["data"].attrs["units"] == "1"


@pytest.mark.parametrize("version", sorted(ENGINES))
def test_records_of_an_unlimited_dimension(tmp_path: Path, converted: Convert, scene: xr.Dataset, version: str) -> None:
    source = tmp_path / "scene.nc"
    # SciPy writes a single number into the records of others.
    several = scene.assign(other=scene["counts"] * 2).drop_vars("platform")
    several.to_netcdf(source, engine=ENGINES[version], unlimited_dims=["time"])
    ds = converted(source, key="counts", chunks={"time": 1, "y": 3})
    np.testing.assert_array_equal(ds["data"].values, scene["counts"].values)


@pytest.mark.parametrize("version", sorted(ENGINES))
def test_packed_values_are_unpacked(tmp_path: Path, converted: Convert, version: str) -> None:
    packed = np.array([[0, 10, -99], [20, 30, 40]], np.int16)
    attrs = {"scale_factor": 0.5, "add_offset": 3.0, "_FillValue": np.int16(-99)}
    xr.Dataset({"depth": (("y", "x"), packed, attrs)}).to_netcdf(tmp_path / "a.nc", engine=ENGINES[version])
    ds = converted(tmp_path / "a.nc")
    np.testing.assert_allclose(ds["data"].values, [[3, 8, np.nan], [13, 18, 23]])
    np.testing.assert_array_equal(ds["valid"].values, packed != -99)


@pytest.mark.parametrize("version", sorted(ENGINES))
@pytest.mark.parametrize(
    "missing",
    [
        {"_FillValue": np.int16(-32768), "missing_value": np.int16(-32767)},
        {"missing_value": np.array([-32768, -32767], np.int16)},
    ],
)
@pytest.mark.filterwarnings("error::xarray.SerializationWarning")
def test_every_missing_value_of_packed_data_is_no_data(
    tmp_path: Path, converted: Convert, version: str, missing: dict[str, object]
) -> None:
    packed = np.array([[1, -32767, -32768], [4, 6, 8]], np.int16)
    attrs = {"scale_factor": 0.5, **missing}
    stored = xr.Dataset({"depth": (("y", "x"), packed)})
    stored["depth"].attrs = attrs
    path = tmp_path / "a.nc"
    if version == "netcdf3":
        with scipy.io.netcdf_file(path, "w") as file:
            file.createDimension("y", 2)
            file.createDimension("x", 3)
            variable = file.createVariable("depth", "i2", ("y", "x"))
            variable[:] = packed
            for name, value in attrs.items():
                setattr(variable, name, value)
    else:
        with h5py.File(path, "w") as file:
            file["depth"] = packed
            for name, value in attrs.items():
                file["depth"].attrs[name] = value
            for axis, name in enumerate(("y", "x")):
                file[name] = np.arange(packed.shape[axis])
                file[name].make_scale(name)
                file["depth"].dims[axis].attach_scale(file[name])
    ds = converted(path, key="depth")
    np.testing.assert_array_equal(ds["data"].values, [[0.5, np.nan, np.nan], [2, 3, 4]])
    np.testing.assert_array_equal(ds["valid"].values, packed > -32767)


@pytest.mark.parametrize(("suffix", "layout"), [(".nc", "NC"), (".nc", "NC4"), (".grd", "NC")])
def test_a_real_map_with_its_coordinate_system(
    shared_data: Path, tmp_path: Path, converted: Convert, suffix: str, layout: str
) -> None:
    origin = shared_data / "airborne" / "tempest_map" / "mag_aligned.tif"
    source = tmp_path / f"map{suffix}"
    rasterio.shutil.copy(origin, source, driver="netCDF", FORMAT=layout)
    ds, expected = converted(source), converted(origin)
    np.testing.assert_array_equal(ds["data"].sortby("y").values, expected["data"][0].sortby("y").values)
    np.testing.assert_array_equal(ds["valid"].sortby("y").values, expected["valid"][0].sortby("y").values)
    np.testing.assert_allclose(ds["x"], expected["x"])
    crs = [rasterio.crs.CRS.from_wkt(volume["spatial_ref"].attrs["crs_wkt"]) for volume in (ds, expected)]
    assert crs[0].to_dict() == crs[1].to_dict()


def test_groups_names_and_plain_hdf5(tmp_path: Path, converted: Convert) -> None:
    values = np.arange(12.0).reshape(3, 4)
    xr.Dataset({"a": (("band", "x"), values)}, coords={"band": ["red", "green", "blue"]}).to_netcdf(
        tmp_path / "a.nc", engine="h5netcdf", group="inner"
    )
    ds = converted(tmp_path / "a.nc", key="inner/a")
    np.testing.assert_array_equal(ds["data"].values, values)
    assert ds["band"].attrs["names"] == ["red", "green", "blue"]
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["cube"] = values
    ds = converted(tmp_path / "b.h5", format="netcdf", dims=["y", "x"])
    assert ds["data"].dims == ("y", "x")
    np.testing.assert_array_equal(ds["data"].values, values)


def test_a_rare_calendar_keeps_its_numbers(tmp_path: Path, converted: Convert, scene: xr.Dataset) -> None:
    scene["time"].attrs["calendar"] = "360_day"
    scene.to_netcdf(tmp_path / "a.nc", engine="scipy")
    ds = converted(tmp_path / "a.nc", key="counts")
    np.testing.assert_array_equal(ds["time"], [0, 31, 60])
    assert ds["time"].attrs["units"] == "days after 2020-01-01, calendar 360_day"


def test_labels_from_the_same_file(tmp_path: Path, converted: Convert, scene: xr.Dataset) -> None:
    classes = np.arange(20).reshape(4, 5).astype(np.int8) % 3
    scene.assign(classes=(("latitude", "longitude"), classes)).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    ds = converted(
        tmp_path / "a.nc", key="counts", labels_key="classes", label_dims=["y", "x"], class_names={1: "a", 2: "b"}
    )
    np.testing.assert_array_equal(ds["labels"].values, np.array([255, 0, 1])[classes])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, r"scene\.nc holds several arrays; set key to one of: counts \(3, 4, 5\), height \(4, 5\)$"),
        ({"key": "depth"}, r"scene\.nc has no array 'depth'; set key to one of: counts "),
        ({"key": "counts", "dims": ["y", "x"]},
         r"has the dimensions \['time', 'latitude', 'longitude'\], but dims names \['y', 'x'\]; name them all"),
        ({"key": "inner/counts"}, r"scene\.nc cannot be read as netCDF \(.*\); check the file and the key"),
    ],
)  # fmt: skip
def test_refusals(
    tmp_path: Path, converted: Convert, scene: xr.Dataset, options: dict[str, object], words: str
) -> None:
    scene.to_netcdf(tmp_path / "scene.nc", engine="h5netcdf")
    with pytest.raises(InputError, match=words):
        converted(tmp_path / "scene.nc", **options)


@pytest.mark.parametrize("version", sorted(ENGINES))
def test_broken_files(tmp_path: Path, converted: Convert, scene: xr.Dataset, version: str) -> None:
    source = tmp_path / "scene.nc"
    scene.to_netcdf(source, engine=ENGINES[version])
    whole = source.read_bytes()
    source.write_bytes(whole[:-300])
    with pytest.raises(InputError, match=r"scene\.nc cannot be read as netCDF \(.*\); check the file and the key"):
        converted(source, key="counts")
    source.write_bytes(whole[:2] + b"?" + whole[3:])
    with pytest.raises(
        InputError, match=r"scene\.nc is not a netCDF file that can be read: it starts with b'.*'; check"
    ):
        converted(source, key="counts")


def test_without_h5netcdf_the_extra_is_named(
    tmp_path: Path, converted: Convert, scene: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.to_netcdf(tmp_path / "scene.nc", engine="h5netcdf")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"is netCDF-4, which needs h5netcdf: pip install -e '\.\[formats\]'"):
        converted(tmp_path / "scene.nc", key="counts")
