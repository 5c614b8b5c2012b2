"""Checkpoints written behind the training, with patience for a disk that fails or is slow."""

import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from datasets.errors import InputError
from pipeline.checkpoints.checkpoint import Meta, Snapshot, folder_name, keep_best_and_two

Store = Callable[[Snapshot | None, Meta], None]

_FAILURES = 3
"""Checkpoints in a row that fail and stop the run; the last of a run may not fail."""
_SLOW_S = 2.0


def directory_storage(checkpoints: Path) -> Store:
    """Keep checkpoints as `keep_best_and_two` does; each is written aside and renamed."""

    def store(snapshot: Snapshot | None, meta: Meta) -> None:
        assert snapshot is not None, "only rank 0 stores"
        for left in checkpoints.glob(".step-*"):
            shutil.rmtree(left, ignore_errors=True)
        aside, place = checkpoints / f".{folder_name(meta.step)}", checkpoints / folder_name(meta.step)
        try:
            aside.mkdir()
            snapshot.write(aside)
            shutil.rmtree(place, ignore_errors=True)
            aside.rename(place)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        keep_best_and_two(checkpoints, place)

    return store


class Behind:
    """Stores checkpoints in a thread, one at a time, so that one snapshot is held."""

    def __init__(self, checkpoints: Path, store: Store) -> None:
        self.checkpoints, self.store = checkpoints, store
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._step = 0
        self._failures = 0
        self._slow = False

    def __call__(self, snapshot: Snapshot | None, meta: Meta) -> None:
        """Take a checkpoint, once the one before is written."""
        busy, began = self._pending is not None and not self._pending.done(), time.monotonic()
        self._settle(_FAILURES)
        if busy and not self._slow and time.monotonic() - began > _SLOW_S:
            self._slow = True
            print(
                f"training waits for {self.checkpoints}: the checkpoint of step {self._step} took longer to write than "
                f"the steps up to {meta.step}; raise training.validate_every, or put `runs` on a faster disk",
                flush=True,
            )
        self._step = meta.step
        self._pending = self._thread.submit(self.store, snapshot, meta)

    def close(self) -> None:
        """Wait for the last checkpoint; `InputError` where it was not written."""
        self._thread.shutdown()
        self._settle(1)

    def _settle(self, patience: int) -> None:
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
            self._failures = 0
        except OSError as error:
            self._failures += 1
            what = f"the checkpoint of step {self._step} could not be written to {self.checkpoints} ({error.strerror})"
            if self._failures >= patience:
                raise InputError(
                    f"{what}; earlier ones are kept: give the disk room or put it right, and go on with the same "
                    "command and --resume"
                ) from error
            print(f"{what}; earlier ones are kept, training goes on and tries again with the next", flush=True)


@contextmanager
def stored_behind(checkpoints: Path) -> Iterator[Behind]:
    """Yield a store that writes behind the training, and wait for its last write."""
    behind = Behind(checkpoints, directory_storage(checkpoints))
    try:
        yield behind
    except BaseException:
        try:
            behind.close()
        except InputError as late:
            print(f"besides: {late}", flush=True)
        raise
    behind.close()
