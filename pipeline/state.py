"""Model, optimiser, schedule and record of a run: everything that a checkpoint holds and a resumed run needs."""

import copy
import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pipeline.checkpoint import Meta, write_checkpoint
from pipeline.context import Context
from pipeline.run import Run
from pipeline.step import build_optimiser

UNSCORED = -1.0
"""Score of a checkpoint that an interruption left between two validations."""


@dataclass
class Progress:
    """Early-stopping record and data cursor; part of every checkpoint.

    Attributes
    ----------
    step
        Optimiser steps taken: the cursor of the data too, as ``step * training.batch`` samples were taken by all ranks.
    best_score, best_step
        Best mean IoU on the validation part, and where.
    stale
        Validations since then.
    """

    step: int = 0
    best_score: float = -math.inf
    best_step: int = 0
    stale: int = 0


class Training:
    """Model, optimiser, schedule and record of one run: what a checkpoint holds."""

    def __init__(self, run: Run, context: Context, build: Callable[[Run], nn.Module]) -> None:
        self.run, self.context = run, context
        self.model = build(run).to(context.device)
        self.parallel = context.wrap(self.model)
        self.optimiser: Optimizer
        self.schedule: LambdaLR
        self.optimiser, self.schedule = build_optimiser(self.model, run.config.training)
        self.progress = Progress()
        self.best: dict[str, Tensor] | None = None
        if context.resume is not None:
            self._restore(context.resume)

    def _restore(self, folder: Path) -> None:
        device = self.context.device
        self.model.load_state_dict(torch.load(folder / "model.pt", weights_only=True, map_location=device))
        state = torch.load(folder / "training.pt", weights_only=True, map_location="cpu")
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.progress = Progress(**state["progress"])
        torch.set_rng_state(state["random"])
        if device.type == "cuda" and state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], device)

    def state(self) -> dict[str, Any]:
        """Everything besides the weights that the next step depends on."""
        device = self.context.device
        return {
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "progress": asdict(self.progress),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }

    def save(self, score: float) -> None:
        """Hand a checkpoint to the storage; every rank takes part."""
        meta = Meta(self.progress.step, score)
        if self.context.rank != 0:
            self.context.store(None, meta)
            return
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder:
            segmenter = self.run.prepared.segmenter.to_json()
            write_checkpoint(Path(folder), meta, self.model.state_dict(), self.state(), segmenter)
            self.context.store(Path(folder), meta)

    def judge(self, score: float) -> None:
        """Note a validation score."""
        if score > self.progress.best_score:
            self.progress.best_score, self.progress.best_step, self.progress.stale = score, self.progress.step, 0
            self.best = copy.deepcopy({name: value.cpu() for name, value in self.model.state_dict().items()})
        else:
            self.progress.stale += 1
