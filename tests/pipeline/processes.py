"""What the slow tests share: a run in a process of its own, how far it is, its weights."""

import subprocess
import sys
import time
from pathlib import Path

import torch

from pipeline.run import Run
from pipeline.training.checkpoint import latest_checkpoint, load_segmenter

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


def workers_now() -> list[int]:
    """List the processes of the training workers of the Ray that this process has joined; others may run here."""
    import ray
    from ray.util.state import list_actors

    wanted = [("state", "=", "ALIVE"), ("class_name", "=", "RayTrainWorker")]
    return [one.pid for one in list_actors(ray.get_runtime_context().gcs_address, filters=wanted)]
