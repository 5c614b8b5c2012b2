"""Checkpoints: tensors and plain JSON in a folder named by its step, never a pickle of our classes.

A checkpoint counts only where `sha256sum -c SHA256SUMS` would find every file whole; that is written last.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from datasets.errors import InputError
from models.config import SegmenterConfig
from models.segmenter import Segmenter

_SUMS = "SHA256SUMS"
_FILES = ("model.pt", "training.pt", "segmenter.json", "meta.json")


@dataclass(frozen=True)
class Meta:
    """A checkpoint's optimiser steps, and mean IoU on the validation part."""

    step: int
    score: float


def copied(value: Any) -> Any:
    """Copy a state's tensors to the host, so that training may change its own."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copied(item) for item in value)
    return value


@dataclass(frozen=True)
class Snapshot:
    """A checkpoint in memory, written while training goes on."""

    meta: Meta
    model: dict[str, Any]  # state of the network with its normalisation
    training: dict[str, Any]  # states of optimiser, schedule and random numbers, and the `Progress`
    segmenter: Any  # the network's configuration as JSON

    def write(self, folder: Path) -> None:
        """Write it into an empty folder, which the caller renames."""
        plain = (json.dumps(part, indent=1) for part in (self.segmenter, asdict(self.meta)))
        contents = (self.model, self.training, *plain)
        sums = {name: _write(folder / name, content) for name, content in zip(_FILES, contents, strict=True)}
        _write(folder / _SUMS, "".join(f"{digest}  {name}\n" for name, digest in sums.items()))


def folder_name(step: int) -> str:
    """Name the folder of a step."""
    return f"step-{step:06d}"


class _Summed:
    """A file that hashes what passes, and keeps the system's error, which torch.save hides."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sum = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        self.sum.update(data)
        left = memoryview(data)
        try:
            while left:
                left = left[self.file.write(left) :]
        except OSError as error:
            self.error = error
            raise
        return len(data)

    def flush(self) -> None:
        self.file.flush()


def _write(path: Path, content: Any) -> str:
    with path.open("wb", buffering=0) as file:
        summed = _Summed(file)
        try:
            if isinstance(content, str):
                summed.write(content.encode())
            else:
                torch.save(content, summed)  # type: ignore[arg-type]  # all it needs
        except RuntimeError:
            if summed.error is not None:
                raise summed.error from None
            raise
        os.fsync(file.fileno())
    return summed.sum.hexdigest()


def fault(folder: Path) -> str | None:
    """Say what is wrong with a checkpoint; None where it is whole."""
    try:
        lines = (folder / _SUMS).read_text().splitlines()
        sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    except FileNotFoundError:
        return f"{_SUMS} is missing"
    except (OSError, ValueError):
        return f"{_SUMS} cannot be read"
    if sums.keys() != set(_FILES):
        return f"{_SUMS} does not name {', '.join(_FILES)}"
    for name, digest in sums.items():
        try:
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    return f"{name} does not match {_SUMS}"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None


def read_meta(folder: Path) -> Meta:
    """Read step and score of a checkpoint."""
    return Meta(**json.loads((folder / "meta.json").read_text()))


def load_segmenter(folder: Path) -> Segmenter:
    """Load a checkpoint's network in evaluation mode on the CPU."""
    state = torch.load(folder / "model.pt", weights_only=True, map_location="cpu")
    return rebuild(json.loads((folder / "segmenter.json").read_text()), state)


def rebuild(config: dict[str, Any], state: Mapping[str, torch.Tensor]) -> Segmenter:
    """Make a network in evaluation mode from configuration and state."""
    model = Segmenter(SegmenterConfig.from_json(config), state["mean"], state["deviation"])
    model.load_state_dict(state)
    return model.eval()


def all_checkpoints(folder: Path) -> list[Path]:
    """List the checkpoints below a folder, oldest first, unread."""
    found = (path for path in folder.glob("step-*") if path.is_dir() and path.name.removeprefix("step-").isdigit())
    return sorted(found, key=_step)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def whole_checkpoints(folder: Path) -> list[Path]:
    """List the whole checkpoints below a folder, oldest first, and print the others.

    `InputError` where there are checkpoints but none is whole.
    """
    faults = {path: fault(path) for path in all_checkpoints(folder)}
    broken = [f"{path.name}: {text}" for path, text in faults.items() if text]
    whole = [path for path in faults if not faults[path]]
    if broken and not whole:
        raise InputError(
            f"no checkpoint in {folder} is whole ({'; '.join(broken)}); put one back from a copy, or start the run "
            "again with --overwrite"
        )
    for text in broken:
        print(f"a checkpoint is broken and passed over ({text})", flush=True)
    return whole


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint below a folder, if any."""
    return next(reversed(whole_checkpoints(folder)), None)


def best_checkpoint(run: Path) -> Path:
    """Return the whole checkpoint of the best score, of equals the earliest; none is an `InputError`."""
    found = whole_checkpoints(run / "checkpoints")
    if not found:
        raise InputError(f"{run} has no checkpoint yet; go on with it by `python -m pipeline train ... --resume`")
    return max(found, key=lambda path: read_meta(path).score)


def _score(folder: Path) -> float:
    try:
        return read_meta(folder).score
    except (OSError, ValueError):
        return -math.inf


def keep_best_and_two(folder: Path, newest: Path) -> None:
    """Delete all but the best checkpoint, `newest` and the one before it.

    Those of later steps are broken: training has gone back behind them.
    """
    found = [path for path in all_checkpoints(folder) if _step(path) <= _step(newest) and (path / _SUMS).is_file()]
    best = max(found, key=_score)
    for path in all_checkpoints(folder):
        if path not in (best, *found[-2:]):
            shutil.rmtree(path)
