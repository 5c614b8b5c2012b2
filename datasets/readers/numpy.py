"""NumPy files: .npy with its dimensions in a recipe or in a YAML sidecar, and .npz."""

import zipfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import yaml

from datasets.config import ConvertConfig
from datasets.errors import InputError
from datasets.readers.arrays import name_dims, pick_key, source_dims
from datasets.readers.lazy import LazyArray
from datasets.readers.plain import plain_array

_NOT_IN_SIDECAR = {"source", "more_sources", "out", "format", "overwrite"}
_PATHS = ("labels", "valid", "extent")


def read(config: ConvertConfig) -> xr.Dataset:
    """Read one array; an .npy stays on disk until its parts are asked for. See `datasets.readers`."""
    path = Path(config.source)
    data = name_dims(load(path, config.key, "key"), source_dims(config), config.shape, config.order, str(path))
    return xr.Dataset({"data": data}, attrs={"files": [str(path)]})


def load(path: Path, key: str, option: str) -> np.ndarray | LazyArray:
    """Load the array `key` of an .npz file, or open an .npy lazily; parameters and errors as `matlab.load`."""
    try:
        if path.suffix == ".npy":
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
            # Opened so to have its header understood and its length checked.
            return plain_array(path, mapped.dtype, mapped.shape, offset=mapped.offset, strides=mapped.strides)
        with np.load(path, allow_pickle=False) as archive:
            shapes = {name: _shape(archive, name) for name in archive.files}
            return archive[pick_key(path, key, shapes, option)]
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a NumPy file that can be read ({error}); check the file") from error


def with_sidecar(config: ConvertConfig) -> ConvertConfig:
    """Fill the settings that the recipe leaves at their defaults from ``NAME.yaml`` beside ``NAME.npy``.

    Paths in a sidecar start at its own folder.

    Raises
    ------
    InputError
        Where the sidecar is not a mapping of settings.
    """
    sidecar = Path(config.source).with_suffix(".yaml")
    if not sidecar.is_file():
        return config
    try:
        settings = yaml.safe_load(sidecar.read_text())
    except yaml.YAMLError as error:
        raise InputError(f"{sidecar} is not YAML: {error}") from error
    plain = ConvertConfig()
    defaults = {f.name: getattr(plain, f.name) for f in fields(plain)}
    allowed = sorted(set(defaults) - _NOT_IN_SIDECAR)
    if not isinstance(settings, dict) or not set(settings) <= set(allowed):
        unknown = sorted(set(settings) - set(allowed)) if isinstance(settings, dict) else settings
        raise InputError(f"{sidecar} holds {unknown}, which is no setting of a source; the settings are {allowed}")
    changes: dict[str, Any] = {}
    for name, value in settings.items():
        if getattr(config, name) != defaults[name]:
            continue
        if name in _PATHS:
            value = str(sidecar.parent / value)
        elif name == "horizons":
            value = [str(sidecar.parent / where) for where in value]
        elif name == "coordinates":
            value = {dim: _beside(sidecar, where) for dim, where in value.items()}
        changes[name] = value
    return replace(config, **changes)


def _beside(sidecar: Path, where: Any) -> Any:
    named = isinstance(where, str) and where.endswith((".json", ".npy"))
    return str(sidecar.parent / where) if named else where


def _shape(archive: Any, name: str) -> tuple[int, ...]:
    """Shape of a member of an .npz from its header alone."""
    with archive.zip.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return header(file)[0]
