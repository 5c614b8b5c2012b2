"""Ray Train around the loop: the cluster, its workers, restarts, signals.

Ray's controller, a process of its own, reads this file too; so what only the workers need is imported late.
"""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")
os.environ.setdefault("RAY_DEDUP_LOGS", "0")
os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from datasets.errors import InputError
from pipeline.config import ClusterConfig
from pipeline.refusal import refusal
from pipeline.training.interrupt import on_interrupt

if TYPE_CHECKING:
    from pipeline.run import Run


@ray.remote(num_cpus=0)
class _Bell:
    """Carries the wish to stop to the workers, their refusals back."""

    def __init__(self) -> None:
        self.rung = False
        self.refusals: dict[int, str] = {}

    def ring(self) -> None:
        self.rung = True

    def is_rung(self) -> bool:
        return self.rung

    def refuse(self, rank: int, text: str) -> int:
        """Note that a rank cannot go on; tells how many said so."""
        self.refusals[rank] = text
        return len(self.refusals)

    def refusal(self) -> str | None:
        """Return the refusal of the lowest rank, if any."""
        return self.refusals[min(self.refusals)] if self.refusals else None


_notice = threading.Event()
_WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
_AGREE_S = 5.0
"""How long a refusing worker waits for the others to do so."""
_STARTS = 3
"""How often Ray may be late."""
ROOM_S = 600.0
"""How long machines may take to start."""
_RESIZE_S = 60.0
"""How often an elastic run looks for new machines; the larger group starts from the newest checkpoint."""


def _heed_sigterm() -> None:
    """Make this worker's first SIGTERM a wish to stop; Ray would end it without a checkpoint."""

    def handler(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, before)
        _notice.set()

    before = signal.signal(signal.SIGTERM, handler)


class _Heeding(TorchConfig().backend_cls):  # type: ignore[misc]  # the class is private
    def on_training_start(self, worker_group: Any, backend_config: Any) -> None:
        super().on_training_start(worker_group, backend_config)
        worker_group.execute(_heed_sigterm)  # in its main thread, the only one that may take signals


class _HeedingTorchConfig(TorchConfig):
    @property
    def backend_cls(self) -> type:
        return _Heeding


def work(settings: dict[str, Any]) -> None:
    """Train on one worker; Ray calls this in its own process.

    A refusal goes to the driver by the bell and not by the error, which Ray would answer by trying again. Where only
    some workers refuse, the error ends the others, who wait for them, and the next group ends at once. `settings` are
    the ``folder`` of the run, MLflow ``run_id``, ``threads``, the ``bell``, whether the run is ``finishing`` with its
    test scores, and the ``cluster`` settings, which a resumed run's folder need not hold.
    """
    from pipeline.training.rank import train_rank

    bell, ranks = settings["bell"], ray.train.get_context()
    if ray.get(bell.refusal.remote()) is not None:
        return
    try:
        train_rank(settings, _notice.is_set)
    except (ValueError, OSError) as error:
        if (text := refusal(error)) is None:
            raise
        end = time.monotonic() + _AGREE_S
        while ray.get(bell.refuse.remote(ranks.get_world_rank(), text)) < ranks.get_world_size():
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def _start(cores: int) -> None:
    """Start Ray here; it allows its own processes 30 s, too few where much else runs."""
    for _ in range(_STARTS):
        try:
            ray.init(address="local", num_cpus=cores, include_dashboard=True, logging_level=logging.ERROR)
            return
        except Exception as error:  # Ray has no class for it
            if "timed out during startup" not in str(error):
                raise
    raise InputError(
        f"Ray did not start on this machine in {_STARTS} tries of 30 s; it may be too busy: try again when less runs, "
        "or join a cluster by cluster.address"
    )


def _join(address: str) -> None:
    try:
        ray.init(address=address, logging_level=logging.WARNING)
    except ConnectionError as error:
        raise InputError(
            f"no Ray cluster answers at cluster.address {address!r}; start one with `ray start --head`, or use `local`"
        ) from error


@contextlib.contextmanager
def cluster(config: ClusterConfig) -> Iterator[None]:
    """Join a Ray cluster, or start one that ends with this run; `InputError` where none answers."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    ours = _WATCHER not in os.environ
    try:
        if config.address == "local":
            os.environ.setdefault(_WATCHER, "0")  # this machine is not taken away
            _start(max(os.cpu_count() or 1, config.workers * config.threads))
            os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        else:
            _join(config.address)
        yield
    finally:
        ray.shutdown()
        if config.address == "local":
            os.environ.pop("RAY_ADDRESS", None)
            if ours:
                os.environ.pop(_WATCHER, None)


def refuse_missing_gpus(config: ClusterConfig) -> None:
    """Refuse more workers than this machine has GPUs for."""
    gpus = ray.cluster_resources().get("GPU", 0)
    if config.gpu and config.address == "local" and gpus < config.workers:
        raise InputError(
            f"cluster.gpu asks for {config.workers} GPUs, but this machine has {gpus:g}; set it to false, or join "
            "a cluster by cluster.address"
        )


def wait_for_room(config: ClusterConfig) -> None:
    """Refuse workers that no machine is large enough for, on a cluster unless such a one starts soon."""
    need = {"CPU": config.threads, "GPU": int(config.gpu)}
    machines = (node["Resources"] for node in ray.nodes() if node["Alive"])
    if any(all(machine.get(kind, 0) >= least for kind, least in need.items()) for machine in machines):
        return
    room = f"room for a worker of {need['CPU']} CPU cores{' and a GPU' * config.gpu}"
    if config.address == "local":
        raise InputError(f"this machine has no {room}; set cluster.gpu to false, or join a cluster")
    lack = f"no machine of the cluster has {room}"
    print(f"{lack}: waiting {ROOM_S:.0f} s for one", flush=True)
    group = placement_group([need])  # where machines start on demand, one does
    try:
        if not group.wait(ROOM_S):
            raise InputError(
                f"{lack}, and none started within {ROOM_S:.0f} s; lower cluster.cpus_per_worker"
                f"{', set cluster.gpu to false' * config.gpu}, or add a machine"
            )
    finally:
        remove_placement_group(group)


def train_on_ray(run: "Run", run_id: str, *, relay: Any = None) -> None:
    """Train a prepared run with Ray Train; rank 0 feeds the MLflow run `run_id`.

    A sweep's trial has a `relay`, a callback that hears of every validation; any other run ends with test scores.
    """
    config = run.config.cluster
    threads = config.threads
    with cluster(config):
        refuse_missing_gpus(config)
        wait_for_room(config)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        bell = _Bell.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]  # the decorator's work
        settings = {"folder": str(run.folder), "run_id": run_id, "threads": threads, "bell": bell}
        trainer = TorchTrainer(
            work,
            train_loop_config=settings | {"finishing": relay is None, "cluster": asdict(config)},
            scaling_config=ray.train.ScalingConfig(  # type: ignore[call-arg]  # typed as its predecessor
                num_workers=(config.min_workers, config.workers) if config.min_workers else config.workers,  # type: ignore[arg-type]
                use_gpu=config.gpu,
                resources_per_worker={"CPU": threads},  # and, with use_gpu, one GPU
                elastic_resize_monitor_interval_s=_RESIZE_S,
            ),
            torch_config=_HeedingTorchConfig(),
            run_config=ray.train.RunConfig(  # type: ignore[call-arg]
                name="ray",
                storage_path=str(run.folder),
                callbacks=[] if relay is None else [relay],
                failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
                logging_config=ray.train.LoggingConfig(log_level="WARNING"),
            ),
        )
        failures: list[BaseException] = []

        def fit_in_thread() -> None:
            try:
                trainer.fit()
            except BaseException as error:
                failures.append(error)

        # In the main thread, Ray would take over Ctrl-C and end without a checkpoint.
        thread = threading.Thread(target=fit_in_thread, daemon=True)
        with on_interrupt(lambda: ray.get(bell.ring.remote())):
            thread.start()
            while thread.is_alive():
                thread.join(0.2)
        if (refused := ray.get(bell.refusal.remote())) is not None:
            raise InputError(refused)
        if failures:
            raise failures[0]
