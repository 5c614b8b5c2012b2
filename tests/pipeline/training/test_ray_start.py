"""Ray that does not come up in its own time is started again, and refused in words in the end."""

import os

import pytest
import ray

from datasets.errors import InputError
from pipeline.config import ClusterConfig
from pipeline.training.worker import cluster


def starts(monkeypatch: pytest.MonkeyPatch, *outcomes: Exception) -> list[int]:
    """Let Ray's starts come out as told; returns the cores that each was asked for."""
    asked, coming = [], iter(outcomes)

    def init(**settings: object) -> None:
        asked.append(settings["num_cpus"])
        raise next(coming)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.delenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", raising=False)
    return asked


LATE = Exception("The current node timed out during startup. This could happen because ...")


def test_a_start_that_comes_late_is_tried_again(monkeypatch):
    asked = starts(monkeypatch, LATE, LATE, ConnectionError("the third one"))
    with pytest.raises(ConnectionError, match="the third one"), cluster(ClusterConfig(workers=64)):
        pass
    assert asked == [64, 64, 64]
    assert "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER" not in os.environ


def test_a_machine_that_is_too_busy_is_refused_in_words(monkeypatch):
    asked = starts(monkeypatch, LATE, LATE, LATE)
    with pytest.raises(InputError, match=r"^Ray did not start on this machine in 3 tries of 30 s"):  # noqa: SIM117
        with cluster(ClusterConfig(workers=1)):
            pass
    assert len(asked) == 3
