"""What surrounds the training loop: ranks, checkpoint storage, the wish to stop, and where the numbers go."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from pipeline.checkpoints.storage import Store
from pipeline.tracking.listener import Listener, Silent


@dataclass
class Context:
    """What surrounds the loop.

    Attributes
    ----------
    rank, world
        This worker and the number of workers.
    device
        Where the network runs.
    resume
        Checkpoint to go on from.
    store
        Takes each checkpoint's snapshot; on other ranks than 0, which only take part, none.
    interrupted
        Whether somebody asked this run to stop.
    leaving
        Whether this worker's machine is about to be taken away; a checkpoint is then due at once.
    listener
        Where the numbers go; only rank 0 speaks.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    resume: Path | None = None
    store: Store = lambda snapshot, meta: None
    interrupted: Callable[[], bool] = lambda: False
    leaving: Callable[[], bool] = lambda: False
    listener: Listener = field(default_factory=Silent)


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
