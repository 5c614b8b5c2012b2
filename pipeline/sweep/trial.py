"""One trial of a sweep, in Tune's own process or by Ray Train on workers; it never sees the test part."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import ray.tune
import torch
from ray.tune.integration.ray_train import TuneReportCallback

from datasets.errors import InputError
from pipeline.checkpoints.checkpoint import Meta, Snapshot, latest_checkpoint, read_meta, whole_checkpoints
from pipeline.checkpoints.storage import stored_behind
from pipeline.config import RunConfig
from pipeline.refusal import refusal
from pipeline.run import Run
from pipeline.sweep.space import Choice, Cost, trial_config, trial_cost
from pipeline.tracking.gauges import Gauges
from pipeline.tracking.journal import Journal, measured_peak, read_history
from pipeline.tracking.tracker import Tracker
from pipeline.training.context import Context
from pipeline.training.loop import fit
from pipeline.training.prepare import prepare
from pipeline.training.train import open_tracking

REFUSED = "refused.txt"
"""Why a trial cannot go on: Tune tries again one that fails, and cannot tell who was lost."""
_TRIES, _AGAIN_S = 30, 10.0


def trial_name(trial_id: str) -> str:
    """Name a trial's run and folder, and Ray's for its logs."""
    return f"trial-{trial_id}"


class _Gauge:
    def __init__(self, run: Run, cost: Cost, run_id: str) -> None:
        reached = [read_meta(path) for path in whole_checkpoints(run.checkpoints)]
        self.first = reached[-1].step if reached else 0
        self.best = max((meta.score for meta in reached), default=-1.0)
        self.run, self.cost, self.run_id = run, cost, run_id

    def read(self, step: int, score: float) -> dict[str, Any]:
        self.best = max(self.best, score)
        return {
            "score": self.best,
            "step": step,
            "time": median(row["seconds"] for row in read_history(self.run)),
            **asdict(self.cost),
            "peak": measured_peak(self.run),
            "run_id": self.run_id,
        }


class _Relay(TuneReportCallback):
    def __init__(self, gauge: _Gauge) -> None:
        super().__init__()
        self.gauge = gauge

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        super().after_report(run_context, [self.gauge.read(metrics[0]["step"], metrics[0]["score"])], None)


def run_trial(choice: Choice, *, config: RunConfig, folder: str, parent: str) -> None:
    """Train a choice; recipe, folder and MLflow run are the sweep's."""
    place = Path(folder) / trial_name(ray.tune.get_context().get_trial_id())
    if (place / REFUSED).is_file():
        raise InputError((place / REFUSED).read_text())
    known = (place / "prepared.json").is_file()
    run = Run.open(place) if known else prepare(trial_config(config, choice, place.name, folder))
    run_id = _patiently(lambda: open_tracking(run, parent=parent))
    tags = Tracker(run.tracking_uri, run_id, run.outbox)
    for name, value in choice.items():
        tags.tag(f"sweep.{name}", str(value))
    tags.close()
    gauge = _Gauge(run, trial_cost(run.config, run.volume), run_id)
    try:
        if run.config.cluster.workers:
            from pipeline.training.worker import train_on_ray

            train_on_ray(run, run_id, relay=_Relay(gauge))
        else:
            _train_here(run, gauge, config.sweep.gpus)
        newest = latest_checkpoint(run.checkpoints)
        if newest is not None and read_meta(newest).step == gauge.first:
            # It ended before the driver was killed; without a report Tune would not count it.
            ray.tune.report(gauge.read(gauge.first, gauge.best))
    except Exception as error:
        Tracker(run.tracking_uri, run_id, run.outbox).end("FAILED")
        text = refusal(error)
        if text is None and run.config.cluster.workers:
            text = f"{type(error).__name__}: {error}"  # Ray Train has tried again already
        if text is not None:
            with contextlib.suppress(OSError):  # the disk may be what it complains of
                run.write_text(REFUSED, text)
        raise
    Tracker(run.tracking_uri, run_id, run.outbox).end("FINISHED")


def _patiently(work: Callable[[], str]) -> str:
    """Wait for an MLflow that is away: a trial that cannot be entered there would be lost."""
    for _ in range(_TRIES - 1):
        try:
            return work()
        except InputError as error:
            print(f"{error}; trying again", flush=True)
            time.sleep(_AGAIN_S)
    return work()


def _train_here(run: Run, gauge: _Gauge, gpus: float) -> None:
    torch.set_num_threads(run.config.cluster.cpus_per_worker)
    device = torch.device("cuda" if run.config.cluster.gpu else "cpu")
    if device.type == "cuda" and gpus < 1:
        torch.cuda.set_per_process_memory_fraction(gpus)  # nobody takes a neighbour's memory
    resume = latest_checkpoint(run.checkpoints)
    with contextlib.closing(Journal.open(run, gauge.run_id)) as journal, stored_behind(run.checkpoints) as keep:

        def store(snapshot: Snapshot | None, meta: Meta) -> None:
            keep(snapshot, meta)
            journal.tracker.flush()
            ray.tune.report(gauge.read(meta.step, meta.score))

        fit(run, Context(device=device, resume=resume, store=store, listener=Gauges(journal, run.config.name)))
