"""GeoTIFFs, one or several on the same grid or brought to that of the first, whose bands become channels."""

from pathlib import Path

import numpy as np
import rasterio
import rioxarray
import xarray as xr

from datasets.config import ConvertConfig
from datasets.errors import InputError
from datasets.readers.resample import onto_grid

_TILE = 1024


def read(config: ConvertConfig) -> xr.Dataset:
    """Read (band, y, x) with the no-data mask and coordinate system of the files. See `datasets.readers`.

    Raises
    ------
    InputError
        Where a file is missing or cannot be read, or lies on another grid than the first and `resample` is not set.
    """
    paths = [Path(config.source), *map(Path, config.more_sources)]
    layers: list[xr.DataArray] = [_open(path) for path in paths]
    notes: list[str] = []
    valid = [_valid(layer) for layer in layers]
    first = layers[0]
    dtype = np.result_type(np.float32, *(layer.dtype for layer in layers)) if config.resample else first.dtype
    for index, (path, layer) in enumerate(zip(paths, layers, strict=True)):
        difference = _difference(layer, first, types=not config.resample)
        if difference is None:
            layers[index] = layer.astype(dtype)
        elif config.resample:
            layers[index], words = onto_grid(path, first, paths[0], config.resample, dtype)
            valid[index] = layers[index].notnull()
            layers[index].attrs = layer.attrs
            notes.append(words)
        else:
            what, here, there = (str(value).replace("\n", " ") for value in difference)
            raise InputError(
                f"{path} has the {what} {here}, but {paths[0]} has {there}; set resample to nearest, bilinear or "
                "average to bring it to the grid of the first"
            )
    names = [name for path, layer in zip(paths, layers, strict=True) for name in _band_names(path, layer)]
    ds = xr.Dataset({"data": xr.concat(layers, "band"), "valid": xr.concat(valid, "band")})
    ds["data"].attrs = {}
    ds["valid"].attrs = {}
    band = xr.Variable("band", np.arange(1, len(names) + 1), {"names": names})
    resampling = {"resampling": "; ".join(notes)} if notes else {}
    return ds.assign_coords(band=band).assign_attrs(files=[str(path) for path in paths], **resampling)


def _difference(layer: xr.DataArray, first: xr.DataArray, *, types: bool = True) -> tuple[str, object, object] | None:
    """Find what two files do not share of size, grid, coordinate system and type, and how each has it."""
    pairs = (
        ("size", layer.shape[1:], first.shape[1:]),
        ("grid", layer.rio.transform(), first.rio.transform()),
        ("coordinate system", layer.rio.crs, first.rio.crs),
        *((("data type", layer.dtype, first.dtype),) if types else ()),
    )
    return next((pair for pair in pairs if pair[1] != pair[2]), None)


def _open(path: Path) -> xr.DataArray:
    if not path.is_file():
        raise InputError(f"no file at {path}; check more_sources")
    try:
        opened = rioxarray.open_rasterio(path, chunks={"y": _TILE, "x": _TILE})
    except rasterio.errors.RasterioIOError as error:
        raise InputError(f"{path} is not a GeoTIFF that can be read ({error}); check the file") from error
    if not isinstance(opened, xr.DataArray):
        raise InputError(f"{path} holds bands of several sizes; split it into one file a size")
    return opened


def _valid(layer: xr.DataArray) -> xr.DataArray:
    nodata = layer.rio.nodata
    return xr.full_like(layer, True, bool) if nodata is None else layer != layer.dtype.type(nodata)


def _band_names(path: Path, layer: xr.DataArray) -> list[str]:
    described = layer.attrs.get("long_name", ())
    if isinstance(described, tuple) and len(described) == layer.sizes["band"]:
        return [str(name) for name in described]
    if layer.sizes["band"] == 1:
        return [path.stem]
    return [f"{path.stem} {band}" for band in layer["band"].values]
