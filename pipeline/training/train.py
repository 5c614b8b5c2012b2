"""The driver of a training run: prepare, open the MLflow run, train with or without Ray, close."""

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from datasets.errors import InputError
from datasets.provenance import code_version
from datasets.storage.journal import locked
from pipeline.checkpoints.checkpoint import all_checkpoints, latest_checkpoint
from pipeline.checkpoints.storage import stored_behind
from pipeline.config import RunConfig
from pipeline.masking import without_secrets
from pipeline.planning.memory import check_training, check_workers
from pipeline.recipe import dump_recipe
from pipeline.run import Run
from pipeline.tracking.journal import Journal
from pipeline.tracking.reading import reading_in_words
from pipeline.tracking.session import note_start
from pipeline.tracking.store import where_to_look
from pipeline.tracking.tracker import Status, Tracker, connect, create_run, must_know
from pipeline.training.context import Context
from pipeline.training.finish import finish
from pipeline.training.interrupt import asked_to_stop
from pipeline.training.loop import fit
from pipeline.training.prepare import check_place, prepare

_FREE = (
    "cluster.",
    "tracking.",
    "sweep.",
    "runs",
    "network.kept_hidden",
    "training.memory",
    "training.rate",
    "training.clip",
)
"""Settings that a resumed run may change: the last two are what helps against a loss of nan."""


class Interrupted(KeyboardInterrupt):
    """The run stopped because somebody asked it to, and left a checkpoint."""


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def open_tracking(run: Run, *, parent: str | None = None) -> str:
    """Create the MLflow run of a prepared run, or reopen its own; returns its id."""
    config, uri = run.config, run.tracking_uri
    known = run.read("tracking.json").get("run_id")
    if known:
        Tracker(uri, known, run.outbox).reopen()
        return str(known)
    run_id = create_run(
        uri,
        config.tracking.experiment or config.name,
        config.name,
        parameters=flatten(asdict(config)),
        tags={
            "code_version": code_version(),
            "volume_digest": run.prepared.volume_digest,
            "split_digest": run.prepared.split_digest,
            "folder": str(run.folder),
            "torch": torch.__version__,
            "machine": platform.platform(),
        },
        artifacts=run.folder.parent / "mlartifacts",
        parent=parent,
    )
    run.write("tracking.json", {"uri": uri, "run_id": run_id})
    with tempfile.TemporaryDirectory() as aside:
        recipe = Path(aside) / "config.yaml"
        recipe.write_text(without_secrets(dump_recipe(config)))
        Tracker(uri, run_id).artifact(recipe)
    return run_id


def check_unchanged(folder: Path, before: RunConfig, config: RunConfig, free: tuple[str, ...]) -> None:
    """Refuse to go on by another recipe; settings whose names begin as in `free` may change."""
    then, now = flatten(asdict(before)), flatten(asdict(config))
    changed = [key for key in now.keys() | then.keys() if now.get(key) != then.get(key) and not key.startswith(free)]
    if changed:
        key = min(changed)
        raise InputError(
            f"--resume: {key} is {now.get(key)!r} but {folder} was started with {then.get(key)!r}; "
            "repeat the recipe it was started with, or choose another --name"
        )


def _reopen(config: RunConfig) -> Run:
    run = Run.open(Path(config.runs) / config.name)
    check_unchanged(run.folder, run.config, config, _FREE)
    tracking = replace(run.config.tracking, uri=_known_to(config.tracking.uri, run))
    new = replace(run.config, network=config.network, training=config.training, tracking=tracking)
    is_new, run = new != run.config, replace(run, config=replace(new, cluster=config.cluster))
    if is_new:
        run.write_text("config.yaml", dump_recipe(run.config))  # what the workers read
    return run


def _known_to(uri: str | None, run: Run) -> str | None:
    run_id = run.read("tracking.json").get("run_id")
    if uri is None or uri == run.tracking_uri or run_id is None:
        return run.config.tracking.uri
    must_know(uri, run_id, f"run of {run.folder}", run.tracking_uri)
    run.write("tracking.json", {"uri": uri, "run_id": run_id})
    return uri


def absolute(config: RunConfig) -> RunConfig:
    """Make local paths absolute, and name the MLflow store: workers have another current folder and environment.

    Runs that would go into what Ray has unpacked for a job, which only one node has, are refused.
    """
    if any(part.startswith("_ray_pkg_") for part in Path(config.runs).resolve().parts):
        raise InputError(
            f"runs is {config.runs!r}, which lies in this job's upload, where Ray deletes it; give a folder that "
            "every node reaches and that stays, such as --runs /shared/runs"
        )
    source = config.data.source
    if source and "://" not in source:
        source = str(Path(source).resolve())
    uri = config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
    return replace(config, data=replace(config.data, source=source), tracking=replace(config.tracking, uri=uri))


def _announce(run: Run, interrupted: bool) -> None:
    if interrupted:
        step = run.read("outcome.json").get("step")
        print(f"stopped at step {step} with a checkpoint; go on with the same command and --resume")
        return
    found = run.read("metrics.json")
    print(
        f"test part: OA {found['test/oa']:.3f}  AA {found['test/aa']:.3f}  kappa {found['test/kappa']:.3f}  "
        f"mIoU {found['test/miou']:.3f}  (checkpoint of step {found['best_step']})"
    )
    print(f"split:       {found['leaks']}")
    if found.get("reading"):
        print(f"reading:     {reading_in_words(found['reading'])}")
    print(f"run folder:  {run.folder}")
    print(f"pictures:    {run.pictures}")
    print(f"report:      {run.folder / 'report.html'}")
    print(f"MLflow:      {where_to_look(run.tracking_uri)}")


def train(config: RunConfig, *, resume: bool = False, overwrite: bool = False) -> Run:
    """Train a recipe from start to end; returns the finished run.

    `InputError` or `ConfigError` before any work starts, where recipe, volume, run folder or tracking store do not fit;
    `Interrupted` where somebody asked the run to stop.
    """
    config = absolute(config)
    check_workers(config, config.training.batch, "training.batch")
    if config.cluster.gpu and config.cluster.workers == 0 and not torch.cuda.is_available():
        raise InputError("cluster.gpu is true but torch finds no CUDA device here; set it to false")
    if config.tracking.uri and not resume:  # what a run that goes on has for MLflow can wait
        connect(config.tracking.uri)
    folder = (Path(config.runs) / config.name).resolve()
    with alone(folder), _old_run_kept(folder, resume=resume, overwrite=overwrite):
        if resume:
            run = _reopen(config)
            if check_training(run.config, run.volume, run.prepared.tiling) != run.prepared.tiling:
                raise InputError(
                    f"{run.folder} maps its volume in one piece, which no longer fits; go on with more memory, or "
                    "train again under another --name"
                )
        else:
            run = prepare(config)
            if run.prepared.tiling is not None:
                print(f"the whole volume does not fit: validated and tested in {run.prepared.tiling}", flush=True)
        interrupted = _work(run)
    _announce(run, interrupted)
    if interrupted:
        raise Interrupted
    return run


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let no other process of this machine work on a run's or a sweep's folder meanwhile."""
    lock, first = folder.with_name(f".{folder.name}.training"), not folder.parent.exists()
    with locked(lock, folder):
        try:
            yield
        finally:
            shutil.rmtree(lock, ignore_errors=True)
            if first:
                with suppress(OSError):  # a run that was refused leaves no folder of runs
                    folder.parent.rmdir()


def put_back(old: Path, folder: Path) -> None:
    """Remove a folder, and put back the one, if any, that it was to replace."""
    shutil.rmtree(folder, ignore_errors=True)
    if old.exists():
        old.rename(folder)


@contextmanager
def _old_run_kept(folder: Path, *, resume: bool, overwrite: bool) -> Iterator[None]:
    """Keep the run that is to be replaced until the new one has a checkpoint; without one, put it back."""
    old, checkpoints = folder.with_name(f".{folder.name}.replaced"), folder / "checkpoints"
    is_run = (folder / "prepared.json").is_file()
    if old.exists() and ((is_run and overwrite) or not folder.exists()) and not all_checkpoints(checkpoints):
        put_back(old, folder)  # whoever wanted to replace the old run was killed
        is_run = True
    if not resume:
        check_place(folder, "run", is_one=is_run, overwrite=overwrite)
        if is_run:
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
    try:
        yield
    finally:
        if all_checkpoints(checkpoints):
            shutil.rmtree(old, ignore_errors=True)
        elif not resume:
            put_back(old, folder)


def train_here(run: Run, run_id: str) -> None:
    """Train a prepared run in this process, and feed the MLflow run `run_id`."""
    resume = latest_checkpoint(run.checkpoints)
    journal = Journal.open(run, run_id)
    before = torch.get_num_threads()
    torch.set_num_threads(min(run.config.cluster.cpus_per_worker, os.cpu_count() or 1) or before)
    try:
        with asked_to_stop() as asked:
            with stored_behind(run.checkpoints) as store:
                context = Context(
                    device=torch.device("cuda" if run.config.cluster.gpu else "cpu"),
                    resume=resume,
                    store=store,
                    interrupted=asked.is_set,
                    listener=journal,
                )
                outcome = fit(run, context)
            finish(run, outcome, journal, context.device)
    finally:
        journal.close()
        torch.set_num_threads(before)


def _work(run: Run) -> bool:
    note_start(run)
    run_id = open_tracking(run)
    status: Status = "FAILED"
    try:
        if run.config.cluster.workers:
            from pipeline.training.worker import train_on_ray

            train_on_ray(run, run_id)
        else:
            train_here(run, run_id)
        status = "KILLED" if run.read("outcome.json").get("interrupted") else "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        Tracker(run.tracking_uri, run_id, run.outbox).end(status)
    return status == "KILLED"
