"""What a checkpoint holds and a resumed run needs."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from datasets.errors import InputError
from pipeline.checkpoints.checkpoint import Meta, Snapshot, copied
from pipeline.config import TrainingConfig
from pipeline.ranks.gradient_sum import share_weights
from pipeline.run import Run
from pipeline.training.context import Context
from pipeline.training.step import build_optimiser, rate_factor

UNSCORED = -1.0
"""Score of a checkpoint that an interruption left between two validations."""


@dataclass
class Progress:
    """Early-stopping record and data cursor, in every checkpoint."""

    step: int = 0  # of the optimiser; all ranks together took ``step * training.batch`` samples
    best_score: float = -math.inf  # mean IoU on the validation part
    best_step: int = 0
    stale: int = 0  # validations since then


class Training:
    """Model, optimiser, schedule and record of a run."""

    def __init__(self, run: Run, context: Context, build: Callable[[Run], nn.Module]) -> None:
        self.run, self.context = run, context
        self.model = build(run).to(context.device)
        if context.world > 1:
            share_weights(self.model)
        self.optimiser, self.schedule = build_optimiser(self.model, run.config.training)
        self.progress = Progress()
        if context.resume is not None:
            self._restore(context.resume)

    def _restore(self, folder: Path) -> None:
        device = self.context.device
        self.model.load_state_dict(torch.load(folder / "model.pt", weights_only=True, map_location=device))
        state = torch.load(folder / "training.pt", weights_only=True, map_location="cpu")
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.progress = Progress(**state["progress"])
        self._set_rate(self.run.config.training)
        torch.set_rng_state(state["random"])
        if device.type == "cuda" and state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], device)

    def _set_rate(self, recipe: TrainingConfig) -> None:
        if self.schedule.base_lrs == [recipe.rate]:
            return
        rate = recipe.rate * rate_factor(self.progress.step, recipe)
        self.schedule.base_lrs, self.schedule._last_lr = [recipe.rate], [rate]
        (group,) = self.optimiser.param_groups
        group["initial_lr"], group["lr"] = recipe.rate, rate

    def _state(self) -> dict[str, Any]:
        device = self.context.device
        return {
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "progress": asdict(self.progress),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }

    def save(self, score: float) -> None:
        """Hand a checkpoint with finite weights to the storage; every rank takes part."""
        meta = Meta(self.progress.step, score)
        for name, value in self.model.state_dict().items():
            if not torch.isfinite(value).all():
                raise InputError(f"step {meta.step}: {name} is no longer finite; {self.way_out()}")
        snapshot = None
        if self.context.rank == 0:
            segmenter = self.run.prepared.segmenter.to_json()
            snapshot = Snapshot(meta, copied(self.model.state_dict()), copied(self._state()), segmenter)
        self.context.store(snapshot, meta)

    def way_out(self) -> str:
        """Say what helps where numbers are no longer finite."""
        recipe = self.run.config.training
        clip = f"a training.clip below {recipe.clip:g}" if recipe.clip else "a training.clip such as 1"
        return (
            f"no such step is kept. Go on from the newest checkpoint with --resume and a training.rate below "
            f"{recipe.rate:g} or {clip}; where it happens at the first step, look for values that are not finite "
            "by `python -m pipeline inspect`"
        )

    def judge(self, score: float) -> None:
        """Note a validation score."""
        record = self.progress
        if score > record.best_score:
            record.best_score, record.best_step, record.stale = score, record.step, 0
        else:
            record.stale += 1
