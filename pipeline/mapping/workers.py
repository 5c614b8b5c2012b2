"""A volume mapped by workers on Ray: each block by one of them, or the whole by all at once, a slab each."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from datasets.errors import AwayError, InputError
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
    """What a worker does: with which model and which volume, and what both were when it was given."""

    model: str
    tracking_uri: str
    source: str
    identity: tuple[tuple[str, str], ...]
    tiling: Tiling | None = None  # blocks in which the volume is mapped
    start: tuple[int, ...] = ()  # the first cell of the block that is meant
    slabs: int = 1  # slabs in which it is mapped instead
    cores: int = 0  # that all workers take where they share this machine

    def open(self, threads: int) -> tuple[Scorer, Volume]:
        """Open model and volume, once for all that a process does with them."""
        torch.set_num_threads(threads)
        return _opened(self.model, self.tracking_uri, self.source, self.identity)

    def share(self, threads: int) -> float:
        """Return how much of the machine's memory a worker may fill."""
        return share_of_machine(threads, self.cores)


@lru_cache(maxsize=1)
def _opened(model: str, tracking_uri: str, source: str, identity: tuple[tuple[str, str], ...]) -> tuple[Scorer, Volume]:
    scorer = loaded(model, tracking_uri, dict(identity)["model_digest"])
    volume = scorer.open(source)
    if scorer.identity(volume) != dict(identity):
        raise InputError(f"{source} has changed since this map was begun; the same command begins it anew")
    return scorer, volume


@lru_cache(maxsize=1)
def loaded(model: str, tracking_uri: str, digest: str) -> Scorer:
    """Load the model once for all that a process maps, and refuse another than the one that is meant."""
    scorer = load_model(model, tracking_uri=tracking_uri)
    if scorer.digest != digest:
        raise InputError(
            f"{model} has another best checkpoint now ({scorer.version}); map when its run has ended, or register it"
        )
    return scorer


def cores_taken(cluster: ClusterConfig) -> int:
    """Return the cores that all workers take of this machine, more than it has if need be; 0 where others run them."""
    return cluster.workers * (cluster.cpus_per_worker or 1) if cluster.address == "local" else 0


def share_of_machine(threads: int, cores: int) -> float:
    """Return the part of a machine's memory that goes with some of its cores, since others may work beside."""
    return min(1.0, threads / max(os.cpu_count() or 1, cores))


def plan_blocks(order: Order, threads: int) -> Tiling | None:
    """Plan the blocks by the memory of a worker; those of the order stay where they suit."""
    scorer, volume = order.open(threads)
    return scorer.plan(volume, order.share(threads), begun=order.tiling)


def map_block(order: Order, threads: int) -> Labelled:
    """Map one block."""
    scorer, volume = order.open(threads)
    (piece,) = scorer.map(volume, tiling=order.tiling, wanted=lambda cells: _start(cells) == order.start)
    return scorer.label(piece)


def map_slab(order: Order, threads: int, join: Callable[[str], int]) -> Labelled:
    """Map one slab while other workers map the others; `join` joins them by a backend, and tells this one's rank."""
    scorer, volume = order.open(threads)
    scorer.check_slabs(volume, order.slabs, order.share(threads))
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

        `InputError` or `ConfigError` where the volume cannot be cut into so many slabs.
        """
        scorer.segmenter.slabs(volume.shape[0], cluster.slabs)
        place = source if is_remote(source) else str(Path(source).resolve())
        identity = tuple(scorer.identity(volume).items())
        order = Order(scorer.fixed, tracking_uri, place, identity, slabs=cluster.slabs, cores=cores_taken(cluster))
        return cls(cluster, order, scorer, volume)

    def plan(self, begun: Tiling | None) -> Tiling | None:
        """Plan the blocks, or keep those that were `begun`; in slabs there are none."""
        if self.cluster.slabs > 1:
            cells = " x ".join(map(str, self.volume.shape))
            print(f"mapping {cells} cells in one piece, in {self.cluster.slabs} slabs", flush=True)
            return None
        from pipeline.mapping.spread import RayError, spread  # Ray is imported only where it is wanted

        ((_, tiling),) = spread(plan_blocks, [replace(self.order, tiling=begun)], self.cluster)
        return _found(tiling, RayError)

    def map(self, tiling: Tiling | None, wanted: Wanted) -> Iterator[Labelled]:
        """Map what is `wanted`, in any order.

        Raises
        ------
        InputError
            Where a worker's memory is too small, model or volume changed, or there is no room for all slabs at once.
        AwayError
            Where workers are lost too often, or cannot read.
        """
        from pipeline.mapping.spread import RayError, spread, together

        windows = [window for window in windows_of(self.volume.shape, self.scorer.grid, tiling) if wanted(window.block)]
        if self.cluster.slabs > 1:
            results = together(map_slab, [self.order] * self.cluster.slabs * len(windows), self.cluster)
        else:
            orders = [replace(self.order, tiling=tiling, start=_start(window.block)) for window in windows]
            results = spread(map_block, orders, self.cluster)
        with closing(results):  # others may wait for one that failed
            for _, result in results:
                yield _found(result, RayError)
                del result


def _found(result: Any, lost: type[Exception]) -> Any:
    if isinstance(result, lost):
        raise AwayError(f"a worker was lost ({' '.join(str(result).split())[:300]}); the same command tries again")
    if isinstance(result, Exception):
        raise result
    return result
