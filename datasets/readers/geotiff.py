"""GeoTIFFs, whose bands become channels."""

from functools import partial
from pathlib import Path

import numpy as np
import rasterio
import rioxarray
import xarray as xr
from rasterio.enums import MaskFlags

from datasets.config import ConvertConfig
from datasets.errors import InputError
from datasets.lazy_array import Cut, LazyArray
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
        masked = any(flags == [MaskFlags.per_dataset] for flags in file.mask_flag_enums)
    if masked:
        ds["valid"] = LazyArray(layer.shape[1:], np.dtype(bool), partial(_mask, path)).variable(["y", "x"])
    band = xr.Variable("band", np.arange(1, bands + 1), {"names": list(map(str, names))})
    return ds.assign_coords(band=band).assign_attrs(files=[str(path)], nodata=nodata)


def _mask(path: Path, cut: Cut) -> np.ndarray:
    with rasterio.open(path) as file:
        rows, columns = (range(size)[part] for part, size in zip(cut, file.shape, strict=True))
        window = (rows.start, rows.stop), (columns.start, columns.stop)
        return file.dataset_mask(window=window)[:: rows.step, :: columns.step] > 0
