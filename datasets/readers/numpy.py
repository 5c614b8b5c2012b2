"""NumPy files: .npy with its dimensions in a recipe or in a YAML sidecar, and .npz."""

import zipfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from datasets.config_convert import ConvertConfig, changed, read_settings
from datasets.errors import InputError
from datasets.lazy_array import LazyArray, plain_array
from datasets.readers.arrays import pick_key, read_array, reading

_NOT_IN_SIDECAR = {"source", "more_sources", "out", "format", "overwrite"}


def read(config: ConvertConfig) -> xr.Dataset:
    """Read one array; an .npy stays on disk until its parts are asked for."""
    return read_array(config, load)


def load(path: Path, key: str, option: str) -> np.ndarray | LazyArray:
    """Load the array `key` of an .npz file, or open an .npy lazily; parameters and errors as `matlab.load`."""
    with reading(path, "NumPy file", ValueError, EOFError, zipfile.BadZipFile):
        if path.suffix.lower() == ".npy":
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
            # So its header is understood and its length checked.
            return plain_array(path, mapped.dtype, mapped.shape, offset=mapped.offset, strides=mapped.strides)
        with np.load(path, allow_pickle=False) as archive:
            shapes = {name: _shape(archive, name) for name in archive.files}
            return archive[pick_key(path, key, shapes, option)]


def with_sidecar(config: ConvertConfig) -> ConvertConfig:
    """Fill settings that the recipe leaves at their defaults from ``NAME.yaml`` beside ``NAME.npy``."""
    sidecar = Path(config.source).with_suffix(".yaml")
    if not sidecar.is_file():
        return config
    settings = read_settings(sidecar)
    allowed = sorted({setting.name for setting in fields(config)} - _NOT_IN_SIDECAR)
    unknown = sorted(set(settings) - set(allowed)) if isinstance(settings, dict) else settings
    if unknown or not isinstance(settings, dict):
        raise InputError(f"{sidecar} holds {unknown}, which is no setting of a source; the settings are {allowed}")
    return replace(config, **{**settings, **changed(config, _NOT_IN_SIDECAR)})


def _shape(archive: Any, name: str) -> tuple[int, ...]:
    with archive.zip.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return header(file)[0]
