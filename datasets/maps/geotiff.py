"""Write a class map as a GeoTIFF that a GIS shows at once: coordinate system, no data, colours, class names."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import rasterio
import rioxarray  # noqa: F401  registers the .rio accessor
import xarray as xr

from datasets.errors import InputError
from datasets.labels import UNLABELLED


def write_class_map(
    classes: xr.DataArray, path: Path, *, names: Sequence[str], colours: Iterable[Iterable[int]]
) -> None:
    """Write a map of classes, uint8 over (y, x), 255 for none, which Dask may read piece by piece.

    It has evenly spaced coordinates of the cells' centres, else an `InputError`, as a GeoTIFF has no others, and
    ``spatial_ref`` where there is a CRS. Colours are red, green and blue, 0 to 255.
    """
    plain = classes.drop_vars([name for name in classes.coords if name not in ("y", "x", "spatial_ref")])
    for dim in ("y", "x"):
        steps = np.diff(plain.coords.get(dim, []))
        if steps.size > 1 and abs(steps - steps.mean()).max() > 0.01 * abs(steps.mean()):
            raise InputError(
                f"the {dim} coordinates are not evenly spaced, so {path.name} cannot be a GeoTIFF; "
                "resample the source to a regular grid"
            )
    plain.attrs = {}
    plain = plain.rio.set_spatial_dims("x", "y").rio.write_nodata(UNLABELLED)
    how = {"driver": "GTiff", "compress": "deflate", "tiled": True, "windowed": plain.chunks is not None}
    plain.rio.to_raster(path, **how, tags={"classes": ", ".join(names)})
    table = {index: (*map(int, rgb), 255) for index, rgb in enumerate(colours)} | {UNLABELLED: (0, 0, 0, 0)}
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, table)
        file.update_tags(1, **{f"class_{index}": name for index, name in enumerate(names)})
