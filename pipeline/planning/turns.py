"""Slabs that take turns on one device: what of a volume lies elsewhere meanwhile, and how many turns it takes."""

import contextlib
import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets.errors import InputError
from models.config import ConfigError
from models.peak import Away, Workload, prediction_ledgers, training_ledgers, waiting_bytes
from models.segmenter import Segmenter
from models.stream import Stream
from pipeline.amount import show_bytes
from pipeline.config import ClusterConfig
from pipeline.planning.machine import Memory


def stream_of(cluster: ClusterConfig) -> Stream | None:
    """Return how volumes pass through a worker's device; `InputError` where this machine lacks the scratch folder."""
    if cluster.scratch and not Path(cluster.scratch).is_dir():
        raise InputError(f"cluster.scratch is {cluster.scratch}, which is no folder; make it first, or choose another")
    return Stream(cluster.turns, Path(cluster.scratch) if cluster.scratch else None) if cluster.turns > 1 else None


def turns_of(cluster: ClusterConfig, segmenter: Segmenter, rows: int, *, cuda: bool) -> dict[str, Any]:
    """Return the same as settings of a `Workload` on a GPU or a CPU; `ConfigError` where rows are too few."""
    segmenter.slabs(rows, cluster.turns)
    threads = 0 if cuda else cluster.threads
    if cluster.turns == 1:
        return {"threads": threads}
    away = "volume" if cuda else "states" if cluster.scratch else ""
    return {"threads": threads, "turns": cluster.turns, "away": away}


def elsewhere(segmenter: Segmenter, work: Workload, cluster: ClusterConfig, *, training: bool) -> tuple[int, int]:
    """Return the bytes that a worker takes of the host's memory beside the device's own, and of its disk."""
    if not work.away:
        return 0, 0
    _, volume = (training_ledgers if training else prediction_ledgers)(segmenter, work)
    host, pinned = volume.peak if work.away == "volume" else 0, not cluster.scratch
    waiting = waiting_bytes(segmenter, work, training=training, pinned=pinned)
    return (host + waiting, 0) if pinned else (host, waiting)


def check_elsewhere(
    segmenter: Segmenter,
    work: Workload,
    cluster: ClusterConfig,
    host: Memory | None,
    share: float = 1.0,
    *,
    training: bool,
) -> None:
    """Refuse turns for which a share of this machine's memory, of which `host` is left, or of its disk is too small.

    `InputError` with the need, what there is, and what to change, or where there is no scratch folder.
    """
    here, disk = (max(cluster.workers, 1) * n for n in elsewhere(segmenter, work, cluster, training=training))
    if host is not None and here > host.size * share:
        way = "take a smaller data.block" if cluster.scratch else "set cluster.scratch to a folder on a fast disk"
        raise InputError(
            f"what waits for its turn beside the GPU takes {show_bytes(here)} of memory, but there are "
            f"{show_bytes(host.size * share)} {host.where}; {way}"
        )
    stream_of(cluster)
    if cluster.scratch and disk > (free := int(shutil.disk_usage(cluster.scratch).free * share)):
        raise InputError(
            f"the states that wait for their turn take {show_bytes(disk)} in cluster.scratch, but {cluster.scratch} "
            f"has {show_bytes(free)} left; choose a folder on a larger disk, or take a smaller data.block"
        )


def turns_that_fit(
    segmenter: Segmenter, work: Workload, memory: int, peak: Callable[[Segmenter, Workload], int], *, cuda: bool
) -> str | None:
    """Say in how few turns, a power of two, a `training_peak` or `prediction_peak` fits; none where in none."""
    away: Away
    for away, scratch in (("volume", ""),) if cuda else (("", ""), ("states", " and a cluster.scratch folder")):
        with contextlib.suppress(ConfigError):
            for count in (2**power for power in itertools.count(1)):
                segmenter.slabs(work.sizes[0], count)
                if peak(segmenter, replace(work, turns=count, away=away)) <= memory:
                    return f"cluster.turns {count}{scratch}"
    return None
