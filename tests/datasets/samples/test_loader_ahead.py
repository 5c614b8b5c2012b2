"""A loader that reads ahead gives the same samples, holds no more bytes than it may, and fails where reading fails."""

import threading
import time

import numpy as np
import pytest

from datasets.volume import Volume
from tests.datasets.samples.coded import coded, loader, same, samples_of


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_reading_ahead_changes_nothing_but_the_thread(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = coded(12, 8)
    expected = [samples_of(loader(volume), step) for step in range(3, 9)]
    tested = loader(volume, workers=workers, prefetch_bytes=10**6)
    readers: set[str] = set()
    plain = Volume.read

    def late(self: Volume, block: tuple[slice, ...]) -> np.ndarray:
        readers.add(threading.current_thread().name)
        time.sleep(0.001 * (block[0].start + block[1].start))  # later reads may be done before earlier ones
        return plain(self, block)

    monkeypatch.setattr(Volume, "read", late)
    assert all(same(a, b) for a, b in zip(tested.steps(3, 9), expected, strict=True))
    assert (tested.waited, tested.samples_read, tested.bytes_read) == (tested.waited, 18, 18 * (3 * 4 + 2) * 16)
    assert tested.waited > 0
    assert all(name.startswith("loader") for name in readers) if workers else readers == {"MainThread"}
    assert list(tested.steps(4, 4)) == list(tested.steps(5, 4)) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


@pytest.mark.parametrize(("samples", "ahead"), [(0, 1), (1, 1), (2.9, 2), (7, 7)])
def test_no_more_bytes_are_read_ahead_than_allowed(samples: float, ahead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = coded(12, 8)
    tested = loader(volume, batch=2, workers=3)
    for raw, labels in samples_of(tested, 0):
        assert tested.sample_bytes == raw.nbytes + labels.nbytes
    tested.prefetch_bytes = int(samples * tested.sample_bytes)
    begun: list[object] = []
    plain = Volume.read
    monkeypatch.setattr(Volume, "read", lambda self, block: (begun.append(block), plain(self, block))[1])
    most = 0
    for step, _ in enumerate(tested.steps(0, 12), 1):
        time.sleep(0.01)  # time enough to read too much
        most = max(most, len(begun) - 2 * step)
    assert most == ahead
    assert len(begun) == 24


def test_sample_bytes_count_halo_and_coarse_labels() -> None:
    tested = loader(coded(12, 8), halo=[2, 2], factor=2)
    for raw, labels in samples_of(tested, 0):
        assert (raw.shape, labels.shape) == ((3, 8, 8), (4, 4))
        assert tested.sample_bytes == raw.nbytes + labels.nbytes


@pytest.mark.parametrize("workers", [0, 2])
def test_a_failure_while_reading_reaches_the_caller_at_its_step(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = coded(12, 8)
    tested = loader(volume, batch=2, workers=workers, prefetch_bytes=10**6)
    expected = list(loader(volume, batch=2).steps(0, 2))
    gone = [tested.windows[sample.block].seen for sample in tested.plan(range(2, 3))][-1]
    plain = Volume.read

    def broken(self: Volume, block: tuple[slice, ...]) -> np.ndarray:
        if block == gone:
            raise OSError("the disk is gone")
        return plain(self, block)

    monkeypatch.setattr(Volume, "read", broken)
    steps = tested.steps(0, 12)
    assert all(same(next(steps), samples) for samples in expected)
    with pytest.raises(OSError, match="the disk is gone"):
        next(steps)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loader")]
