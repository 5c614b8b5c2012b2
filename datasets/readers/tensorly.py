"""Scenes that the TensorLy package ships as arrays: no download."""

from importlib.resources import as_file, files

import numpy as np
import xarray as xr

from datasets.config import ConvertConfig
from datasets.errors import InputError


def read(config: ConvertConfig) -> xr.Dataset:
    """Read Indian Pines: (y, x, band) uint16 with wavelengths, and labels 0 to 16."""
    scene = config.source.removeprefix("tensorly:")
    if scene != "indian_pines":
        raise InputError(f"no scene {scene!r} in TensorLy; the scenes are ['indian_pines']")
    from tensorly.datasets import load_indian_pines  # here, because importing it takes a second

    described = load_indian_pines()
    shipped = files("tensorly.datasets") / "data"
    with as_file(shipped / "Indian_pines_corrected.npy") as cube, as_file(shipped / "Indian_pines_gt.npy") as labels:
        # The package's own loader makes floats of the integers in its files.
        data, classes, used = np.load(cube), np.load(labels), [str(cube), str(labels)]
    return xr.Dataset(
        {"data": (("y", "x", "band"), data), "labels": (("y", "x"), classes)},
        {
            "band": np.arange(1, data.shape[-1] + 1),
            "wavelength": ("band", np.asarray(described["ticks"][1]), {"units": "nm"}),
        },
        {"files": used, "title": "Indian Pines", "licence": f"{described['LICENCE']}; {described['reference']}"},
    )
