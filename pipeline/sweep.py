"""Sweeps with Ray Tune: depth, levels and block rank, by Optuna's TPE, with ASHA ending the weak trials early."""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray.tune
import torch
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch

from datasets.errors import InputError
from models.config import hourglass
from pipeline.checkpoint import Meta, Snapshot, latest_checkpoint
from pipeline.config import ClusterConfig, RunConfig, SweepConfig
from pipeline.context import Context
from pipeline.journal import Journal
from pipeline.loop import fit, new_segmenter
from pipeline.pictures import draw_trials
from pipeline.prepare import prepare
from pipeline.run import Run
from pipeline.storage import directory_storage
from pipeline.tracking import Tracker, connect, create_run
from pipeline.train import absolute, open_tracking
from pipeline.worker import cluster


def trial_recipe(config: RunConfig, folder: Path, name: str, choice: dict[str, int]) -> RunConfig:
    """Make the recipe of one trial: the base recipe with an hourglass of the chosen depth, rank and levels."""
    layers = hourglass(choice["depth"], choice["rank"], choice["levels"])
    network = replace(config.network, layers=layers)
    return replace(config, name=name, runs=str(folder), network=network, cluster=ClusterConfig(workers=0))


def run_trial(choice: dict[str, int], *, config: RunConfig, folder: str, parent: str, threads: int) -> None:
    """Train one trial in its own process and report every validation to Ray Tune.

    Parameters
    ----------
    choice
        ``depth``, ``rank`` and ``levels``.
    config
        The base recipe.
    folder
        Folder of the sweep's runs.
    parent
        MLflow run of the sweep.
    threads
        CPU cores of the trial.
    """
    torch.set_num_threads(threads)
    name = "trial-" + ray.tune.get_context().get_trial_id()
    recipe = trial_recipe(config, Path(folder), name, choice)
    resumed = (Path(folder) / name / "prepared.json").is_file()
    run = Run.open(Path(folder) / name) if resumed else prepare(recipe)
    run_id = open_tracking(run, parent=parent)
    journal, keep, began = Journal.open(run, run_id), directory_storage(run.checkpoints), time.perf_counter()
    best = 0.0
    parameters = 0

    def store(snapshot: Snapshot | None, meta: Meta) -> None:
        nonlocal best
        keep(snapshot, meta)
        best = max(best, meta.score)
        journal.tracker.flush()
        ray.tune.report(
            {
                "score": meta.score,
                "best": best,
                "step": meta.step,
                "parameters": parameters,
                "seconds": time.perf_counter() - began,
                "run_id": run_id,
            }
        )

    def build(run: Run) -> torch.nn.Module:
        nonlocal parameters
        model = new_segmenter(run)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        return model

    device = torch.device("cuda" if config.cluster.gpu else "cpu")
    context = Context(device=device, resume=latest_checkpoint(run.checkpoints), store=store, listener=journal)
    fit(run, context, build)
    journal.tracker.end("FINISHED")


def check_space(sweep: SweepConfig) -> None:
    """Refuse a search space that holds impossible networks.

    Raises
    ------
    InputError
        Where a depth cannot reach the levels and return, or a list is empty.
    """
    for name in ("depth", "rank", "levels"):
        values = getattr(sweep, name)
        if not values or min(values) < (0 if name == "levels" else 1):
            raise InputError(f"sweep.{name} is {values}; give at least one value, each positive")
    if sweep.trials < 1:
        raise InputError(f"sweep.trials is {sweep.trials}; it must be 1 or more")
    need = 2 * max(sweep.levels) + 1
    if min(sweep.depth) < need:
        raise InputError(
            f"sweep.depth holds {min(sweep.depth)}, but {max(sweep.levels)} levels and back take at least {need} "
            "layers; raise the depth or lower sweep.levels"
        )


def trials_table(rows: list[dict[str, Any]]) -> str:
    """Lay out the trials, best first, as Markdown."""
    lines = [
        "| depth | rank | levels | parameters | steps | seconds | validation mIoU |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['depth']} | {row['rank']} | {row['levels']} | {row['parameters']:,} | {row['step']} "
            f"| {row['seconds']:.0f} | {row['best']:.3f} |"
        )
    return "\n".join(lines)


def tune(config: RunConfig, *, overwrite: bool = False) -> list[dict[str, Any]]:
    """Run a sweep and print the table of its trials.

    Parameters
    ----------
    config
        The recipe; its ``sweep`` part holds the search space.
    overwrite
        Replace the sweep of this name.

    Returns
    -------
    list of dict
        A row a trial, best validation first.

    Raises
    ------
    InputError, ConfigError
        Where the recipe cannot work, before any trial starts.
    """
    config = absolute(config)
    sweep = config.sweep
    check_space(sweep)
    folder = (Path(config.runs) / f"{config.name}-sweep").resolve()
    uri = config.tracking.uri or f"sqlite:///{folder.parent.resolve() / 'mlflow.db'}"
    experiment = config.tracking.experiment or config.name
    config = replace(config, tracking=replace(config.tracking, uri=uri, experiment=experiment))
    connect(uri)
    smallest = {"depth": min(sweep.depth), "rank": min(sweep.rank), "levels": max(sweep.levels)}
    prepare(trial_recipe(config, folder.parent, folder.name, smallest), overwrite=overwrite)
    parent = create_run(
        uri,
        experiment,
        folder.name,
        parameters={f"sweep.{name}": getattr(sweep, name) for name in ("depth", "rank", "levels", "trials")},
        tags={"folder": str(folder)},
        artifacts=folder.parent / "mlartifacts" if uri.startswith("sqlite:") else None,
    )
    threads = config.cluster.cpus_per_worker or 1
    resources: dict[str, float] = {"CPU": threads, "GPU": 1} if config.cluster.gpu else {"CPU": threads}
    trainable = ray.tune.with_parameters(run_trial, config=config, folder=str(folder), parent=parent, threads=threads)
    tracker = Tracker(uri, parent)
    status = "FAILED"
    try:
        with cluster(config.cluster):
            search: Any = OptunaSearch(metric="score", mode="max", seed=config.training.seed)
            concurrent = sweep.concurrent or max(1, (os.cpu_count() or 1) // threads)
            search = ConcurrencyLimiter(search, max_concurrent=concurrent)
            tuner = ray.tune.Tuner(
                ray.tune.with_resources(trainable, resources),
                param_space={name: ray.tune.choice(getattr(sweep, name)) for name in ("depth", "rank", "levels")},
                tune_config=ray.tune.TuneConfig(
                    num_samples=sweep.trials,
                    search_alg=search,
                    scheduler=ASHAScheduler(
                        time_attr="training_iteration",
                        metric="score",
                        mode="max",
                        grace_period=sweep.grace,
                        reduction_factor=sweep.reduction,
                        max_t=10**6,
                    ),
                ),
                run_config=ray.tune.RunConfig(name="tune", storage_path=str(folder), verbose=1),
            )
            results = tuner.fit()
        rows = []
        for result in (results[number] for number in range(len(results))):
            if result.config and result.metrics and "run_id" in result.metrics:
                rows.append({**result.config, **{k: result.metrics[k] for k in _COLUMNS}})
        rows.sort(key=lambda row: -row["best"])
        for row in rows:
            child = Tracker(uri, row["run_id"])
            child.end("FINISHED")
        if results.errors:
            print(f"{len(results.errors)} of {len(results)} trials failed; their logs are in {folder / 'tune'}")
        if not rows:
            raise RuntimeError(f"no trial reported a score; the first failed with: {results.errors[:1]}")
        table = trials_table(rows)
        (folder / "trials.md").write_text(table + "\n")
        drawn = [{**row, "score": row["best"], "steps": row["step"]} for row in rows]
        draw_trials(drawn, folder / "pictures" / "trials.png")
        tracker.artifact(folder / "trials.md")
        tracker.artifact(folder / "pictures" / "trials.png", "pictures")
        tracker.metrics(0, {"best/score": rows[0]["best"], "trials": len(rows)})
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.end(status)  # type: ignore[arg-type]
    print(table)
    print(f"trials and pictures: {folder}")
    return rows


_COLUMNS = ("score", "best", "step", "parameters", "seconds", "run_id")
