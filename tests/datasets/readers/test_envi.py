"""ENVI images against GDAL's reader, and the refusals of headers that do not fit."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import rasterio
import scipy.io
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.config import ConvertConfig
from datasets.errors import InputError
from datasets.readers import envi
from datasets.readers.formats import source_kind

Convert = Callable[..., xr.Dataset]
CODES = {"u1": 1, "i2": 2, "i4": 3, "f4": 4, "f8": 5, "u2": 12, "u4": 13, "i8": 14, "u8": 15}
ORDER = {"bsq": (0, 1, 2), "bil": (1, 0, 2), "bip": (1, 2, 0)}


def write(
    folder: Path, cube: np.ndarray, interleave: str = "bsq", endian: str = "<", offset: int = 0, **more: str
) -> Path:
    """Write cube [band, y, x] as an ENVI image with the further lines of its header; returns the header."""
    bands, lines, samples = cube.shape
    stored = cube.transpose(ORDER[interleave]).astype(cube.dtype.newbyteorder(endian))  # type: ignore[arg-type]
    (folder / "scene.img").write_bytes(b"x" * offset + stored.tobytes())
    header = {
        "description": "{made for\n  a test = yes}", "samples": samples, "lines": lines, "bands": bands,
        "header offset": offset, "data type": CODES[cube.dtype.str[1:]], "interleave": interleave.upper(),
        "byte order": int(endian == ">"),
    } | {name.replace("_", " "): text for name, text in more.items()}  # fmt: skip
    path = folder / "scene.hdr"
    path.write_text("ENVI\n; a comment = no\n" + "\n".join(f"{name} = {text}" for name, text in header.items()))
    return path


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    kind=st.sampled_from(sorted(CODES)),
    interleave=st.sampled_from(sorted(ORDER)),
    endian=st.sampled_from("<>"),
    offset=st.sampled_from([0, 7, 512]),
    data=st.data(),
)
def test_every_layout_reads_the_same_block(
    shape: tuple[int, int, int], kind: str, interleave: str, endian: str, offset: int, data: st.DataObject
) -> None:
    cube = np.frombuffer(np.random.default_rng(0).bytes(8 * 216), kind)[: np.prod(shape)].reshape(shape)
    cuts = tuple(slice(*sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2)))) for n in shape)
    with TemporaryDirectory() as folder:
        ds = envi.read(ConvertConfig(source=str(write(Path(folder), cube, interleave, endian, offset))))
        read = ds["data"][cuts].values
        pixel = ds["data"][-1, 0].values
    assert read.dtype == kind
    np.testing.assert_array_equal(read, cube[cuts])
    np.testing.assert_array_equal(pixel, cube[-1, 0])


@pytest.mark.parametrize("interleave", sorted(ORDER))
@pytest.mark.parametrize("named", ["scene.hdr", "scene.img"])
def test_a_real_scene_as_gdal_reads_it(
    shared_data: Path, tmp_path: Path, converted: Convert, interleave: str, named: str
) -> None:
    flat = scipy.io.loadmat(shared_data / "hyperspectral" / "jasperRidge2_R198.mat")["Y"]
    cube = flat.reshape(198, 100, 100, order="F")[::11]
    write(tmp_path, cube, interleave, ">", 16, map_info="{UTM, 1, 1, 570000, 4140000, 20, 20, 10, North, WGS-84}")
    ds = converted(tmp_path / named, chunks={"band": 5, "x": 30})
    with rasterio.open(tmp_path / "scene.img") as file:
        assert file.driver == "ENVI"
        np.testing.assert_array_equal(ds["data"].values, file.read())
        assert rasterio.crs.CRS.from_wkt(ds["spatial_ref"].attrs["crs_wkt"]) == file.crs
        assert (float(ds["x"][8]), float(ds["y"][3])) == file.xy(3, 8)
    assert ds["data"].dims == ("band", "y", "x")
    assert "valid" not in ds


def test_header_becomes_coordinates_and_mask(tmp_path: Path, converted: Convert) -> None:
    cube = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)
    cube[:, 2, 2] = -999
    write(
        tmp_path, cube, "bil",
        wavelength="{ 400.5,\n 500.25,\n 2400 }", wavelength_units="Nanometers", band_names="{blue,\ngreen, swir}",
        data_ignore_value="-999", bbl="{1, 1, 0}",
        map_info="{Geographic Lat/Lon, 1.5, 1.5, 100.0, -30.0, 0.5, 0.25, WGS-84, units=Degrees}",
    )  # fmt: skip
    ds = converted(tmp_path / "scene.hdr")
    np.testing.assert_array_equal(ds["wavelength"], [400.5, 500.25, 2400])
    assert ds["wavelength"].dims == ("band",)
    assert ds["wavelength"].attrs["units"] == "nm"
    assert ds["band"].attrs["names"] == ["blue", "green", "swir"]
    np.testing.assert_array_equal(ds["x"], 100 + 0.5 * np.arange(5))  # pixel 1.5 is the centre of the first
    np.testing.assert_array_equal(ds["y"], -30 - 0.25 * np.arange(4))
    assert ds["x"].attrs["units"] == "degree"
    assert ds["spatial_ref"].attrs["geographic_crs_name"] == "WGS 84"
    expected = cube != -999
    expected[2] = False
    np.testing.assert_array_equal(ds["valid"].values, expected)
    assert ds.attrs["source"] == "scene.hdr, scene.img"


def test_the_wkt_of_the_header_is_the_coordinate_system(tmp_path: Path, converted: Convert) -> None:
    wkt = rasterio.crs.CRS.from_epsg(28354).to_wkt(version="WKT1_ESRI")
    place = "{Transverse Mercator, 1, 1, 5e5, 6e6, 30, 30, units=Meters}"
    write(tmp_path, np.ones((1, 3, 3), np.float32), map_info=place, coordinate_system_string=f"{{{wkt}}}")
    assert "MGA" in converted(tmp_path / "scene.hdr")["spatial_ref"].attrs["crs_wkt"]


def test_labels_from_an_image_of_classes(tmp_path: Path, converted: Convert) -> None:
    (tmp_path / "classes").mkdir()
    classes = np.array([[[0, 1, 2], [2, 2, 1]]], np.uint8)
    labels = write(tmp_path / "classes", classes, file_type="ENVI Classification", classes="3")
    np.save(tmp_path / "cube.npy", np.ones((4, 2, 3), np.float32))
    ds = converted(
        tmp_path / "cube.npy", dims=["band", "y", "x"], labels=str(labels), label_dims=["y", "x"],
        class_names={1: "rock", 2: "water"},
    )  # fmt: skip
    np.testing.assert_array_equal(ds["labels"].values, [[255, 0, 1], [1, 1, 0]])


@pytest.mark.parametrize("header", ["scene.hdr", "scene.dat.hdr"])
def test_a_dat_with_an_envi_header_is_an_image_and_no_table(tmp_path: Path, converted: Convert, header: str) -> None:
    cube = np.array([[[0, 1, 2], [2, 2, 1]]], np.uint8)
    write(tmp_path, cube).rename(tmp_path / header)
    image = (tmp_path / "scene.img").rename(tmp_path / "scene.dat")
    np.testing.assert_array_equal(converted(image)["data"].values, cube)
    np.save(tmp_path / "cube.npy", np.ones((4, 2, 3), np.float32))
    ds = converted(
        tmp_path / "cube.npy", dims=["band", "y", "x"], labels=str(image), label_dims=["y", "x"],
        class_names={1: "rock", 2: "water"},
    )  # fmt: skip
    np.testing.assert_array_equal(ds["labels"].values, [[255, 0, 1], [1, 1, 0]])


def test_a_dat_with_another_header_is_a_table(tmp_path: Path) -> None:
    (tmp_path / "lines.dat").write_text("x y mag\n1 2 3\n")
    assert source_kind(str(tmp_path / "lines.dat"), "auto", "source") == "lines"
    (tmp_path / "lines.hdr").write_text("columns of lines.dat\n")
    assert source_kind(str(tmp_path / "lines.dat"), "auto", "source") == "lines"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"data_type": "6"}, r"scene\.hdr describes complex numbers \(data type 6\), .* export amplitude or phase"),
        ({"data_type": "99"}, r"has the data type 99; this program reads \[1, 2, 3, 4, 5, 12, 13, 14, 15\]"),
        ({"data_type": ""}, r"scene\.hdr does not say its data type; add a line data type = \.\.\. to this"),
        ({"samples": "many"}, r"has 'many' in samples, which is no number; correct this ENVI header"),
        ({"lines": "0"}, "has lines = 0; it must be a whole number of at least 1"),
        ({"Interleave": "tiled"}, r"has the interleave 'tiled'; it must be one of \['bsq', 'bil', 'bip'\]"),
        ({"byte_order": "2"}, r"has the byte order 2; it must be 0 \(little-endian\) or 1 \(big-endian\)"),
        ({"file_compression": "1"}, "describes a compressed image, .*; save it uncompressed"),
        ({"major_frame_offsets": "{16, 0}"}, "has major frame offsets, .*; save the image without"),
        ({"map_info": "{UTM, 1, 1, 5e5, 4e6, 20, 20, 10, North, WGS-84, rotation=12.5}"},
         r"describes an image rotated by 12\.5 degrees; resample it to north-up first"),
        ({"map_info": "{Arbitrary, 1, 1}"}, "has a map info of 3 entries; it needs 7"),
        ({"wavelength": "{400, 500}"}, "lists 2 values of wavelength, but has 3 bands; correct the header"),
        ({"band_names": "{a, b}"}, "names 2 bands, but has 3; correct its band names"),
        ({"wavelength": "{400, 500"}, "opens a list at 'wavelength' that is never closed; add the missing brace"),
        ({"coordinate_system_string": "{PROJCS[no}", "map_info": "{X, 1, 1, 0, 0, 1, 1}"},
         r"crs is 'PROJCS\[no', which is no coordinate reference system"),
        ({"bands": "4"}, r"scene\.img is cut short: its header scene\.hdr makes it 160 bytes, but it holds 120"),
    ],
)  # fmt: skip
def test_refusals(tmp_path: Path, converted: Convert, more: dict[str, str], words: str) -> None:
    path = write(tmp_path, np.ones((3, 4, 5), np.int16), **more)
    with pytest.raises(InputError, match=words):
        converted(path)
    assert not (tmp_path / "volume.zarr").exists()


def test_missing_halves_and_other_files(tmp_path: Path, converted: Convert) -> None:
    path = write(tmp_path, np.ones((3, 4, 5), np.int16))
    (tmp_path / "scene.img").rename(tmp_path / "other.img")
    with pytest.raises(
        InputError, match=r"no image beside the header .*scene\.hdr; put it there as scene or scene\.img"
    ):
        converted(path)
    with pytest.raises(InputError, match=r"no ENVI header beside .*other\.img; put it there as other\.hdr"):
        converted(tmp_path / "other.img")
    (tmp_path / "other.hdr").write_text("ncols 4\nnrows 5\n")
    with pytest.raises(InputError, match=r"other\.hdr is not an ENVI header: its first line is 'ncols 4' and not ENVI"):
        converted(tmp_path / "other.img")
