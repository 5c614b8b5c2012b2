"""What the slow tests share: a run in a process of its own, how far it is, its weights."""

import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from pipeline.checkpoints.checkpoint import latest_checkpoint, load_segmenter
from pipeline.run import Run

ROOT = Path(__file__).parents[2]


def weights_of(run: Run) -> dict[str, torch.Tensor]:
    """Load the weights of a run's newest checkpoint."""
    return load_segmenter(latest_checkpoint(run.checkpoints)).state_dict()


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Compare two sets of weights."""
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def wait_for_step(folder: Path, step: int, limit: float = 300.0) -> None:
    """Wait until the journal of a run has reached a step."""
    end = time.monotonic() + limit
    journal = folder / "history.jsonl"
    while time.monotonic() < end:
        if journal.is_file() and len(journal.read_text().splitlines()) >= step:
            return
        time.sleep(0.1)
    raise AssertionError(f"{journal} never reached step {step}")


def command(path: Path, *words: str) -> subprocess.Popen:
    """Start ``python -m pipeline train`` as a user would, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", "train", str(path), *words],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def workers_now(actor: str = "RayTrainWorker") -> list[int]:
    """List the processes of an actor's class below the raylets that this process has started; others may run here."""
    parents, titled = {}, []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            title = (place / "cmdline").read_bytes()
        except OSError:  # ended in between
            continue
        if title.startswith(f"ray::{actor}".encode()):
            titled.append(int(place.name))
    return sorted(pid for pid in titled if parents.get(parents.get(pid, 0)) == os.getpid())
