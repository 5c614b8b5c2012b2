"""A trial computes on the cores that it was given, in Tune's own process and on workers of Ray Train."""

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline.config import ClusterConfig, RunConfig
from pipeline.run import Run
from pipeline.sweep import trial
from pipeline.sweep.space import trial_config
from pipeline.training import rank
from pipeline.training.prepare import prepare

Make = Callable[..., RunConfig]


class BegunError(Exception):
    """Training would begin now."""


@pytest.fixture
def threads_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], None]], int]]:
    """Tell on how many threads a piece of work would train."""
    before, seen = torch.get_num_threads(), []

    def fit(*_: Any) -> None:
        seen.append(torch.get_num_threads())
        raise BegunError

    for module in (trial, rank):
        monkeypatch.setattr(module, "fit", fit)

    def run(work: Callable[[], None]) -> int:
        torch.set_num_threads(5)
        with pytest.raises(BegunError):
            work()
        return seen.pop()

    yield run
    torch.set_num_threads(before)


def prepared(make: Make, workers: int, cores: int) -> Run:
    config = make(f"cores-{cores}")
    config = replace(config, cluster=replace(config.cluster, workers=workers, cpus_per_worker=cores))
    return prepare(trial_config(config, {}, config.name, config.runs))


@pytest.mark.parametrize(("cores", "threads"), [(3, 3), (2, 2), (0, 1)], ids=["three", "two", "unsaid"])
def test_a_trial_in_tunes_process(recipe: Make, threads_of: Any, cores: int, threads: int) -> None:
    run = prepared(recipe, 1, cores)
    gauge: Any = SimpleNamespace(run_id="0" * 32)
    assert threads_of(lambda: trial._train_here(run, gauge, 1)) == threads


@pytest.mark.parametrize(("cores", "threads"), [(3, 3), (2, 2), (0, 1)], ids=["three", "two", "unsaid"])
def test_a_trial_on_workers(
    recipe: Make, threads_of: Any, monkeypatch: pytest.MonkeyPatch, cores: int, threads: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 12)  # else two cores would hide an even share
    run = prepared(recipe, 2, cores)
    ranks = SimpleNamespace(get_world_rank=lambda: 1, get_world_size=lambda: 2)
    monkeypatch.setattr(rank.ray.train, "get_context", lambda: ranks)
    monkeypatch.setattr(rank.ray.train.collective, "broadcast_from_rank_zero", lambda newest: newest)
    monkeypatch.setattr(rank, "get_device", lambda: torch.device("cpu"))
    config = run.config.cluster
    settings = {"folder": str(run.folder), "threads": config.threads, "cluster": asdict(config), "finishing": False}
    assert threads_of(lambda: rank.train_rank(settings, lambda: False)) == threads


def test_a_worker_has_the_cores_that_were_said_or_an_even_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert ClusterConfig(workers=3, cpus_per_worker=2).threads == 2
    assert [ClusterConfig(workers=workers).threads for workers in (0, 1, 3, 5, 24)] == [12, 12, 4, 2, 1]
