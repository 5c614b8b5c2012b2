"""GeoTIFFs, whose bands become channels."""

from pathlib import Path

import numpy as np
import rasterio
import rioxarray
import xarray as xr

from datasets.config import ConvertConfig
from datasets.errors import InputError
from datasets.readers.arrays import reading


def read(config: ConvertConfig) -> xr.Dataset:
    """Read (band, y, x) lazily, with names of the bands and the coordinate system; see `datasets.readers`."""
    path = Path(config.source)
    with reading(path, "GeoTIFF", rasterio.errors.RasterioIOError):
        layer = rioxarray.open_rasterio(path, cache=False)
    if not isinstance(layer, xr.DataArray):
        raise InputError(f"{path} holds bands of several sizes; split it into one file a size")
    names, nodata = _band_names(path, layer), layer.rio.nodata
    ds = xr.Dataset({"data": layer})
    ds["data"].attrs = {}
    band = xr.Variable("band", np.arange(1, len(names) + 1), {"names": names})
    missing = [] if nodata is None else [float(nodata)]
    return ds.assign_coords(band=band).assign_attrs(files=[str(path)], nodata=missing)


def _band_names(path: Path, layer: xr.DataArray) -> list[str]:
    described = layer.attrs.get("long_name", ())
    if isinstance(described, tuple) and len(described) == layer.sizes["band"]:
        return [str(name) for name in described]
    if layer.sizes["band"] == 1:
        return [path.stem]
    return [f"{path.stem} {band}" for band in layer["band"].values]
