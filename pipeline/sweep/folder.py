"""The folder of a sweep."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets.errors import InputError
from pipeline.checkpoints.checkpoint import all_checkpoints
from pipeline.config import RunConfig
from pipeline.recipe import dump_recipe, load_recipe
from pipeline.run import write_whole
from pipeline.tracking.store import lacks_file, store_uri
from pipeline.tracking.tracker import must_know
from pipeline.training.prepare import check_place
from pipeline.training.train import check_unchanged, put_back

_FREE = ("cluster.address", "runs")
"""Settings that a resumed sweep may change without making its trials others."""


def has_result(folder: Path) -> bool:
    """Tell whether a trial has a checkpoint."""
    return any(all_checkpoints(trial / "checkpoints") for trial in folder.glob("trial-*"))


def _is_sweep(folder: Path) -> bool:
    return (folder / "sweep.json").is_file() or (folder / "tune").is_dir()


@contextmanager
def sweep_folder(folder: Path, *, resume: bool, overwrite: bool) -> Iterator[None]:
    """Keep the sweep that is to be replaced until the new one has a result; without one, put it back.

    A folder in the way or of no sweep is refused, and so is going on with none.
    """
    old = folder.with_name(f".{folder.name}.replaced")
    if resume:
        if overwrite:
            raise InputError("--resume and --overwrite contradict each other; give one of them")
        if not (folder / "sweep.json").is_file():
            raise InputError(f"--resume: there is no sweep at {folder}; start it without --resume")
    else:
        ours = _is_sweep(folder) or not folder.exists() or not any(folder.iterdir())
        if old.exists() and ours and not has_result(folder):  # the driver that replaced it was killed
            put_back(old, folder)
        check_place(folder, "sweep", is_one=_is_sweep(folder), overwrite=overwrite)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        folder.mkdir(parents=True)
    try:
        yield
    finally:
        if has_result(folder):
            shutil.rmtree(old, ignore_errors=True)
        elif not resume and (old.exists() or not (folder / "tune").is_dir()):
            put_back(old, folder)


def begin(folder: Path, config: RunConfig, state: dict[str, Any]) -> None:
    """Write down what a resumed sweep needs: recipe, and `state`, with MLflow run and planned memory."""
    write_whole(folder / "config.yaml", dump_recipe(config))
    (folder / "sweep.json").write_text(json.dumps(state, indent=1))


def started_with(folder: Path, config: RunConfig) -> str | None:
    """Return the MLflow store of a sweep that goes on: its own, or another that knows it by now."""
    if not (folder / "sweep.json").is_file():
        return config.tracking.uri  # `sweep_folder` refuses what is no sweep
    known = str(load_recipe(folder / "config.yaml").tracking.uri)
    said = store_uri(config.tracking.uri, folder.parent)
    if said == known or (config.tracking.uri is None and not lacks_file(known)):
        return known
    must_know(said, json.loads((folder / "sweep.json").read_text())["run_id"], f"sweep of {folder}", known)
    for recipe in (folder / "config.yaml", *folder.glob("trial-*/config.yaml")):
        before = load_recipe(recipe)
        write_whole(recipe, dump_recipe(replace(before, tracking=replace(before.tracking, uri=said))))
    for tracking in folder.glob("trial-*/tracking.json"):
        write_whole(tracking, json.dumps(json.loads(tracking.read_text()) | {"uri": said}, indent=1))
    return said


def reopen(folder: Path, config: RunConfig) -> dict[str, Any]:
    """Return the state that `begin` wrote; another recipe than the sweep's is refused."""
    check_unchanged(folder, load_recipe(folder / "config.yaml"), config, _FREE)
    return json.loads((folder / "sweep.json").read_text())
