"""SEG-Y cubes against segyio's raw traces: value by value, whatever the byte order and the missing traces."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import segyio
import xarray as xr

from datasets.config import ConvertConfig
from datasets.convert import convert
from datasets.errors import InputError
from datasets.store import open_volume

INLINE, CROSSLINE = 189, 193


def converted(source: Path, tmp_path: Path, **settings: object) -> xr.Dataset:
    config = ConvertConfig(source=str(source), out=str(tmp_path / f"{source.stem}.zarr"), **settings)  # type: ignore[arg-type]
    return open_volume(convert(config)).load()


@pytest.mark.parametrize(
    ("name", "endian", "dtype", "traces"),
    [
        ("small.sgy", "big", np.float32, 25),
        ("f3.sgy", "big", np.int16, 414),
        ("f3-lsb.sgy", "little", np.int16, 414),
        ("Format6msb.sgy", "big", np.float64, 414),
        ("f3-ebcidctest.sgy", "big", np.float32, 200),
        ("f3-withdead.sgy", "big", np.float32, 239),
        ("ex1_missing_traces_75x71x26.segy", "big", np.float32, 4938),
        ("ex2_complete_3d_75x71x26.segy", "big", np.float32, 5325),
        ("volve10-migvel-depth-sub3d.sgy", "big", np.float32, 936),
    ],
)
def test_every_trace_is_where_its_header_says(
    shared_data: Path, tmp_path: Path, name: str, endian: str, dtype: type, traces: int
) -> None:
    source = shared_data / "seismic" / name
    ds = converted(source, tmp_path)
    assert ds["data"].dtype == dtype
    assert ds["data"].dims == ("inline", "crossline", "twt")
    values, inlines, crosslines = ds["data"].values, ds["inline"].values.tolist(), ds["crossline"].values.tolist()
    seen = np.zeros((ds.sizes["inline"], ds.sizes["crossline"]), bool)
    with segyio.open(source, ignore_geometry=True, endian=endian) as file:
        assert file.tracecount == traces
        np.testing.assert_array_equal(ds["twt"], file.samples)
        for number, trace in enumerate(file.trace):
            header = file.header[number]
            cell = inlines.index(header[INLINE]), crosslines.index(header[CROSSLINE])
            np.testing.assert_array_equal(values[cell], trace)
            seen[cell] = True
    assert seen.sum() == traces
    if seen.all():
        assert "valid" not in ds
    else:
        np.testing.assert_array_equal(ds["valid"].values, np.repeat(seen[:, :, None], ds.sizes["twt"], axis=2))


def test_missing_traces_are_counted(shared_data: Path, tmp_path: Path) -> None:
    ds = converted(shared_data / "seismic" / "ex1_missing_traces_75x71x26.segy", tmp_path)
    assert ds["valid"].shape == (75, 71, 26)
    assert int(ds["valid"].all("twt").sum()) == 4938
    assert int((~ds["valid"].any("twt")).sum()) == 5325 - 4938
    assert np.isnan(ds["data"].values[~ds["valid"].values]).all()


def test_both_byte_orders_are_the_same_cube(shared_data: Path, tmp_path: Path) -> None:
    big, little = (converted(shared_data / "seismic" / name, tmp_path) for name in ("f3.sgy", "f3-lsb.sgy"))
    xr.testing.assert_identical(big.drop_attrs(), little.drop_attrs())


def test_small_pieces_make_the_same_cube(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "seismic" / "ex1_missing_traces_75x71x26.segy"
    pieces = converted(source, tmp_path / "pieces", chunks={"inline": 13, "crossline": 7, "twt": 10})
    assert pieces["data"].attrs["chunks"] == [13, 7, 10]
    xr.testing.assert_equal(pieces, converted(source, tmp_path))


def test_positions_units_and_crs(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "seismic" / "volve10-migvel-depth-sub3d.sgy"
    ds = converted(source, tmp_path, vertical="depth", crs="EPSG:23031", units="m/s", chunks={"inline": 5})
    assert ds["depth"].attrs["units"] == "m"
    assert ds["data"].attrs["units"] == "m/s"
    assert ds["data"].attrs["chunks"][0] == 5
    with segyio.open(source, ignore_geometry=True) as file:
        first = file.header[0]
        corner = ds.sel(inline=first[INLINE], crossline=first[CROSSLINE])
        assert float(corner["x"]) == pytest.approx(first[181] / 100)
        assert float(corner["y"]) == pytest.approx(first[185] / 100)
    assert "ED50 / UTM zone 31N" in ds["spatial_ref"].attrs["crs_wkt"]


def test_other_header_bytes(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "seismic" / "f3.sgy"
    ds = converted(source, tmp_path, inline_byte=9, crossline_byte=21)
    xr.testing.assert_equal(ds, converted(source, tmp_path / "usual"))


def test_dead_traces_are_not_valid(shared_data: Path, tmp_path: Path) -> None:
    source = tmp_path / "dead.sgy"
    shutil.copy(shared_data / "seismic" / "small.sgy", source)
    with segyio.open(source, "r+", ignore_geometry=True) as file:
        file.header[3].update({segyio.TraceField.TraceIdentificationCode: 2})  # flagged as dead
        file.trace[7] = np.zeros(len(file.samples), np.float32)  # dead, but not flagged
        cells = [(file.header[i][INLINE], file.header[i][CROSSLINE]) for i in (3, 7)]
    valid = converted(source, tmp_path)["valid"]
    assert int(valid.all("twt").sum()) == 23
    for inline, crossline in cells:
        assert not valid.sel(inline=inline, crossline=crossline).any()


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("shot-gather.sgy", {}, r"is not a cube: its 61 traces all have inline 0 and crossline 0 \(header bytes "
         r"189 and 193\), as in a gather before stack; stack it first, or set inline_byte and crossline_byte"),
        ("volve10r12-full-z-il10117sub.sgy", {}, r"is not a cube but a 2-D line of 202 traces: the header bytes "
         r"189 and 193 hold 1 inline and 1 crossline; set inline_byte .* or save it as \.npy"),
        ("volve10r12-full-z-il10117sub.sgy", {"inline_byte": 9, "crossline_byte": 21}, "2-D line of 202 traces"),
        ("f3.sgy", {"crossline_byte": 189}, "is not a cube after stack: 18 traces share inline 111, crossline 111 "),
        ("f3.sgy", {"inline_byte": 190}, "inline_byte is 190, at which no trace header field of"),
        ("f3.sgy", {"endian": "little"}, "cannot be read as little-endian SEG-Y .* or set endian"),
    ],
)  # fmt: skip
def test_refusals(shared_data: Path, tmp_path: Path, name: str, settings: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        converted(shared_data / "seismic" / name, tmp_path, **settings)
    assert not list(tmp_path.iterdir())


def test_gathers_with_cell_numbers_are_refused(shared_data: Path, tmp_path: Path) -> None:
    source = tmp_path / "gathers.sgy"
    shutil.copy(shared_data / "seismic" / "small.sgy", source)
    with segyio.open(source, "r+", ignore_geometry=True) as file:
        for number in range(file.tracecount):
            file.header[number].update({INLINE: 1 + number // 10, CROSSLINE: 1 + number % 10 // 5})
    with pytest.raises(
        InputError, match=r"is not a cube after stack: 5 traces share inline 1, crossline 1 .* stack it first"
    ):
        converted(source, tmp_path)


def test_scattered_lines_are_refused(shared_data: Path, tmp_path: Path) -> None:
    source = tmp_path / "scattered.sgy"
    shutil.copy(shared_data / "seismic" / "small.sgy", source)
    with segyio.open(source, "r+", ignore_geometry=True) as file:
        for number in range(file.tracecount):
            file.header[number].update({INLINE: number + 1, CROSSLINE: number + 1})
    with pytest.raises(InputError, match=r"its 25 traces would fill 4\.0% of 25 inlines x 25 crosslines"):
        converted(source, tmp_path)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (7, r"stores its samples as 24-bit integers \(format 7\), .* IEEE floats \(format 5\)"),
        (99, "is not SEG-Y: its sample"),
    ],
)
def test_formats_that_would_be_misread_are_refused(tmp_path: Path, code: int, words: str) -> None:
    source = tmp_path / "odd.sgy"
    source.write_bytes(bytes(3224) + code.to_bytes(2, "big") + bytes(1000))
    with pytest.raises(InputError, match=words):
        converted(source, tmp_path)


def test_a_short_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "short.sgy").write_bytes(b"C 1 CLIENT")
    with pytest.raises(InputError, match="is not SEG-Y: it ends within the file headers; check the file"):
        converted(tmp_path / "short.sgy", tmp_path)
