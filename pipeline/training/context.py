"""What surrounds the training loop: ranks, checkpoint storage, the wish to stop, and where the numbers go."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from pipeline.checkpoints.storage import Store
from pipeline.tracking.listener import Listener


@dataclass
class Context:
    """What surrounds the loop."""

    rank: int = 0  # of this worker
    world: int = 1  # number of workers
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    resume: Path | None = None  # checkpoint to go on from
    store: Store = lambda snapshot, meta: None  # takes no snapshot on other ranks than 0, which only take part
    interrupted: Callable[[], bool] = lambda: False  # whether somebody asked this run to stop
    leaving: Callable[[], bool] = lambda: False  # whether this machine is about to go; a checkpoint is due at once then
    listener: Listener = field(default_factory=Listener)  # only rank 0 speaks


class Clock:
    """Estimates the time left, without the first step, which pays for warming up."""

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop
        self.after_first: float | None = None

    def left(self, step: int) -> str:
        """Return minutes and seconds left after `step` steps."""
        now = time.perf_counter()
        if self.after_first is None:
            self.after_first = now
            return "?"
        seconds = (now - self.after_first) / max(step - self.start - 1, 1) * (self.stop - step)
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"
