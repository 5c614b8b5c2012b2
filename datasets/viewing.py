"""A volume small enough to look at as a whole: itself, the finest of its overviews that is, or means made now."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from datasets.config import DataConfig
from datasets.dims import entry_dims
from datasets.storage.overviews import GROUP
from datasets.store import open_part
from datasets.volume import Volume

_CELLS = 2**25  # that are not too many to hold
_DRAWN = 2**22  # that are not too many to draw: a picture of one plane takes some 120 bytes for each


def viewable(uri: str | Path, dataset: xr.Dataset) -> xr.Dataset:
    """Coarsen the opened volume at `uri` for a picture; a small one stays as it is.

    What comes has ``data`` and, where there are such, ``labels`` of the first cell of each cube.
    """
    if dataset["data"].size <= _CELLS:
        return dataset
    listed = open_part(uri, GROUP)
    for entry in [] if listed is None else listed.attrs["levels"]:
        level = open_part(uri, f"{GROUP}/{entry['path']}")
        if level is not None and level["data"].size <= _CELLS:
            return _with_labels(level, dataset)
    return _with_labels(_coarsened(dataset), dataset)


def read_for_viewing(uri: str | Path, volume: Volume) -> np.ndarray:
    """Read a volume, a large one coarsened: float32 [C, *n], NaN for no data."""
    seen = viewable(uri, volume.dataset.drop_vars(["labels", "truth"], errors="ignore"))
    return Volume.of(seen, DataConfig(source=str(uri), space=list(volume.space))).read()


def thinning(sizes: Sequence[int]) -> tuple[slice, ...]:
    """Choose cells of a grid, evenly along all axes, not too many to draw."""
    step = 1
    while math.prod(-(-size // step) for size in sizes) > _DRAWN:
        step += 1
    return (slice(None, None, step),) * len(sizes)


def _coarsened(dataset: xr.Dataset) -> xr.Dataset:
    data = dataset["data"].where(dataset["valid"]) if "valid" in dataset else dataset["data"]
    keep, sizes = entry_dims(data.sizes), dict(data.sizes)
    steps = {dim: 1 for dim in data.dims if dim not in keep}
    while steps and math.prod(sizes.values()) > _CELLS and max(sizes[dim] for dim in steps) > 1:
        longest = max(steps, key=lambda dim: sizes[dim])
        steps[longest] *= 2
        sizes[longest] = -(-data.sizes[longest] // steps[longest])
    return data.coarsen(steps, boundary="pad").mean().astype("float32").to_dataset(name="data")


def _with_labels(level: xr.Dataset, dataset: xr.Dataset) -> xr.Dataset:
    """Add the labels at the first cell of every cube; means of classes would be nonsense."""
    level = level.load()
    if "labels" not in dataset:
        return level
    labels = dataset["labels"].variable
    steps = dict.fromkeys(labels.dims, 1)
    for dim, size in labels.sizes.items():
        while -(-size // steps[dim]) > level.sizes[dim]:
            steps[dim] *= 2
    return level.assign(labels=labels[tuple(slice(None, None, step) for step in steps.values())])
