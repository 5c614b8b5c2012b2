"""What a network sees of a converted volume: channels over space, labels, and where the two part.

Shapes: C channels (all dimensions that are not space, flattened), N the cells along each dimension of space.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr

from datasets.config import DataConfig
from datasets.dims import NOT_HORIZONTAL
from datasets.errors import InputError
from datasets.labels import UNLABELLED
from datasets.storage.lazy import stored_array
from datasets.storage.traffic import Traffic
from datasets.store import open_volume

_SLAB_BYTES = 2**24  # of labels that are hashed at once
IGNORE = -1
LABEL = np.dtype(np.int16)  # of class indices and `IGNORE`: little memory, for there are as many as cells

Part = Literal["train", "validation", "test"]
PART_CODES = {"train": 1, "validation": 2, "test": 3}


@dataclass(frozen=True)
class Volume:
    """A volume seen as channels over one to three dimensions of space."""

    dataset: xr.Dataset  # the store's content, lazy
    space: tuple[str, ...]  # dimensions that the network convolves over
    channel_dims: tuple[str, ...]  # all other dimensions of the data, by default as stored
    classes: list[str]  # names of the label classes; empty without labels
    label_dims: tuple[str, ...]  # in the order of `space`
    read_slice: dict[int, int]  # axis of `space` that the labels lack -> cell at which the output is read

    @classmethod
    def open(cls, config: DataConfig) -> "Volume":
        """Open the volume of `config.source`; `InputError` where there is none, or the configuration does not fit."""
        if not config.source:
            raise InputError("data.source is empty; name a volume made by `python -m pipeline convert` or `synthesize`")
        return cls.of(open_volume(config.source, missing=config.missing), config)

    @classmethod
    def of(cls, dataset: xr.Dataset, config: DataConfig) -> "Volume":
        """Check an opened dataset against the configuration; see `open`."""
        sizes = {str(dim): size for dim, size in dataset["data"].sizes.items()}
        dims = list(sizes)
        where = config.source or "the volume"
        if not config.space:
            raise InputError(f"data.space is empty; choose one to three of the dimensions {dims} of {where}")
        if unknown := [dim for dim in config.space if dim not in dims]:
            raise InputError(f"data.space names {unknown}, but {where} has the dimensions {dims}")
        if set(dims) <= set(config.keep or []):
            raise InputError(f"data.keep names all of {dims}, which makes every cell 0; leave one out")
        space = tuple(config.space)
        label_dims: tuple[str, ...] = ()
        classes: list[str] = []
        if "labels" in dataset:
            labels = dataset["labels"]
            if extra := [str(dim) for dim in labels.dims if dim not in space]:
                raise InputError(f"the labels of {where} vary along {extra}, which data.space {[*space]} lacks; add it")
            label_dims = tuple(dim for dim in space if dim in labels.dims)
            classes = list(map(str, labels.attrs["class_names"]))
        for dim, edge in zip(space, config.block or [sizes[dim] for dim in space], strict=True):
            if edge != sizes[dim] and label_dims and dim not in label_dims:
                raise InputError(
                    f"data.block gives {edge} cells of {dim}, along which the labels of {where} do not vary; "
                    f"give all {sizes[dim]}"
                )
            if edge != sizes[dim] and dim in (config.keep or []):
                raise InputError(
                    f"data.block gives {edge} cells of {dim}, each of which data.keep normalises by itself; "
                    f"give all {sizes[dim]}, or leave {dim} out of data.keep"
                )
        channel_dims = tuple(dim for dim in dims if dim not in space)
        return cls(dataset, space, channel_dims, classes, label_dims, _read_slice(config, sizes, label_dims))

    @property
    def shape(self) -> tuple[int, ...]:
        """Cells along each dimension of `space`."""
        return tuple(self.dataset["data"].sizes[dim] for dim in self.space)

    @property
    def n_channels(self) -> int:
        """Product of the channel dimensions' sizes."""
        return math.prod(self.dataset["data"].sizes[dim] for dim in self.channel_dims)

    @property
    def horizontal(self) -> tuple[int, ...]:
        """Axes of `space` that lie in the map plane."""
        return tuple(axis for axis, dim in enumerate(self.space) if dim not in NOT_HORIZONTAL)

    def read(self, block: tuple[slice, ...] | None = None) -> np.ndarray:
        """Read a block, cells along each dimension of `space`, or all: float32 [C, *N], NaN for no data."""
        where, order = self._cut(block), (*self.channel_dims, *self.space)
        values = _cells(self.dataset["data"], where, order).astype(np.float32)
        values[~np.isfinite(values)] = np.nan
        if "valid" in self.dataset:
            values[~_cells(self.dataset["valid"], where, order)] = np.nan
        return values.reshape(self.n_channels, *values.shape[len(self.channel_dims) :])

    def meets(self, split: xr.DataArray, part: Part, block: tuple[slice, ...]) -> bool:
        """Tell whether any cell of a block lies in a part of the split; nothing is read for it."""
        return bool((split.isel(self._cut(block), missing_dims="ignore") == PART_CODES[part]).any())

    def _cut(self, block: tuple[slice, ...] | None) -> dict[str, slice]:
        return dict(zip(self.space, block, strict=True)) if block is not None else {}

    def read_labels(
        self,
        split: xr.DataArray | None = None,
        part: Part | None = None,
        block: tuple[slice, ...] | None = None,
        factor: int = 1,
    ) -> np.ndarray:
        """Read labels, int16 [*label dims]: class indices, or `IGNORE`; `InputError` where the volume has none.

        Of the volume or a block as of `read`, and coarser by `factor`, a power of two; see `coarsen_labels`. With part
        codes over some of the labels' dimensions, `split`, only those of the `part` count; ``test`` reads the dense
        ``truth`` where the volume has one.
        """
        if not self.label_dims:
            raise InputError("the volume has no labels; convert its source again with labels")
        where = self._cut(block)
        name = "truth" if part == "test" and "truth" in self.dataset else "labels"
        labels = _cells(self.dataset[name], where, self.label_dims).astype(LABEL)
        labels[labels == UNLABELLED] = IGNORE
        if part is not None:
            if split is None:
                raise ValueError("a part of the labels needs the split")
            codes = split.isel(where, missing_dims="ignore").variable
            inside = (codes == PART_CODES[part]).set_dims(dict(zip(self.label_dims, labels.shape, strict=True)))
            labels[~inside.transpose(*self.label_dims).values] = IGNORE
        return coarsen_labels(labels, factor, len(self.classes)) if factor > 1 else labels

    @property
    def traffic(self) -> Traffic | None:
        """What was read from the store so far; none for a volume in memory."""
        return source.reader.objects.traffic if (source := stored_array(self.dataset["data"])) else None

    def digest(self) -> str:
        """SHA-256 that two volumes share only if source, conversion, shape and labels are the same."""
        data = self.dataset["data"]
        identity = {
            **{name: self.dataset.attrs.get(name) for name in ("source_sha256", "conversion")},
            "dims": list(map(str, data.dims)),
            "shape": data.shape,
            "dtype": str(data.dtype),
            "classes": self.classes,
        }
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
        for name in ("labels", "truth"):
            if name in self.dataset:
                for slab in _slabs(self.dataset[name]):
                    digest.update(np.ascontiguousarray(slab).data)  # as in one piece: the first axis varies slowest
        return digest.hexdigest()


def _slabs(array: xr.DataArray) -> Iterator[np.ndarray]:
    """Read an array along its first axis, some whole chunks at once."""
    dim, size, source = str(array.dims[0]), array.shape[0], stored_array(array)
    edge = source.reader.layout.chunk[0] if source else (array.chunks or [[1]])[0][0]
    step = max(_SLAB_BYTES * size // max(array.nbytes, 1) // edge, 1) * edge
    for start in range(0, size, step):
        yield _cells(array, {dim: slice(start, min(start + step, size))}, list(map(str, array.dims)))


def _cells(array: xr.DataArray, where: Mapping[str, slice], order: Sequence[str]) -> np.ndarray:
    """Read a block with its axes in `order`; straight from the store if the variable is as it was opened."""
    if (source := stored_array(array)) is None:
        return array.isel(where, missing_dims="ignore").transpose(*order).values
    values = source.read(tuple(where.get(str(dim), slice(None)) for dim in array.dims))
    return values.transpose([array.dims.index(dim) for dim in order]).astype(array.dtype, copy=False)


def coarsen_labels(labels: np.ndarray, factor: int, classes: int) -> np.ndarray:
    """Take the most frequent class of each cube of `factor` cells along every axis: [*N] -> int16 [*ceil(N / factor)].

    Of equals the first, `IGNORE` where no cell is labelled; the last cubes may be incomplete.
    """
    padded = np.pad(labels, [(0, -size % factor) for size in labels.shape], constant_values=IGNORE)
    best = np.full([size // factor for size in padded.shape], IGNORE, LABEL)
    cubes = padded.reshape([n for size in best.shape for n in (size, factor)])
    most = np.zeros(best.shape, np.int64)
    for index in range(classes):
        count = (cubes == index).sum(axis=tuple(range(1, cubes.ndim, 2)))
        best[count > most] = index
        most = np.maximum(most, count)
    return best


def _read_slice(config: DataConfig, sizes: Mapping[str, int], label_dims: Sequence[str]) -> dict[int, int]:
    space = config.space
    gone = [dim for dim in space if dim not in label_dims] if label_dims else []
    for dim, cell in config.read_slice.items():
        if label_dims and dim not in gone:
            raise InputError(f"data.read_slice names {dim!r}, but the labels leave out {gone} only")
        if dim not in space or not 0 <= cell < sizes[dim]:
            such = f"0 to {sizes[dim] - 1}" if dim in space else f"of a dimension in {space}"
            raise InputError(f"data.read_slice puts {dim} at {cell}; choose a cell {such}")
    cells = {dim: sizes[dim] // 2 for dim in gone} | config.read_slice
    return {space.index(dim): cell for dim, cell in cells.items()}
