"""Sweeps with Ray Tune: Optuna's TPE chooses, the planner refuses, ASHA stops the weak, MLflow keeps all."""

import json
import os
import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # else Ctrl-C looks like the end of the sweep
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "2")  # what a killed driver forgets, at most
os.environ.setdefault("RAY_DEDUP_LOGS", "0")

import ray
import ray.tune
import torch

from datasets.provenance import code_version
from datasets.volume import Volume
from pipeline.amount import show_bytes
from pipeline.config import RunConfig
from pipeline.run import OUTBOX
from pipeline.sweep.folder import begin, reopen, started_with, sweep_folder
from pipeline.sweep.halving import Halving
from pipeline.sweep.results import check_best, finish_best, report
from pipeline.sweep.searcher import Search
from pipeline.sweep.shares import check_shares, memory_of_trial, trial_share, trials_at_once
from pipeline.sweep.space import check_space, smallest, trial_config, why_not
from pipeline.sweep.trial import REFUSED, run_trial, trial_name
from pipeline.tracking.store import store_uri
from pipeline.tracking.tracker import Status, Tracker, connect, create_run
from pipeline.training.interrupt import handled
from pipeline.training.prepare import prepare
from pipeline.training.train import absolute, alone, flatten
from pipeline.training.worker import cluster
from pipeline.trials import DIRECTIONS, TURNED_AWAY, Row, forget_trials, in_words


class _Closer(ray.tune.Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        found = trial.last_result
        ending = f"validation mIoU {found.get('score', 0):.3f} after {found.get('step', 0)} steps"
        self._close(trial, ending, "FINISHED")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._close(trial, "failed", "FAILED")

    def _close(self, trial: Any, ending: str, status: Status) -> None:
        print(f"{_name(trial)}  {in_words(trial.config)}:  {ending}", flush=True)
        _close_trial(self.folder / _name(trial), status)


def _name(trial: Any) -> str:
    return trial_name(trial.trial_id)


def _close_trial(place: Path, status: Status, *, only_running: bool = False) -> None:
    path = place / "tracking.json"
    if not path.is_file():
        return
    known = json.loads(path.read_text())
    uri, run_id = known["uri"], known["run_id"]
    try:
        if not only_running or connect(uri).get_run(run_id).info.status == "RUNNING":
            Tracker(uri, run_id).end(status)
    except Exception:  # MLflow is away, which must not end the sweep
        if not only_running:
            Tracker(uri, run_id, place / OUTBOX).end(status)


def _collect(results: Any) -> tuple[list[Row], list[str]]:
    rows, failed = [], []
    for result in results:
        if result.error is not None:
            failed.append(str(result.error))
        elif result.metrics and "run_id" in result.metrics:
            kept = {name: result.metrics[name] for name in (*DIRECTIONS, "step", "run_id")}
            rows.append({"choice": result.config, "trial": Path(result.path).name, **kept})
    return rows, failed


def tune(config: RunConfig, *, resume: bool = False, overwrite: bool = False, finish: bool = False) -> list[Row]:
    """Run a sweep on the validation part, and print and return its trials, best first.

    With `finish` the best is retrained, scored once on the test part, which stays unseen otherwise, and registered. A
    recipe that cannot work is an `InputError` or a `ConfigError` before any trial starts.
    """
    config = absolute(config)
    check_space(config)
    check_shares(config)
    Volume.open(config.data)  # refused before anything is made
    folder = (Path(config.runs) / f"{config.name}-sweep").resolve()
    with alone(folder):
        uri = store_uri(started_with(folder, config) if resume else config.tracking.uri, folder.parent)
        experiment = config.tracking.experiment or config.name
        config = replace(config, tracking=replace(config.tracking, uri=uri, experiment=experiment))
        if finish:
            check_best(config, resume=resume, overwrite=overwrite)
        with sweep_folder(folder, resume=resume, overwrite=overwrite):
            state = reopen(folder, config) if resume else _begin(config, folder)
            tracker = partial(Tracker, uri, state["run_id"], folder / OUTBOX)
            rows = _search(_within(config, state["memory"]), folder, tracker())
    if finish:
        finish_best(config, rows[0], tracker(), resume=resume, overwrite=overwrite)
    return rows


def _begin(config: RunConfig, folder: Path) -> dict[str, Any]:
    at_once = 1
    if config.cluster.address == "local":
        cores = max(os.cpu_count() or 1, max(config.cluster.workers, 1) * (config.cluster.cpus_per_worker or 1))
        at_once = trials_at_once(config, {"CPU": cores, "GPU": torch.cuda.device_count()})
    if memory := memory_of_trial(config, at_once):
        size, known = memory.size, f"{show_bytes(memory.size)} {memory.where}"
    else:
        size, known = None, "nobody here knows; give --training.memory, and what cannot fit is turned away"
    planned = _within(config, size)
    print(f"memory of a trial's worker: {known}")
    choice = smallest(planned, Volume.open(config.data))
    shutil.rmtree(prepare(trial_config(planned, choice, "checked", folder)).folder)
    sweep = config.sweep
    searched = sweep.domains | {"trials": sweep.trials, "objectives": sweep.objectives}
    run_id = create_run(
        str(config.tracking.uri),
        str(config.tracking.experiment),
        folder.name,
        parameters=flatten({"sweep": searched}),
        tags={"folder": str(folder)},
        artifacts=folder.parent / "mlartifacts",
    )
    state = {"run_id": run_id, "memory": size, "code": code_version()}
    begin(folder, config, state)
    return state


def _within(config: RunConfig, memory: int | None) -> RunConfig:
    if memory is None:
        return config
    return replace(config, training=replace(config.training, memory=f"{memory / 1e6:.6f}MB"))


def _search(config: RunConfig, folder: Path, tracker: Tracker) -> list[Row]:
    status: Status = "FAILED"
    Tracker(tracker.uri, tracker.run_id).reopen()
    forget_trials(folder)
    for refused in folder.glob(f"trial-*/{REFUSED}"):
        refused.unlink()  # what it says may have been put right
    try:
        # SIGTERM, as `ray job stop` sends it, ends the sweep as Ctrl-C does.
        with cluster(config.cluster), handled(signal.default_int_handler, signal.SIGTERM):
            results = _tuner(config, folder, tracker.run_id).fit()
        rows = report(config, folder, tracker, *_collect(results))
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        print("the sweep stopped; go on with the same command and --resume")
        raise
    finally:
        for place in folder.glob("trial-*"):
            _close_trial(place, "KILLED", only_running=True)
        tracker.end(status)
    return rows


def _tuner(config: RunConfig, folder: Path, parent: str) -> ray.tune.Tuner:
    sweep, place = config.sweep, folder / "tune"
    trial = ray.tune.with_parameters(run_trial, config=config, folder=str(folder), parent=parent)
    trainable = ray.tune.with_resources(trial, trial_share(config))
    if ray.tune.Tuner.can_restore(str(place)):
        return ray.tune.Tuner.restore(str(place), trainable, resume_unfinished=True, resume_errored=True)
    search = Search(
        sweep.domains,
        {name: DIRECTIONS[name] for name in sweep.objectives},
        config.training.seed,
        partial(why_not, config, Volume.open(config.data)),
        folder / TURNED_AWAY,
    )
    return ray.tune.Tuner(
        trainable,
        tune_config=ray.tune.TuneConfig(
            num_samples=sweep.trials,
            search_alg=search,
            scheduler=Halving(config, folder) if sweep.stops_early else None,
            max_concurrent_trials=trials_at_once(config, ray.cluster_resources()),
            trial_dirname_creator=_name,
        ),
        run_config=ray.tune.RunConfig(
            name=place.name,
            storage_path=str(folder),
            verbose=0,
            callbacks=[_Closer(folder)],
            failure_config=ray.tune.FailureConfig(max_failures=config.cluster.max_failures),
        ),
    )
