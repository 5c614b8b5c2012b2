"""ENVI images: a text header beside a plain binary file, in any interleave and byte order."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from datasets.config import ConvertConfig
from datasets.errors import InputError
from datasets.lazy_array import plain_array
from datasets.readers.arrays import refuse_short

_TYPES = {1: "u1", 2: "i2", 3: "i4", 4: "f4", 5: "f8", 12: "u2", 13: "u4", 14: "i8", 15: "u8"}
_SUFFIXES = ("", ".img", ".dat", ".bsq", ".bil", ".bip", ".raw")
# Axes of the file, in order; what is read is always (band, y, x).
_AXES = {"bsq": ("band", "y", "x"), "bil": ("y", "band", "x"), "bip": ("y", "x", "band")}
_WGS84 = ("wgs-84", "wgs84")


def read(config: ConvertConfig) -> xr.Dataset:
    """Read (band, y, x) with wavelengths, positions, coordinate system and ignored value of the header.

    `config.source` is the header or the image beside it. Gains and offsets are not applied, bands that ``bbl`` calls
    bad are not valid, and complex, compressed and rotated images are refused.
    """
    path, image = _files(Path(config.source))
    header = _Header(path)
    sizes = {dim: header.whole(name, least=1) for dim, name in (("band", "bands"), ("y", "lines"), ("x", "samples"))}
    dtype, offset, axes = _layout(header)
    refuse_short(image, offset + math.prod(sizes.values()) * dtype.itemsize, f"its header {path.name}")
    strides = tuple(math.prod(sizes[inner] for inner in axes[axes.index(dim) + 1 :]) * dtype.itemsize for dim in sizes)
    array = plain_array(image, dtype, tuple(sizes.values()), offset=offset, strides=strides)
    ds = xr.Dataset({"data": array.variable(list(sizes))}, coords=_bands(header, sizes["band"]))
    ds.attrs = {"files": [str(path), str(image)]}
    if "bbl" in header:
        ds["valid"] = ("band", header.numbers("bbl", sizes["band"]) != 0)
    if "data ignore value" in header:
        ds.attrs["nodata"] = [header.number(header["data ignore value"], "data ignore value")]
    if "map info" not in header:
        return ds
    parts = [part.strip() for part in header["map info"].split(",")]
    if len(parts) < 7:
        raise InputError(f"{path} has a map info of {len(parts)} entries; it needs 7: projection, pixel, place, size")
    rotation = [part.partition("=")[2] for part in parts if part.lower().startswith("rotation")]
    if rotation and header.number(rotation[0], "rotation"):
        raise InputError(f"{path} describes an image rotated by {rotation[0]} degrees; resample it to north-up first")
    column, row, east, north, width, height = (header.number(part, "map info") for part in parts[1:7])
    # Pixel (1, 1) of map info is the outer corner of the first pixel, (1.5, 1.5) its centre.
    x = east + (np.arange(sizes["x"]) + 1.5 - column) * width
    y = north - (np.arange(sizes["y"]) + 1.5 - row) * height
    crs = header.get("coordinate system string") or _named_crs(parts)
    return ds.assign_coords(x=x, y=y).assign_attrs({"crs": crs} if crs else {})


class _Header(dict[str, str]):
    """Name in lower case -> text, without the braces of lists."""

    def __init__(self, path: Path) -> None:
        super().__init__({"byte order": "0", "header offset": "0", "file compression": "0"})
        self.path = path
        lines = iter(path.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n").split("\n"))
        first = next(lines)
        if first.strip() != "ENVI":
            raise InputError(
                f"{path} is not an ENVI header: its first line is {first[:40]!r} and not ENVI; check the file"
            )
        for line in lines:
            name, equals, value = line.partition("=")
            if not equals or line.lstrip().startswith(";"):
                continue
            value = value.strip()
            while value.startswith("{") and "}" not in value:
                more = next(lines, None)
                if more is None:
                    raise InputError(
                        f"{path} opens a list at {name.strip()!r} that is never closed; add the missing brace"
                    )
                value += " " + more.strip()
            self[" ".join(name.lower().split())] = value.strip("{} ").strip()

    def text(self, name: str) -> str:
        if not self.get(name):
            raise InputError(f"{self.path} does not say its {name}; add a line {name} = ... to this ENVI header")
        return self[name]

    def number(self, text: str, name: str) -> float:
        try:
            return float(text)
        except ValueError as error:
            raise InputError(
                f"{self.path} has {text!r} in {name}, which is no number; correct this ENVI header"
            ) from error

    def whole(self, name: str, least: int = 0) -> int:
        number = self.number(self.text(name), name)
        if number != int(number) or number < least:
            raise InputError(f"{self.path} has {name} = {self[name]}; it must be a whole number of at least {least}")
        return int(number)

    def numbers(self, name: str, count: int) -> np.ndarray:
        numbers = [self.number(part, name) for part in self[name].split(",") if part.strip()]
        if len(numbers) != count:
            raise InputError(
                f"{self.path} lists {len(numbers)} values of {name}, but has {count} bands; correct the header"
            )
        return np.asarray(numbers)


def is_image(path: Path) -> bool:
    """Whether a .dat, which may as well be a table, is the image of an ENVI header beside it."""
    header = _header_of(path) if path.suffix.lower() == ".dat" else None
    return header is not None and header.read_bytes().startswith(b"ENVI")


def _header_of(image: Path) -> Path | None:
    headers = image.with_suffix(".hdr"), Path(f"{image}.hdr"), image.with_suffix(".HDR")
    return next((header for header in headers if header.is_file()), None)


def _files(source: Path) -> tuple[Path, Path]:
    if source.suffix.lower() == ".hdr":
        stem = source.with_suffix("")  # cube of cube.hdr beside cube.img, or cube.img of cube.img.hdr
        for image in (Path(f"{stem}{end}") for suffix in _SUFFIXES for end in (suffix, suffix.upper())):
            if image.is_file():
                return source, image
        raise InputError(f"no image beside the header {source}; put it there as {stem.name} or {stem.name}.img")
    if header := _header_of(source):
        return header, source
    raise InputError(f"no ENVI header beside {source}; put it there as {source.with_suffix('.hdr').name}")


def _layout(header: _Header) -> tuple[np.dtype, int, tuple[str, ...]]:
    """Type of a cell in the file's byte order, bytes before the first, order of the axes."""
    path, code = header.path, header.whole("data type")
    if code in (6, 9):
        raise InputError(
            f"{path} describes complex numbers (data type {code}), which a volume cannot hold; export amplitude or "
            "phase as real numbers"
        )
    if code not in _TYPES:
        raise InputError(f"{path} has the data type {code}; this program reads {sorted(_TYPES)}")
    if header["file compression"] != "0":
        raise InputError(f"{path} describes a compressed image, which cannot be read in parts; save it uncompressed")
    if any(float(part) for part in re.findall(r"[\d.]+", header.get("major frame offsets", ""))):
        raise InputError(f"{path} has major frame offsets, which this program does not read; save the image without")
    interleave = header.text("interleave").lower()
    if interleave not in _AXES:
        raise InputError(f"{path} has the interleave {interleave!r}; it must be one of {list(_AXES)}")
    order = header.whole("byte order")
    if order not in (0, 1):
        raise InputError(f"{path} has the byte order {order}; it must be 0 (little-endian) or 1 (big-endian)")
    dtype = np.dtype(_TYPES[code]).newbyteorder(">" if order else "<")
    return dtype, header.whole("header offset"), _AXES[interleave]


def _bands(header: _Header, bands: int) -> dict[str, Any]:
    coords: dict[str, Any] = {"band": ("band", np.arange(1, bands + 1), {})}
    if "band names" in header:
        names = [name.strip() for name in header["band names"].split(",")]
        if len(names) != bands:
            raise InputError(f"{header.path} names {len(names)} bands, but has {bands}; correct its band names")
        coords["band"][2]["names"] = names
    if "wavelength" in header:
        unit = header.get("wavelength units", "")
        short = {"nanometers": "nm", "micrometers": "um", "microns": "um", "wavenumber": "1/cm"}.get(unit.lower(), unit)
        attrs = {} if short.lower() in ("", "unknown") else {"units": short}
        coords["wavelength"] = ("band", header.numbers("wavelength", bands), attrs)
    return coords


def _named_crs(parts: list[str]) -> str:
    projection, rest = parts[0].lower(), [part.lower() for part in parts[7:]]
    if projection == "utm" and len(rest) >= 3 and rest[0].isdigit() and rest[2] in _WGS84:
        return f"EPSG:{(32700 if rest[1] == 'south' else 32600) + int(rest[0])}"
    return "EPSG:4326" if projection == "geographic lat/lon" and rest and rest[0] in _WGS84 else ""
