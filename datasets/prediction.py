"""The store of a prediction: class and probability on the grid of the volume it was made from. K classes."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr

from datasets.errors import InputError
from datasets.storage.journal import Journal
from datasets.storage.layout import SHARD_BYTES, encoding_of, plan_chunks
from datasets.storage.objects import Objects, is_remote
from datasets.storage.upload import was_begun
from datasets.store import open_new

FORMAT = "telegrapher-prediction"
FORMAT_VERSION = 1
NO_DATA = 255


def no_data_cells(raw: np.ndarray, gone: Sequence[int], factor: int) -> np.ndarray:
    """Find the output's cells for which the input, float32 [C, *N] with NaN for no data, says nothing at all.

    The output lacks the axes `gone` of N, and is coarser by `factor`: bool [*ceil(remaining N / factor)].
    """
    empty = np.asarray(np.isnan(raw).all(axis=(0, *(axis + 1 for axis in gone))))
    for axis, size in enumerate(empty.shape if factor > 1 else ()):
        empty = np.logical_and.reduceat(empty, np.arange(0, size, factor), axis=axis)
    return empty


def coarsen_coordinates(source: xr.Dataset, dims: Sequence[str], factor: int) -> dict[str, xr.DataArray]:
    """Carry the coordinates on `dims` over to the cells' centres of a grid coarser by `factor`.

    A last, incomplete cell is spaced like the others.
    """
    kept = {str(name): coord for name, coord in source.coords.items() if set(coord.dims) <= set(dims)}
    if factor == 1:
        return {name: coord.compute() for name, coord in kept.items()}
    coarse: dict[str, xr.DataArray] = {}
    for name, coord in kept.items():
        if coord.ndim == 0:
            coarse[name] = coord.copy()
            coarse[name].attrs.pop("GeoTransform", None)
        elif coord.ndim == 1 and np.issubdtype(coord.dtype, np.number):
            values = coord.values.astype(np.float64)
            step = values[-1] - values[-2] if len(values) > 1 else 1.0
            whole = np.append(values, values[-1] + step * np.arange(1, -len(values) % factor + 1))
            coarse[name] = xr.DataArray(whole.reshape(-1, factor).mean(axis=1), dims=coord.dims, attrs=coord.attrs)
        elif coord.ndim == 1:
            coarse[name] = coord.isel({coord.dims[0]: slice(None, None, factor)}).compute()
    return coarse


@dataclass(frozen=True)
class Labelled:
    """What was found out about the cells at a place of the output's grid."""

    place: tuple[slice, ...]
    winner: np.ndarray  # uint8 [*place]: the most probable class, or `NO_DATA`
    probability: np.ndarray  # float32 [K, *place], NaN where there is no data

    @classmethod
    def of(cls, place: tuple[slice, ...], probability: np.ndarray, empty: np.ndarray) -> "Labelled":
        """Take the most probable class of each cell that is not `empty`, bool [*place]."""
        winner = probability.argmax(axis=0).astype(np.uint8)
        winner[empty] = NO_DATA
        return cls(place, winner, np.where(empty, np.float32(np.nan), probability).astype(np.float32, copy=False))


def lay_out(
    source: xr.Dataset, dims: Sequence[str], *, factor: int, classes: Sequence[str], attrs: Mapping[str, Any]
) -> xr.Dataset:
    """Lay out the prediction of a volume, with its coordinates and without any value yet.

    It has ``class`` uint8 (*dims) and ``probability`` float32 (class_name, *dims), on a grid coarser by `factor`, and
    its provenance as `attrs`.
    """
    sizes = tuple(-(-source.sizes[dim] // factor) for dim in dims)
    winner = da.zeros(sizes, dtype=np.uint8, chunks=-1)  # in one chunk, so that any of the store suit it
    probability = da.zeros((len(classes), *sizes), dtype=np.float32, chunks=-1)
    class_attrs = {"long_name": "most probable class", "class_names": list(classes), "no_data": NO_DATA}
    share_attrs = {"long_name": "probability of the class", "units": "1"}
    names = np.array(classes, dtype=np.dtypes.StringDType())
    return xr.Dataset(
        {
            "class": (tuple(dims), winner, class_attrs),
            "probability": (("class_name", *dims), probability, share_attrs),
        },
        coarsen_coordinates(source, dims, factor) | {"class_name": names},
        {**attrs, "format": FORMAT, "format_version": FORMAT_VERSION},
    )


@dataclass
class Finished:
    """Tells whether an earlier process has written a place, and counts cells by class."""

    journal: Journal | None = None
    counts: np.ndarray = field(default_factory=lambda: np.zeros(NO_DATA + 1, np.int64))

    def __call__(self, place: tuple[slice, ...]) -> bool:
        """Count a place that is written; asked once of each."""
        if self.journal is None or (name := _name(place)) not in self.journal:
            return False
        self.counts += self.journal.read(name)["counts"]
        return True

    def note(self, piece: Labelled) -> None:
        """Count a piece that is written now."""
        counts = np.bincount(piece.winner.ravel(), minlength=len(self.counts))
        self.counts += counts
        assert self.journal is not None
        self.journal.note(_name(piece.place), {"counts": counts})


def _name(place: tuple[slice, ...]) -> str:
    return "-".join(["piece", *(str(part.start) for part in place)])


def write_prediction(
    layout: xr.Dataset,
    pieces: Callable[[Finished], Iterator[Labelled]],
    path: str | Path,
    *,
    block: Sequence[int] | None = None,
    key: str | None = None,
    no_data: str = "no cell holds data",
    speak: bool = False,
) -> np.ndarray:
    """Write a prediction that `lay_out` laid out, piece by piece, as a Zarr v3 store: all of it, or nothing.

    `pieces` makes those that are not finished, together all cells, each once; none is held once it is written. They
    have `block` cells along each dimension of the output; none where there is one. In a folder what was there stays
    until then. Below a URI it goes as soon as the first piece has come. With a `key`, a hash of what is written and in
    which pieces, the next process goes on where this one is stopped, and says so if it may `speak`.

    Returns the cells of each class, int64 [256], and at `NO_DATA` those without data. `InputError` where no cell holds
    data, in the words `no_data`, or the operating system or the store refuses to write, as on a full disk.
    """
    finished = Finished()
    coming = pieces(finished)
    # What is there below a URI goes with the first piece, and not for a model that fails.
    first = [next(coming)] if is_remote(path) and not was_begun(Objects(path), key) else []
    with open_new(path, key, speak=speak) as (target, finished.journal):
        if "begun" not in finished.journal:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")
                warnings.filterwarnings("ignore", "Object at .* is not recognized")  # folders that some servers keep
                layout.drop_encoding().to_zarr(
                    target, mode="w", zarr_format=3, consolidated=True, compute=False,
                    encoding=_encoding(layout, block),
                )  # fmt: skip
            finished.journal.note("begun")
        arrays: Any = zarr.open_group(target, mode="r+")
        while (piece := first.pop() if first else next(coming, None)) is not None:
            finished.journal.refuse_other_owner()
            arrays["class"][piece.place] = piece.winner
            arrays["probability"][(slice(None), *piece.place)] = piece.probability
            finished.note(piece)
            del piece  # the next one takes its memory
        if not finished.counts[:NO_DATA].any():
            raise InputError(no_data)
    return finished.counts


def _encoding(layout: xr.Dataset, block: Sequence[int] | None) -> dict[str, dict[str, Any]]:
    blocks = {} if block is None else dict(zip(map(str, layout["class"].dims), block, strict=True))
    placed = {"grid_mapping": "spatial_ref"} if "spatial_ref" in layout.coords else {}
    encoding: dict[str, dict[str, Any]] = {
        str(name): {"_FillValue": None} for name, coord in layout.coords.items() if coord.dtype.kind == "f"
    }
    for name in ("class", "probability"):
        sizes, itemsize = layout[name].sizes, layout[name].dtype.itemsize
        piece = itemsize * math.prod(min(size, blocks.get(str(dim), size)) for dim, size in sizes.items())
        chunks, shards = plan_chunks(sizes, itemsize, block=blocks, shard_bytes=min(piece, SHARD_BYTES), within=True)
        encoding[name] = encoding_of(chunks, shards) | placed
    return encoding
