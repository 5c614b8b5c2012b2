"""Calls spread over a Ray cluster, one task each; the batch's only door to Ray."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import RayError

from datasets.errors import InputError
from pipeline.config import ClusterConfig
from pipeline.worker import cluster, threads_per_worker


def spread(
    function: Callable[[Any, int], Any], tasks: Sequence[Any], config: ClusterConfig
) -> Iterator[tuple[int, Any]]:
    """Call a function on every task, `config.workers` at once.

    A task whose process or node is lost is tried again `config.max_failures` times.

    Parameters
    ----------
    function
        Called with a task and the number of its cores; it must be importable where Ray runs it.
    tasks
        What it is called with.
    config
        The cluster, and the resources of one call.

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
            num_cpus=threads, num_gpus=int(config.gpu), max_retries=config.max_failures, name="map a volume"
        )
        waiting = iter(enumerate(tasks))
        running: dict[Any, int] = {}
        try:
            while True:
                while len(running) < config.workers and (item := next(waiting, None)) is not None:
                    running[call.remote(item[1], threads)] = item[0]
                if not running:
                    return
                (done, *_), _ = ray.wait(list(running))
                result: Any
                try:
                    result = ray.get(done)
                except RayError as error:
                    result = error
                yield running.pop(done), result
        finally:
            for reference in running:  # the driver was interrupted
                ray.cancel(reference, force=True)
