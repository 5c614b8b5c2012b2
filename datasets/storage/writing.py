"""Write the arrays of a volume piece by piece, each measured as it passes, so that a later process can go on.

A piece is a shard of all arrays on one grid (data, mask, dense labels), or the whole of small ones.
"""

import math
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr
import zarr
from dask.system import CPU_COUNT
from zarr.abc.store import Store

from datasets.errors import InputError
from datasets.measures.measuring import Gathered, Measuring
from datasets.measures.summary import GROUP as STATISTICS
from datasets.measures.summary import summarise
from datasets.progress import Progress
from datasets.storage.grids import grids, mask_of
from datasets.storage.journal import Journal
from datasets.storage.overviews import GROUP as OVERVIEWS
from datasets.storage.overviews import Encoding, Source, coarsen, halved, level, masked, plan_levels

Target = Path | Store
_MEMORY = 900 * 2**20
_COPIES = 6  # of a piece in a thread at its peak: source, mask, encoded shard, and their temporaries


def write_arrays(
    ds: xr.Dataset,
    target: Target,
    *,
    encoding: Encoding,
    journal: Journal,
    overviews: bool,
    no_data: str | None,
    speak: bool,
) -> None:
    """Write a laid-out volume with its statistics and overviews, but for the pieces that the journal has.

    Variables are chunked by piece, their chunks and shards are in `encoding`. `overviews` and `no_data`, the words of
    an `InputError` where no cell holds data, are as in `datasets.store.write_volume`.
    """
    with zarr.config.set({"array.write_empty_chunks": True}):  # so that a chunk that is missing is seen to be missing
        plan = _measuring(ds, journal) if "data" in ds else None
        _begin(ds, target, "", encoding, journal)
        first = _FirstLevel.of(ds, target, journal) if overviews and "data" in ds else None
        _write_pieces(ds, target, "", journal, speak, plan, first)
        if plan is not None:
            (grid,) = (grid for grid in grids(ds) if "data" in grid.names)
            measured = ((where, journal.read(grid.name("", index))) for index, where in grid.pieces())
            gathered = Gathered.of(plan, measured)
            cells = int(gathered.sketch.count.sum())
            if no_data is not None and not cells:
                raise InputError(no_data)
            if no_data is not None and "valid" in ds and cells == ds["data"].size:
                group = zarr.open_group(target, mode="r+")
                if "valid" in group:
                    del group["valid"]
            summarise(plan, gathered).to_zarr(target, group=STATISTICS, mode="w", zarr_format=3, consolidated=False)
            if overviews:
                _write_overviews(ds, target, journal, speak, first)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")
            zarr.consolidate_metadata(target)


def _measuring(ds: xr.Dataset, journal: Journal) -> Measuring:
    """Plan the measuring, around the centres of an earlier process, so that the sketches can be merged."""
    if "centre" in journal:
        return Measuring.of(ds["data"], journal.read("centre")["centre"])
    with _threads(1):
        plan = Measuring.of(ds["data"])
    journal.note("centre", {"centre": plan.centre})
    return plan


def _begin(ds: xr.Dataset, target: Target, group: str, encoding: Encoding, journal: Journal) -> None:
    if f"begun{group}" in journal:
        return
    ds.to_zarr(
        target, group=group or None, mode="w", zarr_format=3, consolidated=False, compute=False, encoding=encoding
    )
    journal.note(f"begun{group}")


def _write_pieces(
    ds: xr.Dataset,
    target: Target,
    group: str,
    journal: Journal,
    speak: bool,
    plan: Measuring | None = None,
    first: "_FirstLevel | None" = None,
) -> None:
    """Let Dask write the pieces that are not in the journal, as many at once as memory allows."""
    arrays: Any = zarr.open_group(target, mode="r+", path=group)
    tasks, largest, total, done = [], 1, 0, 0
    for grid in grids(ds):
        blocks = {name: ds[name].data.to_delayed(optimize_graph=False) for name in grid.names}
        mask = mask_of(ds) if plan is not None and "data" in grid.names else None
        masks = None if mask is None else mask.data.to_delayed(optimize_graph=False)
        itemsize = sum(ds[name].dtype.itemsize for name in grid.names)
        for index, where in grid.pieces():
            size = itemsize * math.prod(cut.stop - cut.start for cut in where.values())
            total, largest = total + size, max(largest, size)
            name = grid.name(group, index)
            if name in journal:
                done += size
                continue
            held = {key: delayed[index] for key, delayed in blocks.items()}
            tasks.append((name, where, size, held, None if masks is None else masks[index]))
    progress = Progress(f"overview {group[-1]}:" if group else "writing", total, speak=speak, done=done)

    def write(name: str, where: dict[str, slice], size: int, held: dict[str, np.ndarray], valid: Any) -> None:
        for key, block in held.items():
            arrays[key][tuple(where.values())] = block
        measured = {}
        if plan is not None and "data" in held:
            measured = plan.measure(held["data"], valid, where)
            if first is not None:
                first.write(held["data"], valid, where)
        journal.note(name, measured)
        progress.add(size)

    later = dask.delayed(write, pure=False)
    threads = max(1, min(CPU_COUNT, _MEMORY // (_COPIES * largest)))
    with progress, _threads(threads):
        dask.compute(*(later(*task) for task in tasks), scheduler="threads", optimize_graph=False)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Give Dask a pool of our own: leaving it waits for its threads, so that after Ctrl-C none still writes."""
    with ThreadPoolExecutor(count) as pool, dask.config.set(pool=pool):
        yield


@dataclass(frozen=True)
class _FirstLevel:
    """The first overview, written along with the data: its pieces are made of whole pieces of the data."""

    coarse: xr.Dataset
    array: zarr.Array
    steps: tuple[int, ...]  # cells of the data along every axis in one of its cells

    @classmethod
    def of(cls, ds: xr.Dataset, target: Target, journal: Journal) -> "_FirstLevel | None":
        """Begin the level; none where there is none, or cells would span two pieces."""
        data = ds["data"]
        steps = tuple(next(iter(plan_levels(data)), {}).values())
        if not steps or any(
            edge % step for own, step in zip(data.chunks or (), steps, strict=True) for edge in own[:-1]
        ):
            return None
        coarse, encoding = halved(Source.of(target, "", ds))
        _begin(coarse, target, f"{OVERVIEWS}/1", encoding, journal)
        arrays: Any = zarr.open_group(target, mode="r+", path=f"{OVERVIEWS}/1")
        return cls(coarse, arrays["data"], steps)

    def write(self, values: np.ndarray, valid: np.ndarray | None, where: dict[str, slice]) -> None:
        place = tuple(
            slice(cut.start // step, -(-cut.stop // step)) for cut, step in zip(where.values(), self.steps, strict=True)
        )
        self.array[place] = coarsen(masked(values, valid), self.steps)


def _write_overviews(ds: xr.Dataset, target: Target, journal: Journal, speak: bool, first: _FirstLevel | None) -> None:
    levels = plan_levels(ds["data"])
    if not levels:
        return
    source = Source.of(target, "", ds)
    listed: list[Any] = []
    for number, factors in enumerate(levels, 1):
        group = f"{OVERVIEWS}/{number}"
        if number == 1 and first is not None:
            coarse = first.coarse
        else:
            coarse, encoding = level(source, factors)
            _begin(coarse, target, group, encoding, journal)
            _write_pieces(coarse, target, group, journal, speak)
        source = Source.of(target, group, coarse)
        listed.append({"path": str(number), "factors": factors})
    zarr.open_group(target, mode="r+", path=OVERVIEWS).attrs.update(
        {"levels": listed, "method": "mean of the cells with data, of the level before", "no_data": "NaN"}
    )
