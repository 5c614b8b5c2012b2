"""GeoTIFFs, whose bands become channels."""

from pathlib import Path

import numpy as np
import rasterio
import rioxarray
import xarray as xr
from rasterio.enums import MaskFlags

from datasets.config import ConvertConfig
from datasets.errors import InputError
from datasets.readers.arrays import reading


def read(config: ConvertConfig) -> xr.Dataset:
    """Read (band, y, x) lazily, with names of the bands and the coordinate system."""
    path = Path(config.source)
    with reading(path, "GeoTIFF", rasterio.errors.RasterioIOError):
        layer = rioxarray.open_rasterio(path, cache=False)
    if not isinstance(layer, xr.DataArray):
        raise InputError(f"{path} holds bands of several sizes; split it into one file a size")
    bands, names = layer.sizes["band"], layer.attrs.get("long_name", ())
    if not isinstance(names, tuple) or len(names) != bands:
        names = [path.stem] if bands == 1 else [f"{path.stem} {band}" for band in layer["band"].values]
    nodata = [] if layer.rio.nodata is None else [float(layer.rio.nodata)]
    ds = xr.Dataset({"data": layer})
    ds["data"].attrs = {}
    with rasterio.open(path) as file:
        if any(MaskFlags.per_dataset in flags for flags in file.mask_flag_enums):
            ds["valid"] = (("y", "x"), file.dataset_mask() > 0)
    band = xr.Variable("band", np.arange(1, bands + 1), {"names": list(map(str, names))})
    return ds.assign_coords(band=band).assign_attrs(files=[str(path)], nodata=nodata)
