"""A rank's share of the samples of a step, read ahead of the network.

C channels, N the cells that the network sees along the space dimensions, L its label cells.
"""

import math
import threading
import time
from collections.abc import Generator
from contextlib import closing
from functools import partial
from itertools import compress, islice

import numpy as np
import xarray as xr

from datasets.config import DataConfig
from datasets.errors import InputError
from datasets.samples.blocks import Window, apply_view, behind_view, plan_windows, view_count
from datasets.samples.order import Order, Sample, plan_steps, share_of_rank
from datasets.samples.prefetch import read_ahead
from datasets.volume import IGNORE, LABEL, Volume, coarsen_labels

Pair = tuple[np.ndarray, np.ndarray]


def plan_samples(
    volume: Volume, split: xr.DataArray, data: DataConfig, *, factor: int, batch: int, seed: int, workers: int = 0
) -> tuple[list[Window], Order]:
    """Find the blocks that a run visits, those with training labels first, and its order, from what `Loader` takes.

    `InputError` where no block or not every step would hold a training label, or blocks are off the output's grid.
    """

    def has_labels(window: Window) -> bool:
        block = window.block
        return volume.meets(split, "train", block) and (volume.read_labels(split, "train", block) != IGNORE).any()

    windows = plan_windows(volume.shape, data.block, data.halo, factor)
    found = list(read_ahead(windows, has_labels, workers=workers, ahead=2 * max(workers, 1)))
    labelled = list(compress(windows, found))
    if not labelled:
        raise InputError("no block holds a training label; take larger blocks, or another split.seed")
    others = [window for window, has in zip(windows, found, strict=True) if not has]
    order = Order.of(len(labelled), len(others), share=data.labelled_share, batch=batch, seed=seed)
    return (labelled if order.share == 1 else labelled + others), order


class Loader:
    """Training samples as a pure function of the step: a run resumes at the exact sample on any number of ranks.

    Parameters
    ----------
    volume, split, data
        Of whose labels only those that train are ever read; blocks, halo, and the share of samples with labels.
    factor
        How much coarser the network's output grid, and so the labels, is.
    batch, micro_batch
        Samples a step over all ranks, and those that stay together on one rank.
    seed, augment_until
        Seed of order and views, and the step from which samples are no longer flipped and swapped, if any.
    workers, prefetch_bytes
        Threads that read ahead, or 0 to read each sample when it is asked for; the most bytes, but always one sample.
    rank, world
        Rank r of the world takes micro-batches r, r + world, ...
    rows
        Rows of the first axis of each sample, as its view shows it, on the output's grid; none means all.

    Attributes
    ----------
    windows, order, plan
        See `plan_samples`, also for what it refuses; and from a range of steps to this rank's samples of them.
    waited, samples_read, bytes_read
        Seconds that the caller has waited, samples given (`rows` is a part of one), and bytes read for them.
    """

    def __init__(
        self,
        volume: Volume,
        split: xr.DataArray,
        data: DataConfig,
        *,
        factor: int,
        batch: int,
        micro_batch: int = 1,
        seed: int,
        augment_until: int | None,
        workers: int = 0,
        prefetch_bytes: int = 0,
        rank: int = 0,
        world: int = 1,
        rows: slice | None = None,
    ) -> None:
        self.volume, self.split, self.factor = volume, split, factor
        self.workers, self.prefetch_bytes, self.rows = workers, prefetch_bytes, rows
        self.waited, self.samples_read, self.bytes_read = 0.0, 0.0, 0
        self.windows, self.order = plan_samples(
            volume, split, data, factor=factor, batch=batch, seed=seed, workers=workers
        )
        self._label_axes = [volume.space.index(dim) for dim in volume.label_dims]
        self._axes = [axis for axis in volume.horizontal if axis in self._label_axes]
        sizes = self.windows[0].sizes
        self._sizes = sizes if rows is None else (rows.stop - rows.start, *sizes[1:])
        views = view_count([sizes[axis] for axis in self._axes])
        self.plan = partial(
            plan_steps,
            self.order,
            batch=batch,
            micro_batch=micro_batch,
            views=views,
            plain_from=augment_until,
            rank=rank,
            world=world,
        )
        self._share = len(share_of_rank(batch, micro_batch, rank, world))
        self._kept: dict[str, Pair] | None = {} if len(self.windows) == 1 else None
        self._lock = threading.Lock()
        if rows is None:
            self._held(self.windows[0])

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample; all have one size."""
        cells = [-(-self._sizes[axis] // self.factor) for axis in self._label_axes]
        return 4 * self.volume.n_channels * math.prod(self._sizes) + LABEL.itemsize * math.prod(cells)

    def _read(self, window: Window) -> Pair:
        labels = np.full([window.sizes[axis] for axis in self._label_axes], IGNORE, LABEL)
        core = tuple(window.core[axis] for axis in self._label_axes)
        if labels[core].size:
            labels[core] = self.volume.read_labels(self.split, "train", window.block)
        return self.volume.read(window.seen), labels

    def _held(self, window: Window) -> Pair:
        """Read a window; where all samples are of one block, no more than this block is kept for later."""
        if self._kept is None:
            return self._read(window)
        place = str(window.seen)
        with self._lock:
            if place not in self._kept:
                while len(self._kept) >= self.windows[0].sizes[0] // self._sizes[0]:
                    self._kept.pop(next(iter(self._kept)))
                self._kept[place] = self._read(window)
                self.bytes_read += 0 if self.rows is None else self.sample_bytes
            return self._kept[place]

    def _sample(self, sample: Sample) -> Pair:
        window = self.windows[sample.block]
        if self.rows is not None:
            window = window.part(behind_view(self.rows, window.sizes, sample.view, self._axes))
        raw, labels = self._held(window)
        raw = apply_view(raw, sample.view, [1 + axis for axis in self._axes])
        labels = apply_view(labels, sample.view, [self._label_axes.index(axis) for axis in self._axes])
        if self.factor > 1:  # after the view, which moves the incomplete cell at the end of an axis to its start
            labels = coarsen_labels(labels, self.factor, len(self.volume.classes))
        return raw, labels

    def steps(self, start: int, stop: int) -> Generator[list[Pair], None, None]:
        """Yield this rank's samples of each step: data float32 [C, *N] with NaN for no data, labels int16 [*L].

        They are read ahead; close it to end the threads early.
        """
        ahead = max(1, self.prefetch_bytes // self.sample_bytes)
        steps = range(start, stop)
        with closing(read_ahead(self.plan(steps), self._sample, workers=self.workers, ahead=ahead)) as stream:
            for _ in steps:
                asked = time.perf_counter()
                current = list(islice(stream, self._share))
                self.waited += time.perf_counter() - asked
                self.samples_read += len(current) * self._sizes[0] / self.windows[0].sizes[0]
                self.bytes_read += 0 if self._kept is not None else len(current) * self.sample_bytes
                yield current
