"""How a sweep's trials share cores, GPUs and memory; Ray is asked elsewhere."""

from collections.abc import Mapping

from datasets.errors import InputError
from pipeline.config import RunConfig
from pipeline.planning.machine import Memory
from pipeline.planning.memory import memory_of_worker

Resources = dict[str, float]
DRIVER: Resources = {"memory": 1e6}
"""What the driver of several workers holds: no core, which would starve them; Ray wants something."""


def check_shares(config: RunConfig) -> None:
    """Refuse shares that no trial can have."""
    gpus = config.sweep.gpus
    if config.cluster.min_workers:
        raise InputError(
            f"cluster.min_workers is {config.cluster.min_workers}, but every trial of a sweep has cluster.workers; "
            "set it to 0"
        )
    if not 0 < gpus <= 1:
        raise InputError(
            f"sweep.gpus is {gpus:g}; a worker computes on one GPU or a share of it, so take a number above 0 up to 1, "
            "and cluster.workers for trials on several GPUs"
        )
    if gpus < 1 and not config.cluster.gpu:
        raise InputError(f"sweep.gpus is {gpus:g}, but cluster.gpu is false; set that to true")
    if gpus < 1 and config.cluster.workers > 1:
        raise InputError(
            f"sweep.gpus is {gpus:g}, but the workers of one trial cannot share a GPU (NCCL refuses it); set it to 1, "
            "or cluster.workers to 1"
        )


def worker_share(config: RunConfig) -> Resources:
    """Return what one worker of a trial takes."""
    share: Resources = {"CPU": float(config.cluster.cpus_per_worker or 1)}
    return share | {"GPU": config.sweep.gpus} if config.cluster.gpu else share


def trial_share(config: RunConfig) -> Resources:
    """Return what Tune reserves for a trial: its worker, or the driver of those that Train reserves."""
    return dict(DRIVER) if config.cluster.workers > 1 else worker_share(config)


def trials_at_once(config: RunConfig, total: Mapping[str, float]) -> int:
    """Return how many trials run at once: `sweep.concurrent`, or as many as `total` resources hold.

    That not even one fits this machine is refused; a cluster that was joined may grow.
    """
    workers = max(config.cluster.workers, 1)
    need = {kind: amount * workers for kind, amount in worker_share(config).items()}
    # Shares of a GPU do not add up over GPUs: each holds whole trials.
    fits = [
        int(total.get(kind, 0)) * int(1 / amount) if amount < 1 else int(total.get(kind, 0) // amount)
        for kind, amount in need.items()
    ]
    if min(fits) < 1 and config.cluster.address == "local":
        kind = min(zip(fits, need, strict=True))[1]
        raise InputError(
            f"a trial takes {need[kind]:g} {kind}, but there are {total.get(kind, 0):g}; take fewer cluster.workers"
            + (" or a lower cluster.cpus_per_worker" if kind == "CPU" else " or set cluster.gpu to false")
        )
    return min(config.sweep.concurrent or max(min(fits), 1), config.sweep.trials)


def memory_of_trial(config: RunConfig, at_once: int) -> Memory | None:
    """Return what a worker of a trial may fill: `training.memory`, or its share of this machine."""
    found = memory_of_worker(config)
    if found is None or config.training.memory is not None:
        return found
    if config.cluster.address != "local":
        return None
    share = config.sweep.gpus if config.cluster.gpu else 1 / at_once
    return Memory(int(found.size * share), f"{found.where}, for each of {at_once} trials at once")
