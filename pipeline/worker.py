"""Ray Train around the loop: ranks, devices, checkpoints in Ray's storage, restarts; training's only door to Ray."""

import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")
os.environ.setdefault("RAY_DEDUP_LOGS", "0")

import ray
import ray.train
import torch
from ray.train.torch import TorchTrainer, get_device, prepare_model
from torch import nn

from datasets.errors import InputError
from pipeline.checkpoint import Meta, folder_name, latest_checkpoint
from pipeline.config import ClusterConfig
from pipeline.context import Context
from pipeline.finish import finish
from pipeline.interrupt import on_interrupt
from pipeline.journal import Journal
from pipeline.loop import fit
from pipeline.run import Run


@ray.remote(num_cpus=0)
class Bell:
    """Carries the wish to stop from the driver to the workers."""

    def __init__(self) -> None:
        self.rung = False

    def ring(self) -> None:
        """Ask the workers to stop after their current step."""
        self.rung = True

    def is_rung(self) -> bool:
        """Tell whether somebody asked."""
        return self.rung


def threads_per_worker(config: ClusterConfig) -> int:
    """Return the cores of one worker: the configured number, or an even share of this machine's."""
    return config.cpus_per_worker or max(1, (os.cpu_count() or 1) // max(config.workers, 1))


def _wrap(model: nn.Module) -> nn.Module:
    return prepare_model(model, parallel_strategy_kwargs={"gradient_as_bucket_view": True})


def _store(folder: Path | None, meta: Meta) -> None:
    checkpoint = None if folder is None else ray.train.Checkpoint.from_directory(str(folder))
    ray.train.report(
        {"step": meta.step, "score": meta.score},
        checkpoint=checkpoint,
        checkpoint_dir_name=folder_name(meta.step),
    )


def work(settings: dict[str, Any]) -> None:
    """Train on one worker; Ray calls this in its own process.

    Parameters
    ----------
    settings
        ``folder`` of the run, MLflow ``run_id``, ``threads``, the ``bell``, whether the run is ``finishing`` with its
        test scores, and the settings of the ``cluster``, which on a resumed run need not be those that the folder
        remembers.
    """
    logging.getLogger("ray.train").setLevel(logging.WARNING)  # else every report is announced between our lines
    ranks = ray.train.get_context()
    torch.set_num_threads(settings["threads"])
    run = Run.open(settings["folder"])
    run = replace(run, config=replace(run.config, cluster=ClusterConfig(**settings["cluster"])))
    first = ranks.get_world_rank() == 0
    journal = Journal.open(run, settings["run_id"]) if first else None
    with contextlib.ExitStack() as stack:
        newest = ray.train.get_checkpoint()
        # A run that began without Ray has checkpoints that Ray does not know of.
        place = Path(stack.enter_context(newest.as_directory())) if newest else latest_checkpoint(run.checkpoints)
        context = Context(
            rank=ranks.get_world_rank(),
            world=ranks.get_world_size(),
            device=get_device(),
            resume=place,
            store=_store,
            interrupted=lambda: ray.get(settings["bell"].is_rung.remote()),
            wrap=_wrap if ranks.get_world_size() > 1 else lambda model: model,
        )
        if journal is not None:
            context.listener = journal
        outcome = fit(run, context)
        if journal is not None and settings["finishing"]:
            finish(run, outcome, journal, context.device)
        elif journal is not None:
            journal.tracker.flush()


@contextlib.contextmanager
def cluster(config: ClusterConfig) -> Iterator[None]:
    """Join a Ray cluster, or start one that ends with this run.

    Raises
    ------
    InputError
        Where the cluster cannot be joined, or can never hold the workers.
    """
    joined = ray.is_initialized()
    if not joined:
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")
        cores = max(os.cpu_count() or 1, config.workers * threads_per_worker(config))
        if config.address == "local":
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # this machine is not taken away
            ray.init(address="local", num_cpus=cores, include_dashboard=True, logging_level=logging.ERROR)
            os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        else:
            try:
                ray.init(address=config.address, logging_level=logging.WARNING)
            except ConnectionError as error:
                raise InputError(
                    f"no Ray cluster answers at cluster.address {config.address!r}; start one with "
                    "`ray start --head`, or use `local`"
                ) from error
    try:
        yield
    finally:
        if not joined:
            ray.shutdown()
            if config.address == "local":
                os.environ.pop("RAY_ADDRESS", None)


def train_on_ray(run: Run, run_id: str, *, callbacks: Sequence[Any] = (), finishing: bool = True) -> None:
    """Train a prepared run with Ray Train; the run's folder holds what came out.

    Parameters
    ----------
    run
        The prepared run.
    run_id
        MLflow run that rank 0 feeds.
    callbacks
        Ray Train's, which hear of every validation.
    finishing
        Whether the best checkpoint is scored on the test part at the end; a sweep's trials are not.
    """
    config = run.config.cluster
    threads = threads_per_worker(config)
    resources = {"CPU": threads, "GPU": 1} if config.gpu else {"CPU": threads}
    with cluster(config):
        if config.gpu and config.address == "local" and ray.cluster_resources().get("GPU", 0) < config.workers:
            raise InputError(
                f"cluster.gpu asks for {config.workers} GPUs, but this machine has "
                f"{ray.cluster_resources().get('GPU', 0):g}; set it to false, or join a cluster by cluster.address"
            )
        bell = Bell.remote()  # type: ignore[attr-defined]  # the decorator's work
        trainer = TorchTrainer(
            work,
            train_loop_config={
                "folder": str(run.folder),
                "run_id": run_id,
                "threads": threads,
                "bell": bell,
                "finishing": finishing,
                "cluster": asdict(config),
            },
            scaling_config=ray.train.ScalingConfig(
                num_workers=config.workers, use_gpu=config.gpu, resources_per_worker=resources
            ),
            run_config=ray.train.RunConfig(  # type: ignore[call-arg]  # typed as its predecessor
                name=run.checkpoints.name,
                storage_path=str(run.folder),
                callbacks=list(callbacks),
                failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1, checkpoint_score_attribute="score"),
                logging_config=ray.train.LoggingConfig(log_level="WARNING"),
            ),
        )
        failures: list[BaseException] = []

        def fit_in_thread() -> None:
            try:
                trainer.fit()
            except BaseException as error:
                failures.append(error)

        # Ray takes over Ctrl-C when fit runs in the main thread, and then ends without a checkpoint.
        thread = threading.Thread(target=fit_in_thread, daemon=True)
        with on_interrupt(lambda: ray.get(bell.ring.remote())):
            thread.start()
            while thread.is_alive():
                thread.join(0.2)
        if failures:
            raise failures[0]
