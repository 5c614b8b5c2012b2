"""NumPy files: .npy with its dimensions in a recipe or in a YAML sidecar, and .npz."""

import zipfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from datasets.config_convert import ConvertConfig, changed, from_its_folder, read_settings
from datasets.errors import InputError
from datasets.readers.arrays import pick_key, read_array
from datasets.readers.lazy import LazyArray
from datasets.readers.plain import plain_array

_NOT_IN_SIDECAR = {"source", "more_sources", "out", "format", "overwrite"}


def read(config: ConvertConfig) -> xr.Dataset:
    """Read one array; an .npy stays on disk until its parts are asked for. See `datasets.readers`."""
    return read_array(config, load)


def load(path: Path, key: str, option: str) -> np.ndarray | LazyArray:
    """Load the array `key` of an .npz file, or open an .npy lazily; parameters and errors as `matlab.load`."""
    try:
        if path.suffix == ".npy":
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
            # So its header is understood and its length checked.
            return plain_array(path, mapped.dtype, mapped.shape, offset=mapped.offset, strides=mapped.strides)
        with np.load(path, allow_pickle=False) as archive:
            shapes = {name: _shape(archive, name) for name in archive.files}
            return archive[pick_key(path, key, shapes, option)]
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a NumPy file that can be read ({error}); check the file") from error


def with_sidecar(config: ConvertConfig) -> ConvertConfig:
    """Fill what the recipe leaves at its default from ``NAME.yaml`` beside ``NAME.npy``; paths there start beside it."""
    sidecar = Path(config.source).with_suffix(".yaml")
    if not sidecar.is_file():
        return config
    settings = read_settings(sidecar)
    allowed = sorted({setting.name for setting in fields(config)} - _NOT_IN_SIDECAR)
    if not isinstance(settings, dict) or not set(settings) <= set(allowed):
        unknown = sorted(set(settings) - set(allowed)) if isinstance(settings, dict) else settings
        raise InputError(f"{sidecar} holds {unknown}, which is no setting of a source; the settings are {allowed}")
    return replace(config, **{**from_its_folder(sidecar, settings), **changed(config, _NOT_IN_SIDECAR)})


def _shape(archive: Any, name: str) -> tuple[int, ...]:
    """Shape of a member of an .npz from its header alone."""
    with archive.zip.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return header(file)[0]
