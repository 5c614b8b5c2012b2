"""Samples of a step, read ahead of the network: the blocks and views that a rank's share of the plan names.

C channels, N the block's cells along the space dimensions, L its label cells.
"""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import xarray as xr

from datasets.blocks import apply_view, plan_step, tile, view_count
from datasets.errors import InputError
from datasets.volume import IGNORE, Volume, coarsen_labels

Pair = tuple[np.ndarray, np.ndarray]


def aligned_tiles(shape: tuple[int, ...], block: list[int] | None, factor: int) -> list[tuple[slice, ...]]:
    """Cover a volume with blocks that start on the network's output grid.

    Raises
    ------
    InputError
        Where one does not.
    """
    tiles = tile(shape, block)
    for candidate in tiles:
        if any(part.start % factor for part in candidate):
            raise InputError(
                f"data.block {block} puts a block at {[part.start for part in candidate]}, which is not on the "
                f"network's output grid; take sizes that are multiples of {factor} and divide the volume {list(shape)}"
            )
    return tiles


class Loader:
    """Training samples as a pure function of the step: a run resumes at the exact sample on any number of ranks.

    Parameters
    ----------
    volume
        The volume.
    split
        Its split; only training labels are ever read.
    block
        Block size along the space dimensions, or None for the whole volume.
    factor
        The network's output grid, and so the labels, is coarser by this.
    batch
        Samples a step over all ranks.
    seed
        Seed of order and views.
    augment_until
        Step from which samples are no longer flipped and swapped; None means never, 0 always plain.
    rank, world
        This rank and the number of ranks: rank r takes samples r, r + world, ...

    Attributes
    ----------
    waited
        Seconds that the caller has waited for samples.

    Raises
    ------
    InputError
        Where no block holds a training label, or the blocks do not sit on the output's coarser grid.
    """

    def __init__(
        self,
        volume: Volume,
        split: xr.DataArray,
        *,
        block: list[int] | None,
        factor: int,
        batch: int,
        seed: int,
        augment_until: int | None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.volume, self.split, self.factor = volume, split, factor
        self.batch, self.seed, self.augment_until = batch, seed, augment_until
        self.rank, self.world = rank, world
        self.waited = 0.0
        self.blocks: list[tuple[slice, ...]] = []
        for candidate in aligned_tiles(volume.shape, block, factor):
            if (self._labels(candidate) != IGNORE).any():
                self.blocks.append(candidate)
        if not self.blocks:
            raise InputError("no block holds a training label; take larger blocks, or another split.seed")
        self._axes = [axis for axis in volume.horizontal if volume.space[axis] in volume.label_dims]
        sizes = [part.stop - part.start for part in self.blocks[0]]
        self._views = view_count([sizes[axis] for axis in self._axes])
        self._whole: Pair | None = self._read(0) if len(self.blocks) == 1 else None

    def _labels(self, block: tuple[slice, ...]) -> np.ndarray:
        return self.volume.read_labels(self.split, "train", block)

    def _read(self, index: int) -> Pair:
        return self.volume.read(self.blocks[index]), self._labels(self.blocks[index])

    def samples(self, step: int) -> list[Pair]:
        """Read this rank's samples of one step: data float32 [C, *N] with NaN for no data, labels int64 [*L]."""
        augmented = self.augment_until is None or step < self.augment_until
        views = self._views if augmented else 1
        plan = plan_step(step, seed=self.seed, batch=self.batch, blocks=len(self.blocks), views=views)
        pairs: list[Pair] = []
        for index, view in plan[self.rank :: self.world]:
            raw, labels = self._whole or self._read(index)
            if view:
                raw = apply_view(raw, view, [1 + axis for axis in self._axes])
                label_axes = [self.volume.label_dims.index(self.volume.space[axis]) for axis in self._axes]
                labels = apply_view(labels, view, label_axes)
            if self.factor > 1:  # after the view, which moves the incomplete cell at the end of an axis to its start
                labels = coarsen_labels(labels, self.factor, len(self.volume.classes))
            pairs.append((np.ascontiguousarray(raw), np.ascontiguousarray(labels)))
        return pairs

    def steps(self, start: int, stop: int) -> Iterator[list[Pair]]:
        """Yield the samples of the steps `start` to `stop`, one step read ahead in a thread."""
        if start >= stop:
            return
        with ThreadPoolExecutor(1, thread_name_prefix="loader") as pool:
            ahead: Future[list[Pair]] = pool.submit(self.samples, start)
            for step in range(start, stop):
                asked = time.perf_counter()
                current = ahead.result()
                self.waited += time.perf_counter() - asked
                if step + 1 < stop:
                    ahead = pool.submit(self.samples, step + 1)
                yield current
