"""A volume small enough to look at as a whole: itself, the finest of its overviews that is, or means made now."""

from collections.abc import Hashable, Mapping
from pathlib import Path

import xarray as xr

from datasets.dims import entry_dims
from datasets.overviews import GROUP
from datasets.store import open_part

_CELLS = 2**25


def viewable(uri: str | Path, dataset: xr.Dataset, *, cells: int = _CELLS) -> xr.Dataset:
    """Coarsen a volume for a picture.

    Parameters
    ----------
    uri
        Where the volume is, with its overviews.
    dataset
        The opened volume.
    cells
        How many cells are not too many.

    Returns
    -------
    xarray.Dataset
        ``data`` and, where the volume has labels, ``labels`` of the first cell of each cube; the volume itself where it
        is small.
    """
    if dataset["data"].size <= cells:
        return dataset
    listed = open_part(uri, GROUP)
    for entry in [] if listed is None else listed.attrs["levels"]:
        level = open_part(uri, f"{GROUP}/{entry['path']}")
        if level is not None and level["data"].size <= cells:
            return _with_labels(level, dataset)
    return _with_labels(_coarsened(dataset, cells), dataset)


def _coarsened(dataset: xr.Dataset, cells: int) -> xr.Dataset:
    """Average the data over cubes; reads all of them, piece by piece."""
    data = dataset["data"]
    if "valid" in dataset:
        data = data.where(dataset["valid"])
    keep = entry_dims(data.sizes)
    steps = {dim: 1 for dim in data.dims if str(dim) not in keep}
    sizes = dict(data.sizes)
    while steps and _product(sizes) > cells and max(sizes[dim] for dim in steps) > 1:
        longest = max(steps, key=lambda dim: sizes[dim])
        steps[longest] *= 2
        sizes[longest] = -(-data.sizes[longest] // steps[longest])
    return data.coarsen(steps, boundary="pad").mean().astype("float32").to_dataset(name="data")


def _step(size: int, coarse: int) -> int:
    """Find the power of two that brings so many cells to so few."""
    step = 1
    while -(-size // step) > coarse:
        step *= 2
    return step


def _product(sizes: Mapping[Hashable, int]) -> int:
    cells = 1
    for size in sizes.values():
        cells *= size
    return cells


def _with_labels(level: xr.Dataset, dataset: xr.Dataset) -> xr.Dataset:
    """Add the labels at the first cell of every cube; means of classes would be nonsense."""
    level = level.load()
    if "labels" not in dataset:
        return level
    labels = dataset["labels"].reset_coords(drop=True).drop_vars(list(dataset["labels"].coords), errors="ignore")
    steps = {dim: _step(labels.sizes[dim], level.sizes[dim]) for dim in labels.dims}
    return level.assign(labels=labels.isel({dim: slice(None, None, step) for dim, step in steps.items()}))
