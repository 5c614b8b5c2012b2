"""Write a class map as a GeoTIFF that a GIS shows at once: coordinate system, no data, colours, class names."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import rasterio
import rioxarray  # noqa: F401  registers the .rio accessor
import xarray as xr

from datasets.errors import InputError


def write_class_map(
    classes: xr.DataArray,
    path: str | Path,
    *,
    names: Sequence[str],
    colours: Iterable[Iterable[int]],
    nodata: int = 255,
) -> Path:
    """Write a map of classes.

    Parameters
    ----------
    classes
        uint8 over (y, x), which Dask may read piece by piece, with evenly spaced coordinates, as cell centres, and
        ``spatial_ref`` where there is a CRS.
    path
        GeoTIFF to write.
    names
        Name of each class; they go into the band's category names and metadata.
    colours
        Red, green and blue of each class, 0 to 255.
    nodata
        Value of cells without a class.

    Returns
    -------
    pathlib.Path
        `path`.

    Raises
    ------
    InputError
        Where the coordinates are not evenly spaced, which a GeoTIFF cannot express.
    """
    path = Path(path)
    plain = classes.drop_vars([name for name in classes.coords if name not in ("y", "x", "spatial_ref")])
    for dim in ("y", "x"):
        if dim in plain.coords and plain.sizes[dim] > 2:
            steps = plain[dim].diff(dim).values
            if abs(steps - steps.mean()).max() > 0.01 * abs(steps.mean()):
                raise InputError(
                    f"the {dim} coordinates are not evenly spaced, so {path.name} cannot be a GeoTIFF; "
                    "resample the source to a regular grid"
                )
    plain.attrs = {}
    plain = plain.rio.set_spatial_dims("x", "y").rio.write_nodata(nodata)
    tags = {"classes": ", ".join(names)}
    plain.rio.to_raster(
        path, driver="GTiff", compress="deflate", tiled=True, windowed=plain.chunks is not None, tags=tags
    )
    table = {index: (*map(int, rgb), 255) for index, rgb in enumerate(colours)} | {nodata: (0, 0, 0, 0)}
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, table)
        file.update_tags(1, **{f"class_{index}": name for index, name in enumerate(names)})
    return path
