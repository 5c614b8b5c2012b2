"""Where a run works: workers, what each of them takes, and how they share the samples. Imports nothing heavy."""

import os
from dataclasses import dataclass

from datasets.errors import InputError


def refuse_below(least: int, config: object, group: str, *names: str) -> None:
    """Refuse settings of a group below the least that makes sense."""
    said = "must not be negative" if least == 0 else f"must be {least} or more"
    for name in names:
        if not getattr(config, name) < 2**63:
            raise InputError(f"{group}.{name} is {getattr(config, name)}; it must be a number below 2^63")
        if getattr(config, name) < least:
            raise InputError(f"{group}.{name} is {getattr(config, name)}; it {said}")


@dataclass
class ClusterConfig:
    """Where the work is done.

    Attributes
    ----------
    workers
        Ray workers; 0 works in this process, without Ray.
    slabs
        Workers that share each sample, or each volume to map, a slab of the first of `data.space` each, where it is too
        large for one: in one piece, to the values of one worker but for rounding.
    turns
        Slabs of each sample, or of each volume to map, that take turns on the device of one worker, so that a GPU, or
        with `scratch` a memory, trains in one piece on a volume whose states it does not hold.
    scratch
        Folder on a fast disk of each worker where the states of slabs wait; none means the memory of the host.
    min_workers
        Workers to go on with where machines are lost, up to `workers` again as others join; 0 means `workers`.
    gpu
        Whether each worker takes a GPU (NCCL between them) rather than CPU cores (gloo).
    cpus_per_worker
        CPU cores that a worker reserves and uses; 0 shares this machine's evenly.
    loader_workers
        Threads of each worker that read samples ahead; 0 reads each when the network waits for it.
    prefetch_bytes
        Bytes of samples that each worker holds ready at most beside the current step's; one sample always is.
    max_failures
        Times that lost workers are started again, a run from its newest checkpoint; not for a map in slabs.
    address
        Ray cluster to join: ``local`` starts one for this run, ``auto`` joins the one that RAY_ADDRESS names.
    """

    workers: int = 1
    slabs: int = 1
    turns: int = 1
    scratch: str | None = None
    min_workers: int = 0
    gpu: bool = False
    cpus_per_worker: int = 0
    loader_workers: int = 2
    prefetch_bytes: int = 256 * 2**20
    max_failures: int = 3
    address: str = "local"

    @property
    def threads(self) -> int:
        """A worker's cores: as configured, or an even share of this machine's."""
        return self.cpus_per_worker or max(1, (os.cpu_count() or 1) // max(self.workers, 1))

    @property
    def groups(self) -> int:
        """Samples that are worked on at once."""
        return max(self.workers // self.slabs, 1)

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise InputError(f"cluster.workers is {self.workers}; use 0 to train without Ray, or 1 and more")
        if not 0 <= self.min_workers <= self.workers:
            raise InputError(
                f"cluster.min_workers is {self.min_workers}; it must lie between 0 and cluster.workers {self.workers}"
            )
        refuse_below(1, self, "cluster", "slabs", "turns")
        if self.turns > 1 and self.slabs > 1:
            raise InputError(
                f"cluster.turns is {self.turns} and cluster.slabs {self.slabs}; a sample is shared by workers, or "
                "passes through one of them in turns: set one of them to 1"
            )
        self.scratch = self.scratch and os.path.abspath(self.scratch)  # workers have another current folder
        if self.scratch and self.turns == 1:
            raise InputError(
                f"cluster.scratch is {self.scratch}, but with cluster.turns 1 nothing waits there; raise cluster.turns"
            )
        if self.workers % self.slabs or (self.slabs > 1 and not self.workers):
            raise InputError(
                f"cluster.slabs is {self.slabs} and cluster.workers {self.workers}; each sample takes {self.slabs} "
                "workers, so take a multiple of that"
            )
        if self.slabs > 1 and self.min_workers:
            raise InputError(
                f"cluster.min_workers is {self.min_workers}, but in {self.slabs} slabs none can be missed; set it to 0"
            )
        refuse_below(0, self, "cluster", "loader_workers", "prefetch_bytes", "cpus_per_worker")
