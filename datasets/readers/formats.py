"""Which reader a source has: by its suffix, for .grd by its first bytes, for .dat by its neighbours."""

from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name

import xarray as xr

from datasets.config import ConvertConfig
from datasets.errors import InputError, existing
from datasets.maps.tables import TABLE_SUFFIXES, table_suffix
from datasets.readers import envi, geosoft, geotiff, lines, matlab, netcdf, numpy, segy, surfer
from datasets.readers.grids import grid_format

SUFFIXES = {
    ".mat": "matlab", ".npy": "numpy", ".npz": "numpy",
    **dict.fromkeys((*TABLE_SUFFIXES, ".dfn"), "lines"),
    ".sgy": "segy", ".segy": "segy", ".tif": "geotiff", ".tiff": "geotiff",
    ".hdr": "envi", ".img": "envi", ".bsq": "envi", ".bil": "envi", ".bip": "envi",
    ".nc": "netcdf", ".nc4": "netcdf", ".cdf": "netcdf", ".grd": "grid",
}  # fmt: skip


def _shipped(config: ConvertConfig) -> xr.Dataset:
    try:
        return resolve_name("datasets.readers.tensorly:read")(config)
    except ModuleNotFoundError as error:
        raise InputError(f"{config.source} needs {error.name}, which is not here; convert it elsewhere") from error


READERS: dict[str, Callable[[ConvertConfig], xr.Dataset]] = {
    "matlab": matlab.read, "numpy": numpy.read, "segy": segy.read, "geotiff": geotiff.read, "tensorly": _shipped,
    "envi": envi.read, "geosoft": geosoft.read, "surfer": surfer.read, "netcdf": netcdf.read, "lines": lines.read,
}  # fmt: skip


def file_kind(path: Path) -> str:
    """Tell the format of a file by its suffix, empty if unknown; a .dat with an ENVI header is no table."""
    return "envi" if envi.is_image(path) else SUFFIXES.get(path.suffix.lower(), "")


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
    kind = file_kind(path) or SUFFIXES[suffix]  # of lines.csv.xz
    return grid_format(path) if kind == "grid" else kind
