"""A volume mapped by workers on Ray: each block by one of them, or the whole by all at once, a slab each."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from datasets.errors import AwayError
from datasets.prediction import Labelled
from datasets.storage.objects import is_remote
from datasets.volume import Volume
from pipeline.config import ClusterConfig
from pipeline.planning.tiling import Cells, Tiling, Wanted, windows_of
from pipeline.ranks.slabs import take_place
from pipeline.registry.load import load_model
from pipeline.scoring.scorer import Scorer


@dataclass(frozen=True)
class Order:
    """What a worker does: with which model, under a name that always means the same weights, and with which volume.

    Attributes
    ----------
    tiling, start
        Blocks in which the volume is mapped, and the first cell of the block that is meant.
    slabs
        Slabs in which it is mapped instead.
    """

    model: str
    tracking_uri: str
    source: str
    tiling: Tiling | None = None
    start: tuple[int, ...] = ()
    slabs: int = 1

    def open(self, threads: int) -> tuple[Scorer, Volume]:
        """Open model and volume, once for all that a process does with them."""
        torch.set_num_threads(threads)
        return _opened(self.model, self.tracking_uri, self.source)


@lru_cache(maxsize=1)
def _opened(model: str, tracking_uri: str, source: str) -> tuple[Scorer, Volume]:
    scorer = load_model(model, tracking_uri=tracking_uri)
    return scorer, scorer.open(source)


def share_of_machine(threads: int) -> float:
    """Return the part of a machine's memory that goes with some of its cores, since others may work beside."""
    return min(1.0, threads / (os.cpu_count() or 1))


def plan_blocks(order: Order, threads: int) -> Tiling | None:
    """Plan the blocks by the memory of a worker; those of the order stay where they suit."""
    scorer, volume = order.open(threads)
    return scorer.plan(volume, share_of_machine(threads), begun=order.tiling)


def map_block(order: Order, threads: int) -> Labelled:
    """Map one block."""
    scorer, volume = order.open(threads)
    (piece,) = scorer.map(volume, tiling=order.tiling, wanted=lambda cells: _start(cells) == order.start)
    return scorer.label(piece)


def map_slab(order: Order, threads: int, join: Callable[[str], int]) -> Labelled:
    """Map one slab while other workers map the others; `join` joins them by a backend, and tells this one's rank."""
    scorer, volume = order.open(threads)
    scorer.check_slabs(volume, order.slabs, share_of_machine(threads))
    rank = join("nccl" if scorer.device == "cuda" else "gloo")
    (piece,) = scorer.map(volume, slab=take_place(rank, order.slabs, order.slabs).slab)
    return scorer.label(piece)


def _start(cells: Cells) -> tuple[int, ...]:
    return tuple(part.start for part in cells)


@dataclass(frozen=True)
class Workers:
    """Workers on Ray, and what they map."""

    cluster: ClusterConfig
    order: Order
    scorer: Scorer
    volume: Volume

    @classmethod
    def of(cls, cluster: ClusterConfig, scorer: Scorer, volume: Volume, source: str, tracking_uri: str) -> "Workers":
        """Let workers map a volume; those of a cluster must reach it, the model and the registry by these names.

        Raises
        ------
        InputError, models.config.ConfigError
            Where the volume cannot be cut into so many slabs.
        """
        scorer.segmenter.slabs(volume.shape[0], cluster.slabs)
        place = source if is_remote(source) else str(Path(source).resolve())
        return cls(cluster, Order(scorer.fixed, tracking_uri, place, slabs=cluster.slabs), scorer, volume)

    def plan(self, begun: Tiling | None) -> Tiling | None:
        """Plan the blocks, or keep those that were `begun`; in slabs there are none."""
        if self.cluster.slabs > 1:
            cells = " x ".join(map(str, self.volume.shape))
            print(f"mapping {cells} cells in one piece, in {self.cluster.slabs} slabs", flush=True)
            return None
        from pipeline.mapping.spread import spread  # Ray is imported only where it is wanted

        ((_, tiling),) = spread(plan_blocks, [replace(self.order, tiling=begun)], self.cluster)
        return _found(tiling)

    def map(self, tiling: Tiling | None, wanted: Wanted) -> Iterator[Labelled]:
        """Map what is `wanted`, in any order.

        Raises
        ------
        InputError
            Where a worker's memory is too small, or the cluster has no room for all slabs at once.
        AwayError
            Where workers are lost too often, or cannot read.
        """
        from pipeline.mapping.spread import spread, together

        windows = [window for window in windows_of(self.volume.shape, self.scorer.grid, tiling) if wanted(window.block)]
        if self.cluster.slabs > 1:
            results = together(map_slab, [self.order] * self.cluster.slabs * len(windows), self.cluster)
        else:
            orders = [replace(self.order, tiling=tiling, start=_start(window.block)) for window in windows]
            results = spread(map_block, orders, self.cluster)
        with closing(results):  # others may wait for one that failed
            for _, result in results:
                yield _found(result)
                del result


def _found(result: Any) -> Any:
    """Return what a worker found, or raise what kept it."""
    if isinstance(result, ValueError | OSError):
        raise result
    if isinstance(result, Exception):
        raise AwayError(f"a worker was lost ({' '.join(str(result).split())[:300]}); the same command tries again")
    return result
