"""The training loop in plain torch: resumable at any step, the same with and without Ray."""

import math
import resource
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from datasets.errors import InputError
from datasets.samples.blocks import seen_sizes
from datasets.samples.loader import Loader
from models.segmenter import Segmenter
from models.watch import GridOverflowError, Watch
from pipeline.planning.turns import stream_of
from pipeline.ranks.slabs import ALONE, Place, take_place
from pipeline.run import Run
from pipeline.scoring.validation import Known, validate
from pipeline.tracking.reading import ReadingMeter
from pipeline.training.context import Clock, Context
from pipeline.training.state import UNSCORED, Progress, Training
from pipeline.training.step import DivergedError, StepResult, train_step


@dataclass(frozen=True)
class Outcome:
    """How the loop ended."""

    progress: Progress
    interrupted: bool  # whether it was asked to stop
    model: nn.Module  # with the last weights
    place: Place = ALONE


def new_segmenter(run: Run) -> Segmenter:
    """Make a run's network with fresh weights from its seed."""
    torch.manual_seed(run.config.training.seed)
    prepared, kept = run.prepared, run.config.network.kept_hidden  # which a run that goes on may change
    network = replace(prepared.segmenter.network, kept_hidden=kept)
    config = replace(prepared.segmenter, network=network)
    segmenter = Segmenter(config, torch.from_numpy(prepared.mean), torch.from_numpy(prepared.deviation))
    segmenter.network.stream = stream_of(run.config.cluster)
    return segmenter


def peak_memory(device: torch.device) -> float:
    """Return this process' peak memory in MiB: the allocator's on CUDA, resident on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def fit(run: Run, context: Context, build: Callable[[Run], nn.Module] = new_segmenter) -> Outcome:
    """Train a prepared run to its end, to early stopping, or to an interruption.

    `build` makes the network: the telegraph network unless a baseline is compared.
    """
    config, recipe = run.config, run.config.training
    training = Training(run, context, build)
    progress = training.progress
    place = take_place(context.rank, context.world, config.cluster.slabs)
    sizes = seen_sizes(run.volume.shape, config.data.block, config.data.halo)
    weights = torch.tensor(run.prepared.weights, dtype=torch.float32, device=context.device)
    loader = Loader(
        run.volume,
        run.split,
        config.data,
        factor=int(getattr(training.model, "factor", 1)),
        batch=recipe.batch,
        micro_batch=recipe.micro_batch,
        seed=recipe.seed,
        augment_until=recipe.augment_until if recipe.augment else 0,
        workers=config.cluster.loader_workers,
        prefetch_bytes=config.cluster.prefetch_bytes,
        rank=place.group,
        world=place.groups,
        rows=None if place.slab is None else place.slab.rows(training.model, sizes[0]),
    )
    clock, spoken = Clock(progress.step, recipe.steps), -math.inf
    meter = ReadingMeter(loader, run.volume.traffic)
    result: StepResult | None = None
    score, noticed, holding = progress.best_score, False, Known()
    with closing(loader.steps(progress.step, recipe.steps)) as steps:
        for samples in steps:
            if recipe.patience and progress.stale >= recipe.patience:
                break
            training.model.train()
            started = time.perf_counter()
            try:
                result = train_step(
                    training.model,
                    training.optimiser,
                    samples,
                    weights,
                    micro_batch=recipe.micro_batch,
                    clip=recipe.clip,
                    slab=place.slab,
                    interrupted=context.interrupted(),
                    leaving=context.leaving(),
                )
            except GridOverflowError as error:
                raise InputError(f"step {progress.step + 1}: {error}; earlier checkpoints are kept") from error
            except DivergedError as error:
                raise InputError(f"step {progress.step + 1}: {error}; {training.way_out()}") from error
            rate = float(training.schedule.get_last_lr()[0])
            training.schedule.step()
            progress.step += 1
            seconds = time.perf_counter() - started
            meter.step(seconds)
            values: dict[str, float] = {
                "loss": result.loss,
                "gradient_norm": result.gradient_norm,
                "rate": rate,
                "seconds": seconds,
                "voxels_per_second": math.prod(sizes) * recipe.batch / seconds,
                "waiting_share": meter.waiting_share,
                "epoch": loader.order.epochs(progress.step * recipe.batch),
                "peak_memory_mib": peak_memory(context.device),
                "workers": context.world,
            }
            watch: Watch | None = getattr(training.model, "watch", None)
            if watch is not None and watch.error is not None:
                values["inversion_error"] = float(watch.error)
                watch.warn_of_drift()
            due = progress.step % recipe.validate_every == 0 or progress.step == recipe.steps
            if due:
                found, _ = validate(training.model, run, context.device, known=holding, place=place)
                for name in ("miou", "oa", "aa", "kappa"):
                    values[f"validation/{name}"] = float(np.nan_to_num(getattr(found, name)))
                score = values["validation/miou"]
                training.judge(score)
            if due or result.interrupted:
                values |= meter.report(context.device)
            if context.rank == 0:
                context.listener.metrics(progress.step, values)
                left = clock.left(progress.step)
                if due or time.perf_counter() - spoken > 10:
                    spoken = time.perf_counter()
                    shown = f"validation mIoU {score:.3f}" if math.isfinite(score) else "not validated yet"
                    context.listener.progress(
                        f"step {progress.step}/{recipe.steps}  loss {result.loss:.4f}  {shown}  "
                        f"{seconds:.2f} s a step  {left} left"
                    )
            if due or result.interrupted or (result.leaving and not noticed):
                training.save(score if due else UNSCORED)
            noticed = result.leaving
            if result.interrupted:
                break
    interrupted = result is not None and result.interrupted
    return Outcome(progress, interrupted, training.model, place)
