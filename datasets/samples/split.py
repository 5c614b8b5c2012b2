"""Training, validation and test by space: a map of parts, with a buffer between any two.

Labels of neighbouring cells are nearly copies of each other, so a random draw of cells leaks the answers into the
test. Here whole blocks of the map, or whole wells, go to one part, by the rules of `datasets.samples.parts`.

K classes, W wells, M cells along the dimensions of the map.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from datasets.config import SplitConfig
from datasets.dims import NOT_HORIZONTAL
from datasets.errors import InputError
from datasets.labels import UNLABELLED
from datasets.samples.parts import PART_NAMES, TEST, TRAIN, VALIDATION, split_blocks, split_points, split_wells
from datasets.volume import Volume


def make_split(volume: Volume, config: SplitConfig) -> xr.DataArray:
    """Divide the labelled cells of a volume's map into `TRAIN`, `VALIDATION` and `TEST`; all others are `UNUSED`.

    Where the labels also vary with depth or time, a cell of the map stands for its column. The codes, uint8, have the
    volume's coordinates and the attributes ``names``, ``method``, ``seed`` and ``buffer``.

    `InputError` if there are no labels or wells, a dimension or a well is not the volume's, a class has no training
    label, or a part that should get labels gets none.
    """
    dims = _map_dims(volume, config)
    if config.method == "blocks" and config.fractions[0] == 0:
        raise InputError(
            f"split.fractions {config.fractions} gives nothing to training; take such as [0.5, 0.15, 0.35]"
        )
    counts_KM = _count_classes(volume, "labels", dims)
    for name, class_M in zip(volume.classes, counts_KM, strict=True):
        if not class_M.any():
            raise InputError(f"class {name!r} has no label in the volume; convert its source again without that class")
    if config.method == "blocks":
        parts_M = split_blocks(counts_KM, config)
    elif config.method == "points":
        parts_M = split_points(counts_KM, config)
    else:
        truth_KM = _count_classes(volume, "truth", dims) if "truth" in volume.dataset else counts_KM
        parts_M = split_wells(counts_KM, truth_KM.max(0) > 0, _well_positions(volume, config, dims), config)
    _check(parts_M, counts_KM, volume.classes, config)
    coords = {name: coord for name, coord in volume.dataset.coords.items() if set(coord.dims) <= set(dims)}
    attrs = {"names": PART_NAMES, "method": config.method, "seed": config.seed, "buffer": config.buffer}
    return xr.DataArray(parts_M, coords, dims, name="split", attrs=attrs)


def label_counts(volume: Volume, split: xr.DataArray) -> dict[str, np.ndarray]:
    """Count the labelled cells of each class in each part, int64 [K]; ``test`` counts ``truth`` where there is any."""
    dims = list(map(str, split.dims))
    counts_KM = _count_classes(volume, "labels", dims)
    truth_KM = _count_classes(volume, "truth", dims) if "truth" in volume.dataset else counts_KM
    return {
        PART_NAMES[code]: known_KM[:, split.values == code].sum(1, dtype=np.int64)
        for code, known_KM in ((TRAIN, counts_KM), (VALIDATION, counts_KM), (TEST, truth_KM))
    }


def _map_dims(volume: Volume, config: SplitConfig) -> list[str]:
    if not volume.label_dims:
        raise InputError("the volume has no labels to split; convert its source again with labels")
    labels = list(volume.label_dims)
    if unknown := [dim for dim in config.dims if dim not in labels or config.dims.count(dim) > 1]:
        raise InputError(f"split.dims names {unknown}, but the labels have the dimensions {labels}; take each once")
    dims = config.dims or [dim for dim in labels if dim not in NOT_HORIZONTAL]
    if not dims:
        raise InputError(f"the labels vary along {labels} only, which is no map; name what to divide as split.dims")
    return dims


def _count_classes(volume: Volume, name: str, dims: Sequence[str]) -> np.ndarray:
    """Labelled cells of each class in each column over `dims`: int32 [K, *M], read chunk by chunk."""
    labels = volume.dataset[name].variable
    others = [dim for dim in labels.dims if dim not in dims]
    classes = len(volume.classes)
    found = [*(labels == index for index in range(classes)), (labels >= classes) & (labels < UNLABELLED)]
    counts = [cells.sum(others, dtype=np.int32) for cells in found]
    counts_KM = xr.Variable.concat(counts, "class").transpose("class", *dims).values
    if counts_KM[classes].any():
        raise InputError(f"the volume's {name} go beyond its {classes} class names; name all classes")
    return counts_KM[:classes]


def _well_positions(volume: Volume, config: SplitConfig, dims: list[str]) -> np.ndarray:
    sizes = [volume.dataset["labels"].sizes[dim] for dim in dims]
    wells = config.wells
    if not wells and "wells" in volume.dataset:
        stored = volume.dataset["wells"]
        order = list(stored.attrs["dims"])
        if missing := [dim for dim in dims if dim not in order]:
            raise InputError(f"the volume's wells have no position along {missing}; name split.wells along {dims}")
        wells = stored.values[:, [order.index(dim) for dim in dims]].tolist()
    if not wells:
        raise InputError("the volume brings no wells; name their positions as split.wells, or take split.method blocks")
    for well in wells:
        if len(well) != len(dims) or any(not 0 <= cell < size for cell, size in zip(well, sizes, strict=True)):
            raise InputError(f"split.wells has a well at {list(well)}, outside the map of {sizes} cells along {dims}")
    if not 0 <= config.validation_wells < len(wells):
        raise InputError(
            f"split.validation_wells is {config.validation_wells} of {len(wells)} wells; leave at least one to training"
        )
    return np.asarray(wells, dtype=np.int64)


def _check(parts_M: np.ndarray, counts_KM: np.ndarray, classes: Sequence[str], config: SplitConfig) -> None:
    wanted = [TRAIN, TEST]
    if config.method == "blocks":
        wanted = [code for code, share in zip((TRAIN, VALIDATION, TEST), config.fractions, strict=True) if share > 0]
        way_out = f"a smaller split.block than {config.block} or other split.fractions"
    elif config.method == "points":
        wanted += [VALIDATION] * (config.validation_points > 0)
        way_out = f"or fewer split.points than {config.points}"
    else:
        wanted += [VALIDATION] * (config.validation_wells > 0)
        way_out = f"more wells or a larger split.radius than {config.radius}"
    way_out = f"another split.seed than {config.seed}, {way_out}"
    for name, class_M in zip(classes, counts_KM, strict=True):
        if not class_M[parts_M == TRAIN].any():
            raise InputError(f"class {name!r} has no training labels; try {way_out}")
    for code in wanted:
        if not (parts_M == code).any():
            raise InputError(
                f"{PART_NAMES[code]} has no labels left beside a buffer of {config.buffer} cells; try {way_out}, "
                "or a smaller split.buffer"
            )
