"""Calls spread over a Ray cluster: as many at once as there is room for, or all at once; the maps' only door to Ray."""

import socket
from collections import deque
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any

import ray
import torch.distributed as dist
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from datasets.errors import InputError
from pipeline.config import ClusterConfig
from pipeline.training.worker import ROOM_S, cluster, refuse_missing_gpus, wait_for_room

_SOON_S = 10.0
"""How long calls that start at once wait for room without a word."""


def spread(
    function: Callable[[Any, int], Any], tasks: Sequence[Any], config: ClusterConfig
) -> Generator[tuple[int, Any]]:
    """Call a function on every task, `config.workers` at once.

    The function is called with a task and the number of its cores; it must be importable where Ray runs it. A task
    whose process or node is lost is tried again `config.max_failures` times; one that Ray ends because the memory runs
    out is not, since Ray itself would try it for ever.

    Yields
    ------
    int, object
        Index of a task, and as they come its result, the error that it raised, or the `RayError` that it was lost with.

    Raises
    ------
    InputError
        Where the cluster cannot be joined, or no machine of it is large enough for a worker.
    """
    threads = config.threads
    with cluster(config):
        wait_for_room(config)
        call = ray.remote(function).options(num_cpus=threads, max_retries=0, name="map a volume", **_gpu(config))
        waiting = deque((index, config.max_failures) for index in range(len(tasks)))
        running: dict[Any, tuple[int, int]] = {}
        try:
            while waiting or running:
                while waiting and len(running) < config.workers:
                    index, lives = waiting.popleft()
                    running[call.remote(tasks[index], threads)] = index, lives
                (done, *_), _ = ray.wait(list(running))
                index, lives = running.pop(done)
                result: Any
                try:
                    result = ray.get(done)
                except RayError as error:
                    if lives and not isinstance(error, OutOfMemoryError | RayTaskError):
                        waiting.append((index, lives - 1))
                        continue
                    result = _cause(error)
                yield index, result
        finally:
            for reference in running:  # the driver was interrupted
                ray.cancel(reference, force=True)


def _gpu(config: ClusterConfig) -> dict[str, Any]:
    """Give a process a GPU of its own, or let it see none."""
    return {"num_gpus": 1} if config.gpu else {"runtime_env": {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}}


def _cause(error: RayError) -> Exception:
    """Return the error that a call raised itself, with Ray's as its own cause, or what Ray says of a lost process."""
    if not isinstance(error, RayTaskError):
        return error
    cause: Exception = error.cause
    cause.__cause__ = error
    return cause


def together(
    function: Callable[[Any, int, Callable[[str], int]], Any], tasks: Sequence[Any], config: ClusterConfig
) -> Generator[tuple[int, Any]]:
    """Call a function on all tasks at once, each in a process of its own, which talk to each other.

    The function is called with a task, the number of its cores, and what joins it to the others by a backend of
    `torch.distributed`, waits for them, and returns its rank. Close the generator where one fails: it ends the others.

    Yields and raises as `spread`, and `InputError` where the cluster has no room for all at once.
    """
    threads, world = config.threads, len(tasks)
    with cluster(config):
        refuse_missing_gpus(config)
        group = placement_group([{"CPU": threads, "GPU": int(config.gpu)}] * world)
        try:
            if not group.wait(_SOON_S):
                print(f"waiting for room for {world} workers at once", flush=True)
            if not group.wait(ROOM_S):
                raise InputError(
                    f"the cluster had no room for {world} workers of {threads} CPU cores"
                    f"{' and a GPU' if config.gpu else ''} at once within {ROOM_S:.0f} s; take fewer, or add machines"
                )
            ranks = [
                _Rank.options(  # type: ignore[attr-defined]  # the decorator's work
                    num_cpus=threads,
                    **_gpu(config),
                    scheduling_strategy=PlacementGroupSchedulingStrategy(group, rank),
                ).remote(rank, world)
                for rank in range(world)
            ]
            try:
                where = ray.get(ranks[0].meet.remote())
            except RayError as error:
                yield 0, error
                return
            calls = zip(ranks, tasks, strict=True)
            running = {rank.call.remote(function, task, threads, where): at for at, (rank, task) in enumerate(calls)}
            while running:
                (done, *_), _ = ray.wait(list(running))
                index = running.pop(done)
                try:
                    result = ray.get(done)
                except RayError as error:
                    result = _cause(error)
                yield index, result
        finally:
            remove_placement_group(group)  # ends its processes


@ray.remote
class _Rank:
    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world

    def meet(self) -> tuple[str, int]:
        """Open a place to meet, and tell where it is."""
        place = socket.create_server((ray.util.get_node_ip_address(), 0))  # else it would listen on every interface
        host, port = place.getsockname()
        self.store = dist.TCPStore(
            host, port, self.world, is_master=True, wait_for_workers=False, master_listen_fd=place.detach()
        )
        return host, port

    def call(self, function: Callable[..., Any], task: Any, threads: int, where: tuple[str, int]) -> Any:
        """Call the function."""
        return function(task, threads, partial(self._join, where))

    def _join(self, where: tuple[str, int], backend: str) -> int:
        store = self.store if self.rank == 0 else dist.TCPStore(*where, self.world, is_master=False)
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.world)
        return self.rank
