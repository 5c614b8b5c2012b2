"""Calls spread over a Ray cluster, one task each; the batch's only door to Ray."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from datasets.errors import InputError
from pipeline.config import ClusterConfig
from pipeline.training.worker import cluster, threads_per_worker


def spread(
    function: Callable[[Any, int], Any], tasks: Sequence[Any], config: ClusterConfig
) -> Iterator[tuple[int, Any]]:
    """Call a function on every task, `config.workers` at once.

    The function is called with a task and the number of its cores; it must be importable where Ray runs it. A task
    whose process or node is lost is tried again `config.max_failures` times; one that Ray ends because the memory runs
    out is not, since Ray itself would try it for ever.

    Yields
    ------
    int, object
        Index of a task, and its result or the `RayError` that it was lost with, as they come.

    Raises
    ------
    InputError
        Where the cluster cannot be joined, or a GPU is asked for that this machine lacks.
    """
    threads = threads_per_worker(config)
    with cluster(config):
        if config.gpu and config.address == "local" and not ray.cluster_resources().get("GPU"):
            raise InputError(
                "cluster.gpu is true but Ray finds no GPU here; set it to false, or join a cluster by cluster.address"
            )
        call = ray.remote(function).options(
            num_cpus=threads, num_gpus=int(config.gpu), max_retries=0, name="map a volume"
        )
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
                    result = error
                yield index, result
        finally:
            for reference in running:  # the driver was interrupted
                ray.cancel(reference, force=True)
