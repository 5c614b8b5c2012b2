"""One rank of a group of workers: the loop, with Ray's ranks, device and stops around it.

Checkpoints go by our own storage, as without Ray, to the run's folder, which every worker must reach anyhow. Ray's
would count one only once its controller has asked for it.
"""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray
import ray.train
import ray.train.collective
import torch
from ray.train.torch import get_device

from pipeline.checkpoints.checkpoint import Meta, Snapshot, latest_checkpoint
from pipeline.checkpoints.storage import Store, stored_behind
from pipeline.config import ClusterConfig
from pipeline.run import Run
from pipeline.tracking.gauges import Gauges
from pipeline.tracking.journal import Journal
from pipeline.training.context import Context
from pipeline.training.finish import finish, map_best
from pipeline.training.loop import fit


def train_rank(settings: dict[str, Any], noticed: Callable[[], bool]) -> None:
    """Train by the settings of `pipeline.training.worker.work`; `noticed` tells whether this process is to go."""
    logging.getLogger("ray.train").setLevel(logging.WARNING)  # else every report is announced between our lines
    ranks = ray.train.get_context()
    torch.set_num_threads(settings["threads"])
    run = Run.open(settings["folder"])
    run = replace(run, config=replace(run.config, cluster=ClusterConfig(**settings["cluster"])))
    context = Context(
        rank=ranks.get_world_rank(),
        world=ranks.get_world_size(),
        device=get_device(),
        interrupted=lambda: noticed() or ray.get(settings["bell"].is_rung.remote()),
        leaving=lambda: ray.train.get_preemption_info() is not None,
    )
    newest = latest_checkpoint(run.checkpoints) if context.rank == 0 else None
    context.resume = ray.train.collective.broadcast_from_rank_zero(newest)
    told = (lambda store: store) if settings["finishing"] else _told
    if context.rank != 0:
        context.store = told(context.store)
        outcome = fit(run, context)
        if settings["finishing"] and not outcome.interrupted:
            map_best(run, outcome, context.device)
        return
    with contextlib.closing(Journal.open(run, settings["run_id"])) as journal:
        context.listener = Gauges(journal, run.config.name)
        with stored_behind(run.checkpoints) as store:
            context.store = told(store)
            outcome = fit(run, context)
        if settings["finishing"]:
            finish(run, outcome, journal, context.device)


def _told(store: Store) -> Store:
    """Report each checkpoint to Ray too, on every rank at once, for those who listen."""

    def both(snapshot: Snapshot | None, meta: Meta) -> None:
        store(snapshot, meta)
        ray.train.report({"step": meta.step, "score": meta.score})

    return both
