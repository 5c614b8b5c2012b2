"""Checkpoints: tensors and plain JSON in a folder named by its step, never a pickle of our classes."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from datasets.errors import InputError
from models.config import SegmenterConfig
from models.segmenter import Segmenter


@dataclass(frozen=True)
class Meta:
    """What a checkpoint is worth.

    Attributes
    ----------
    step
        Optimiser steps taken.
    score
        Mean IoU on the validation part.
    """

    step: int
    score: float


def folder_name(step: int) -> str:
    """Name the folder of a step, so that repeating the step writes to the same place."""
    return f"step-{step:06d}"


def write_checkpoint(folder: Path, meta: Meta, model: dict[str, Any], training: dict[str, Any], segmenter: Any) -> None:
    """Write one checkpoint.

    Parameters
    ----------
    folder
        Empty folder that the caller moves or uploads as a whole.
    meta
        Step and score.
    model
        State dict of the network with its normalisation.
    training
        States of optimiser, scheduler and random numbers, the early-stopping record and the data cursor.
    segmenter
        JSON configuration of the network.
    """
    torch.save(model, folder / "model.pt")
    torch.save(training, folder / "training.pt")
    (folder / "segmenter.json").write_text(json.dumps(segmenter, indent=1))
    (folder / "meta.json").write_text(json.dumps({"step": meta.step, "score": meta.score}))


def read_meta(folder: Path) -> Meta:
    """Read step and score of a checkpoint."""
    return Meta(**json.loads((folder / "meta.json").read_text()))


def load_segmenter(folder: str | Path) -> Segmenter:
    """Load the network of a checkpoint in evaluation mode on the CPU."""
    folder = Path(folder)
    config = SegmenterConfig.from_json(json.loads((folder / "segmenter.json").read_text()))
    state = torch.load(folder / "model.pt", weights_only=True, map_location="cpu")
    model = Segmenter(config, state["mean"], state["deviation"])
    model.load_state_dict(state)
    return model.eval()


def complete_checkpoints(folder: Path) -> list[Path]:
    """List the whole checkpoints below `folder`, oldest first; `meta.json` is written last."""
    return sorted(path.parent for path in folder.glob("step-*/meta.json"))


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint below `folder`."""
    found = complete_checkpoints(folder)
    return found[-1] if found else None


def best_checkpoint(run: Path) -> Path:
    """Return the checkpoint of a run with the best validation score; the earlier of two equals.

    Raises
    ------
    InputError
        Where the run has none yet.
    """
    found = complete_checkpoints(Path(run) / "checkpoints")
    if not found:
        raise InputError(f"{run} has no checkpoint yet; go on with it by `python -m pipeline train ... --resume`")
    return max(found, key=lambda path: read_meta(path).score)


def keep_best_and_latest(folder: Path) -> None:
    """Delete all checkpoints below `folder` but the best and the newest."""
    found = complete_checkpoints(folder)
    best = max(found, key=lambda path: read_meta(path).score, default=None)
    for path in found[:-1]:
        if path != best:
            shutil.rmtree(path)
