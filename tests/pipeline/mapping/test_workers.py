"""A volume mapped by workers has the values that one process gives it: in blocks, each by one, or in slabs by all."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from ray.exceptions import NodeDiedError

from datasets.errors import AwayError, InputError
from models.config import ConfigError, NetworkConfig
from models.peak import Workload, prediction_peak
from pipeline import cli
from pipeline.amount import show_bytes
from pipeline.checkpoints.checkpoint import Meta, Snapshot
from pipeline.config import BatchConfig, ClusterConfig, PredictConfig
from pipeline.mapping.batch import batch
from pipeline.mapping.predict import predict
from pipeline.mapping.workers import Order, Workers, _opened, cores_taken, loaded, map_block, map_slab, plan_blocks
from pipeline.planning.machine import Memory
from pipeline.planning.tiling import Tiling
from pipeline.run import Run
from pipeline.scoring.scorer import run_scorer
from pipeline.training.loop import new_segmenter
from pipeline.training.prepare import prepare
from tests.pipeline.ranks.ranks import on_ranks

REACH = 8
"""Of the network `deep`, on both axes."""


@pytest.fixture
def deep(recipe) -> Run:
    """A run whose network looks several cells far, with random weights."""
    config = recipe("deep")
    run = prepare(replace(config, network=NetworkConfig(layers="4*2 d4 u4", padding="reflect")))
    (run.checkpoints / "step-000001").mkdir()
    torch.manual_seed(1)
    weights = new_segmenter(run).state_dict()
    Snapshot(Meta(1, 0.5), weights, {}, run.prepared.segmenter.to_json()).write(run.checkpoints / "step-000001")
    return run


def source_of(run: Run) -> str:
    return run.config.data.source


def order_of(run: Run, **settings: Any) -> Order:
    """What a worker is given of a run and its volume."""
    scorer = run_scorer(run)
    identity = tuple(scorer.identity(scorer.open(source_of(run))).items())
    return Order(str(run.folder), run.tracking_uri, source_of(run), identity, **settings)


@pytest.fixture(autouse=True)
def fresh_processes() -> Iterator[None]:
    """Let no test see what an earlier one has opened, nor how many threads it took."""
    threads = torch.get_num_threads()
    _opened.cache_clear()
    loaded.cache_clear()
    yield
    torch.set_num_threads(threads)


def same_maps(one: Path | str, other: Path | str) -> None:
    first, second = (xr.open_zarr(place, mask_and_scale=False).load() for place in (one, other))
    np.testing.assert_allclose(first["probability"], second["probability"], atol=1e-5)
    even = abs(second["probability"][0] - 0.5).values < 1e-5
    assert ((first["class"] == second["class"]).values | even).all()
    assert first.attrs["input_digest"] == second.attrs["input_digest"]


Result = tuple[int, Any]


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let tasks run one after the other here, as Ray would run them; the list has those of the last map."""
    told: list[Any] = []

    def spread(function: Callable[..., Any], tasks: Sequence[Any], config: ClusterConfig) -> Iterator[Result]:
        told[:] = tasks
        for index in reversed(range(len(tasks))):  # in any order
            try:
                yield index, function(tasks[index], 1)
            except (ValueError, OSError) as error:
                yield index, error

    monkeypatch.setattr("pipeline.mapping.spread.spread", spread)
    monkeypatch.setattr("pipeline.training.worker.cluster", lambda config: nullcontext())
    return told


TWO = ClusterConfig(workers=2, cpus_per_worker=1)


def test_blocks_that_workers_map_make_the_map_of_one_process(deep, tmp_path, in_this_process):
    alone = predict(PredictConfig(str(deep.folder), source_of(deep), str(tmp_path / "alone.zarr")))
    config = PredictConfig(str(deep.folder), source_of(deep), str(tmp_path / "shared.zarr"), block=[8, 12], cluster=TWO)
    same_maps(predict(config), alone)
    assert [order.start for order in in_this_process] == [(y, x) for y in (0, 8, 16) for x in (0, 12)]
    assert {order.model for order in in_this_process} == {str(deep.folder)}


def test_a_map_whose_worker_was_lost_goes_on_at_the_block(deep, tmp_path, in_this_process, monkeypatch, capsys):
    model, source, out = str(deep.folder), source_of(deep), str(tmp_path / "map.zarr")
    alone = predict(PredictConfig(model, source, str(tmp_path / "alone.zarr")))
    config = PredictConfig(model, source, out, block=[8, 24], cluster=TWO)
    with monkeypatch.context() as patch:
        lost = [(2, NodeDiedError("its node\nis gone"))]

        def once(function: Callable[..., Any], tasks: Sequence[Any], config: ClusterConfig) -> Iterator[Result]:
            yield 1, function(tasks[1], 1)
            yield from lost

        patch.setattr("pipeline.mapping.spread.spread", once)
        with pytest.raises(AwayError, match=r"^a worker was lost \(its node is gone\); the same command tries again$"):
            predict(config)
        assert not Path(out).exists()
    predict(config)
    assert [order.start for order in in_this_process] == [(0, 0), (16, 0)]
    assert "this was begun and stopped before: going on with it" in capsys.readouterr().out
    same_maps(out, alone)


def test_workers_plan_by_their_own_memory_and_keep_what_was_begun(deep, monkeypatch):
    order = order_of(deep)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    seen = []

    def planned(segmenter: object, shape: object, memory: Memory, **how: object) -> Tiling:
        seen.append(memory.size)
        return Tiling((8, 24), (REACH, 0))

    monkeypatch.setattr("pipeline.scoring.scorer.memory_here", lambda cuda: Memory(10_000_000, "free"))
    monkeypatch.setattr("pipeline.scoring.scorer.plan_prediction", planned)
    assert plan_blocks(order, 2) == Tiling((8, 24), (REACH, 0))
    assert seen == [4_500_000]  # nine tenths of two cores' share
    assert torch.get_num_threads() == 2
    plan_blocks(replace(order, cores=8), 2)  # of more workers than there are cores for
    assert seen[1:] == [2_250_000]
    begun = Tiling((12, 24), (24, 0))
    assert plan_blocks(replace(order, tiling=begun), 2) == begun


def mapped_slab(rank: int, world: int, folder: str) -> None:
    run = Run.open(folder)
    order = order_of(run, slabs=world)
    found = map_slab(order, 1, lambda backend: rank)
    np.savez(Path(folder) / f"slab-{rank}.npz", winner=found.winner, probability=found.probability)


@pytest.mark.parametrize("states", ["float", "exact"])
def test_slabs_make_the_map_of_one_process(deep, states):
    config = replace(deep.prepared.segmenter, network=replace(deep.prepared.segmenter.network, states=states))
    deep.write("prepared.json", replace(deep.prepared, segmenter=config).to_json())
    on_ranks(mapped_slab, 3, str(deep.folder))
    slabs = [np.load(deep.folder / f"slab-{rank}.npz") for rank in range(3)]
    order = order_of(deep, start=(0, 0))
    whole = map_block(order, torch.get_num_threads())
    np.testing.assert_allclose(np.concatenate([slab["probability"] for slab in slabs], 1), whole.probability, atol=1e-5)
    assert np.mean(np.concatenate([slab["winner"] for slab in slabs]) != whole.winner) < 0.01
    assert [len(slab["winner"]) for slab in slabs] == [8, 8, 8]


def test_a_slab_that_does_not_fit_is_refused_before_it_keeps_others_waiting(deep, monkeypatch):
    need = prediction_peak(run_scorer(deep).segmenter, Workload((12, 24)))
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("pipeline.scoring.scorer.memory_here", lambda cuda: Memory(2 * need, "free"))
    order, joined = order_of(deep, slabs=2), []

    def join(backend: str) -> int:
        joined.append(backend)
        raise TimeoutError

    with pytest.raises(TimeoutError):
        map_slab(order, 2, join)
    assert joined == ["gloo"]
    words = rf"^mapping \[24, 24\] cells in 2 slabs needs {show_bytes(need)} for each, but there are .* free; take more"
    with pytest.raises(InputError, match=words):
        map_slab(order, 1, join)
    with pytest.raises(InputError, match=words):
        map_slab(replace(order, cores=5), 2, join)
    assert joined == ["gloo"]


def test_a_worker_refuses_another_model_or_volume_than_was_meant(deep, tmp_path):
    order = order_of(deep, start=(0, 0))
    (deep.checkpoints / "step-000002").mkdir()
    weights = {name: value + 0.1 for name, value in new_segmenter(deep).state_dict().items()}
    Snapshot(Meta(2, 0.9), weights, {}, deep.prepared.segmenter.to_json()).write(deep.checkpoints / "step-000002")
    with pytest.raises(InputError, match=r"deep has another best checkpoint now \(deep \(step-000002\)\); map when"):
        map_block(order, 1)
    _, volume = order.identity
    with pytest.raises(InputError, match=r"tiny\.zarr has changed since this map was begun; the same command begins"):
        map_block(replace(order_of(deep), identity=(order_of(deep).identity[0], (volume[0], "another"))), 1)


def test_workers_are_given_names_that_mean_the_same_elsewhere(deep, tmp_path, monkeypatch):
    source = Path(source_of(deep))
    monkeypatch.chdir(source.parent)
    scorer = replace(run_scorer(deep), uri=os.path.relpath(deep.folder))
    order = Workers.of(TWO, scorer, deep.volume, source.name, "uri").order
    assert (order.model, order.source, order.cores) == (str(deep.folder), str(source), 2)
    assert Workers.of(TWO, scorer, deep.volume, "s3://bucket/a.zarr", "uri").order.source == "s3://bucket/a.zarr"
    assert replace(scorer, uri="models:/deep@champion", version="deep/3").fixed == "models:/deep/3"
    assert scorer.digest is scorer.digest, "weights are hashed once, not for each volume of a table"
    assert cores_taken(ClusterConfig(workers=8)) == 8
    assert cores_taken(ClusterConfig(workers=8, cpus_per_worker=4)) == 32
    assert cores_taken(ClusterConfig(workers=8, address="auto")) == 0


def test_the_other_workers_are_ended_at_once_where_one_fails(deep, tmp_path, in_this_process, monkeypatch):
    ended = []

    def fails(function: Callable[..., Any], tasks: Sequence[Any], config: ClusterConfig) -> Iterator[Result]:
        try:
            yield 0, ZeroDivisionError("a defect")
        finally:
            ended.append(True)

    monkeypatch.setattr("pipeline.mapping.spread.spread", fails)
    workers = Workers.of(
        TWO, run_scorer(deep), run_scorer(deep).open(source_of(deep)), source_of(deep), deep.tracking_uri
    )
    with pytest.raises(ZeroDivisionError, match="a defect"):  # not said to be lost
        list(workers.map(Tiling((8, 24), (REACH, 0)), lambda cells: True))
    assert ended


@pytest.mark.parametrize("config", [PredictConfig, BatchConfig])
def test_a_map_takes_as_many_slabs_as_workers(config):
    config(cluster=ClusterConfig(workers=2, slabs=2))
    words = r"^cluster.slabs is 2 and cluster.workers 4, but a map takes as many slabs as there are workers, or 1$"
    with pytest.raises(InputError, match=words):
        config(cluster=ClusterConfig(workers=4, slabs=2))


def test_what_slabs_cannot_do_is_refused(deep, tmp_path):
    slabs = ClusterConfig(workers=8, slabs=8)
    with pytest.raises(InputError, match=r"^block is \[8, 8\], but in 8 slabs a volume is mapped in one piece; leave"):
        PredictConfig(block=[8, 8], cluster=slabs)
    with pytest.raises(ConfigError, match=r"^24 cells of the first axis of space are too few for 8 slabs: each"):
        predict(PredictConfig(str(deep.folder), source_of(deep), str(tmp_path / "map.zarr"), cluster=slabs))
    assert not list(tmp_path.glob("*map*"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_on_ray_workers_map_a_volume_by_blocks_or_by_slabs(deep, tmp_path, monkeypatch, capsys):
    import ray

    from pipeline.mapping import spread
    from pipeline.training import worker

    def stays(task: object, threads: int, join: Callable[[str], int]) -> int:
        if task == "refuses":
            raise InputError("not by me")
        return join("gloo")

    def adds(number: int, threads: int, join: Callable[[str], int]) -> tuple[int, float]:
        rank, total = join("gloo"), torch.tensor(float(number))
        torch.distributed.all_reduce(total)
        return rank, float(total)

    def sees(task: object, threads: int, join: object = None) -> str:
        return os.environ["CUDA_VISIBLE_DEVICES"]

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    model, source = str(deep.folder), source_of(deep)
    alone = predict(PredictConfig(model, source, str(tmp_path / "alone.zarr")))
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
    try:
        assert sorted(spread.together(adds, [3, 4], TWO)) == [(0, (0, 7.0)), (1, (1, 7.0))]
        for way in (spread.spread, spread.together):
            assert sorted(way(sees, [1, 2], TWO)) == [(0, ""), (1, "")], "a GPU that nobody asked for"
        began = time.monotonic()
        with closing(spread.together(stays, ["stays", "refuses"], TWO)) as results:
            _, first = next(results)
        assert isinstance(first, InputError)
        assert time.monotonic() - began < 60
        with monkeypatch.context() as patch:
            patch.setattr(spread, "ROOM_S", 1.0)
            with pytest.raises(InputError, match=r"^the cluster had no room for 3 workers of 1 CPU cores at once"):
                next(spread.together(adds, [1, 2, 3], TWO))
            patch.setattr(worker, "ROOM_S", 1.0)
            with pytest.raises(InputError, match=r"^no machine of the cluster has room for a worker of 8 CPU cores"):
                next(spread.spread(stays, [1], replace(TWO, cpus_per_worker=8, address="auto")))
        words = ["--cluster.workers", "2", "--cluster.cpus_per_worker", "1"]
        for name, ways in {"blocks": ["--block", "[8, 24]"], "slabs": ["--cluster.slabs", "2"]}.items():
            out = str(tmp_path / f"{name}.zarr")
            assert cli.main(["predict", model, source, out, *words, *ways]) == 0
            same_maps(out, alone)
        assert "mapping 24 x 24 cells in one piece, in 2 slabs" in capsys.readouterr().out
        table = tmp_path / "table.csv"
        table.write_text(f"input,output\n{source},{tmp_path / 'one.zarr'}\n{source},{tmp_path / 'other.zarr'}\n")
        outcomes = batch(BatchConfig(model, str(table), cluster=replace(TWO, slabs=2)))
        assert [outcome.state for outcome in outcomes] == ["mapped", "mapped"]
        same_maps(tmp_path / "other.zarr", alone)
    finally:
        ray.shutdown()
