"""Which reader a source has: by its suffix, and for .grd by its first bytes."""

from collections.abc import Callable

import xarray as xr

from datasets.config import ConvertConfig
from datasets.errors import InputError, existing
from datasets.maps.tables import TABLE_SUFFIXES, table_suffix
from datasets.readers import envi, geosoft, geotiff, lines, matlab, netcdf, numpy, segy, surfer, tensorly
from datasets.readers.grids import grid_format

SUFFIXES = {
    ".mat": "matlab", ".npy": "numpy", ".npz": "numpy",
    **dict.fromkeys((*TABLE_SUFFIXES, ".dfn"), "lines"),
    ".sgy": "segy", ".segy": "segy", ".tif": "geotiff", ".tiff": "geotiff",
    ".hdr": "envi", ".img": "envi", ".bsq": "envi", ".bil": "envi", ".bip": "envi",
    ".nc": "netcdf", ".nc4": "netcdf", ".cdf": "netcdf", ".grd": "grid",
}  # fmt: skip
READERS: dict[str, Callable[[ConvertConfig], xr.Dataset]] = {
    "matlab": matlab.read, "numpy": numpy.read, "segy": segy.read, "geotiff": geotiff.read, "tensorly": tensorly.read,
    "envi": envi.read, "geosoft": geosoft.read, "surfer": surfer.read, "netcdf": netcdf.read, "lines": lines.read,
}  # fmt: skip


def source_kind(source: str, wanted: str, option: str) -> str:
    """Tell the format of a file or ``tensorly:NAME``: the `wanted` one, or if ``auto`` what suffix and first bytes say.

    `InputError` where there is no such file, which the setting `option` names, or its format is not known.
    """
    if wanted == "tensorly" or source.startswith("tensorly:"):
        return "tensorly"
    suffix = table_suffix(source)
    if wanted == "auto" and suffix not in SUFFIXES:
        raise InputError(f"{source} has the suffix {suffix!r}; set format, or use one of {sorted(SUFFIXES)}")
    path = existing(source, option)
    if wanted != "auto":
        return wanted
    return grid_format(path) if SUFFIXES[suffix] == "grid" else SUFFIXES[suffix]
