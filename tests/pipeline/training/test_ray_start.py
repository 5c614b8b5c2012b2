"""Ray that does not come up in its own time is started again, and refused in words in the end; so are vain waits."""

import contextlib
import os
from types import SimpleNamespace

import pytest
import ray

from datasets.errors import InputError
from pipeline.config import ClusterConfig
from pipeline.training import worker
from pipeline.training.worker import cluster, wait_for_room


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


def machines(monkeypatch: pytest.MonkeyPatch, *resources: dict[str, float], comes: bool = False) -> list[object]:
    """Let a cluster have these machines, of which the last is dead; returns what else is asked for, and given back."""
    asked: list[object] = []

    class Group(list):
        def wait(self, seconds: float) -> bool:
            return comes

    def group(bundles: list[dict[str, float]]) -> Group:
        asked.append(bundles)
        return Group(bundles)

    *alive, dead = [{"Alive": True, "Resources": resource} for resource in resources]
    monkeypatch.setattr(ray, "nodes", lambda: [*alive, dead | {"Alive": False}])
    monkeypatch.setattr(worker, "placement_group", group)
    monkeypatch.setattr(worker, "remove_placement_group", lambda group: asked.append("given back"))
    return asked


SMALL, LARGE, WITH_GPU = {"CPU": 8.0}, {"CPU": 64.0}, {"CPU": 4.0, "GPU": 1.0}


def test_workers_that_some_machine_can_run_start_at_once(monkeypatch):
    asked = machines(monkeypatch, SMALL, WITH_GPU, LARGE)
    wait_for_room(ClusterConfig(workers=9, cpus_per_worker=8, address="auto"))
    wait_for_room(ClusterConfig(workers=9, cpus_per_worker=4, address="auto", gpu=True))
    assert not asked


def test_workers_wait_for_a_machine_that_can_run_them(monkeypatch, capsys):
    asked = machines(monkeypatch, SMALL, WITH_GPU, LARGE, comes=True)
    wait_for_room(ClusterConfig(workers=1, cpus_per_worker=16, address="auto"))
    assert asked == [[{"CPU": 16, "GPU": 0}], "given back"]
    assert "no machine of the cluster has room for a worker of 16 CPU cores: waiting 600 s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("config", "refused"),
    [
        (ClusterConfig(workers=1, cpus_per_worker=16, address="auto"), r"16 CPU cores, and none .*; lower .*, or add"),
        (ClusterConfig(workers=1, cpus_per_worker=8, address="auto", gpu=True), r"8 CPU cores and a GPU, .* to false"),
    ],
)
def test_workers_that_no_machine_can_run_are_refused_in_words(monkeypatch, config, refused):
    asked = machines(monkeypatch, SMALL, WITH_GPU, LARGE)
    with pytest.raises(InputError, match=r"^no machine of the cluster has room for a worker of " + refused):
        wait_for_room(config)
    assert asked[1:] == ["given back"]


def test_training_asks_for_room_before_anything_starts(monkeypatch):
    def refused(config: ClusterConfig) -> None:
        raise InputError("no room")

    monkeypatch.setattr(worker, "cluster", lambda config: contextlib.nullcontext())
    monkeypatch.setattr(worker, "refuse_missing_gpus", lambda config: None)
    monkeypatch.setattr(worker, "wait_for_room", refused)
    with pytest.raises(InputError, match=r"^no room$"):
        worker.train_on_ray(SimpleNamespace(config=SimpleNamespace(cluster=ClusterConfig(workers=1))), "id")


def test_a_gpu_that_this_machine_lacks_is_not_waited_for(monkeypatch):
    asked = machines(monkeypatch, SMALL, LARGE)
    with pytest.raises(InputError, match=r"^this machine has no room for a worker of 2 CPU cores and a GPU; set "):
        wait_for_room(ClusterConfig(workers=1, cpus_per_worker=2, gpu=True))
    assert not asked
