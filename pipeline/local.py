"""Training in this process, without Ray: the same loop, the same folder, the same checkpoints."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from pipeline.checkpoint import Meta, folder_name, keep_best_and_latest, latest_checkpoint
from pipeline.context import Context
from pipeline.finish import finish
from pipeline.interrupt import asked_to_stop
from pipeline.journal import Journal
from pipeline.loop import fit
from pipeline.run import Run


def directory_storage(checkpoints: Path) -> Callable[[Path | None, Meta], None]:
    """Keep checkpoints in a folder: each written aside and renamed, the best and the newest kept."""

    def store(folder: Path | None, meta: Meta) -> None:
        assert folder is not None, "one process has only rank 0"
        aside, place = checkpoints / f".{folder_name(meta.step)}", checkpoints / folder_name(meta.step)
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(folder, aside)
        shutil.rmtree(place, ignore_errors=True)
        aside.rename(place)
        keep_best_and_latest(checkpoints)

    return store


def train_here(run: Run, run_id: str) -> None:
    """Train a prepared run in this process.

    Parameters
    ----------
    run
        The prepared run.
    run_id
        MLflow run that the journal feeds.
    """
    journal = Journal.open(run, run_id)
    before = torch.get_num_threads()
    torch.set_num_threads(run.config.cluster.cpus_per_worker or before)
    with asked_to_stop() as asked:
        context = Context(
            device=torch.device("cuda" if run.config.cluster.gpu else "cpu"),
            resume=latest_checkpoint(run.checkpoints),
            store=directory_storage(run.checkpoints),
            interrupted=asked.is_set,
            listener=journal,
        )
        try:
            finish(run, fit(run, context), journal, context.device)
        finally:
            torch.set_num_threads(before)
