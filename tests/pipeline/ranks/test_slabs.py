"""Workers that share each sample, a slab each: they train to the weights of one worker, and score what it scores."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from datasets.errors import InputError
from datasets.volume import Volume
from models.config import ConfigError
from pipeline.checkpoints.checkpoint import Meta, Snapshot
from pipeline.config import ClusterConfig, EvaluateConfig, RunConfig
from pipeline.mapping.evaluate import evaluate
from pipeline.planning import tiling as tiling_module
from pipeline.planning.machine import Memory
from pipeline.planning.memory import check_training
from pipeline.planning.tiling import Piece, Tiling
from pipeline.run import Run
from pipeline.scoring.validation import predict_classes
from pipeline.tracking.listener import Listener
from pipeline.training.context import Context
from pipeline.training.loop import Outcome, fit
from pipeline.training.prepare import prepare
from pipeline.training.train import train
from tests.pipeline.ranks.ranks import on_ranks


class Counted:
    """A function that counts its calls."""

    def __init__(self, function: Callable[..., Piece]) -> None:
        self.function, self.calls = function, 0

    def __call__(self, *arguments: object) -> Piece:
        self.calls += 1
        return self.function(*arguments)


class Kept(Listener):
    """What a run told."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self.rows.append(values)


def fitted(run: Run, rank: int, world: int) -> tuple[dict[str, Tensor], list[dict[str, float]], Outcome]:
    """Train a run on one rank; returns the last weights, what was told of each step, and the outcome."""
    kept: list[dict[str, Tensor]] = []

    def store(snapshot: Snapshot | None, meta: Meta) -> None:
        if snapshot is not None:
            kept.append(snapshot.model)

    told = Kept()
    outcome = fit(run, Context(rank=rank, world=world, store=store, listener=told))
    return kept[-1] if kept else {}, told.rows, outcome


def one_of_several(rank: int, world: int, folder: str) -> None:
    run = Run.open(folder)
    weights, rows, outcome = fitted(run, rank, world)
    mapped = predict_classes(outcome.model, run, torch.device("cpu"), outcome.place)
    if rank == 0:
        torch.save({"weights": weights, "rows": rows, "map": torch.from_numpy(mapped)}, run.folder / "slabs.pt")


def in_slabs(config: RunConfig, workers: int, slabs: int) -> Run:
    return prepare(replace(config, name="slabs", cluster=ClusterConfig(workers=workers, slabs=slabs, loader_workers=0)))


def in_blocks(run: Run) -> Run:
    """Let a run be validated and mapped in the blocks that it trains on, as if its volume were too large."""
    data = run.config.data
    tiling = Tiling(tuple(data.block or ()), tuple(data.halo or ()))
    run = replace(run, prepared=replace(run.prepared, tiling=tiling))
    run.write("prepared.json", run.prepared.to_json())
    return run


SCORES = ("validation/miou", "validation/oa", "validation/kappa")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "slabs", "data", "network"),
    [
        (2, 2, {}, {}),
        (4, 2, {"block": [16, 24], "halo": [8, 0]}, {"layers": "4 d4 d4 u4 u4"}),
        (3, 3, {}, {"layers": "8*2 d8", "states": "exact", "padding": "reflect"}),
        (3, 3, {"block": [8, 24], "halo": [4, 0]}, {}),  # some slabs are nothing but halo
    ],
)
def test_slabs_train_to_the_weights_of_one_rank(recipe, workers, slabs, data, network):
    config = recipe(steps=6, batch=2, validate_every=3, clip=0.0, rate=0.005, optimiser="sgd")
    config = replace(config, data=replace(config.data, **data), network=replace(config.network, **network))
    if "layers" in network:
        config = replace(config, split=replace(config.split, buffer=1))
    run = in_slabs(config, workers, slabs)
    if "halo" in data:
        run = in_blocks(run)
    on_ranks(one_of_several, workers, str(run.folder))
    found = torch.load(run.folder / "slabs.pt", weights_only=True)
    one = prepare(replace(config, name="one"))
    if "halo" in data:
        one = in_blocks(one)
    weights, rows, outcome = fitted(one, 0, 1)
    assert max(float((found["weights"][name] - weight).abs().max()) for name, weight in weights.items()) < 2e-5
    assert [row["loss"] for row in found["rows"]] == pytest.approx([row["loss"] for row in rows], rel=1e-4)
    for name in SCORES:
        assert [row.get(name) for row in found["rows"]] == pytest.approx([row.get(name) for row in rows], abs=0.01)
    mapped = predict_classes(outcome.model, one, torch.device("cpu"))
    assert found["map"].shape == mapped.shape
    assert np.mean(found["map"].numpy() != mapped) < 0.01  # two classes may be equally likely
    assert len(np.unique(mapped)) == 2
    if network.get("states") == "exact":
        assert all(row["inversion_error"] == 0 for row in found["rows"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"workers": 3, "slabs": 2}, "cluster.slabs is 2 and cluster.workers 3; each sample takes 2 workers, so take"),
        ({"workers": 0, "slabs": 2}, "cluster.slabs is 2 and cluster.workers 0; each sample takes 2 workers, so take"),
        ({"workers": 4, "slabs": 0}, "cluster.slabs is 0; it must be 1 or more"),
        ({"workers": 4, "slabs": 2, "min_workers": 2}, "cluster.min_workers is 2, but in 2 slabs none can be missed"),
    ],
)
def test_slabs_that_workers_cannot_share_are_refused(settings, words):
    with pytest.raises(InputError, match=f"^{words}"):
        ClusterConfig(**settings)


def refused(config: RunConfig, error: type[Exception]) -> str:
    with pytest.raises(error) as caught:
        train(config)
    assert not Path(config.runs, config.name).exists()
    return str(caught.value)


def test_what_cannot_be_cut_is_refused_before_any_work(recipe):
    config = recipe(batch=1, micro_batch=1)
    slabs = ClusterConfig(workers=8, slabs=8)
    text = refused(replace(config, cluster=slabs), ConfigError)
    assert text.startswith("24 cells of the first axis of space are too few for 8 slabs: each needs 4 of them, as the ")
    config = replace(config, cluster=ClusterConfig(workers=2, slabs=2))
    text = refused(replace(config, network=replace(config.network, boundary="reflect")), ConfigError)
    assert text.startswith("network.boundary is reflect, but a volume in 2 slabs ends in zeros; ")
    text = refused(replace(config, cluster=ClusterConfig(workers=4, slabs=2)), InputError)
    assert "makes 1, fewer than cluster.workers 4 in 2 slabs take at once" in text


def test_blocks_whose_last_is_too_thin_are_refused_also_for_a_run_that_goes_on(recipe):
    words = r"blocks of 10 x 24 cells .* one of which sees 4 cells of the first axis, too few for 2 slabs; take another"
    config = recipe("thin", steps=2, validate_every=2, batch=1)
    config = replace(config, data=replace(config.data, block=[10, 24], halo=[0, 0]))
    shared = replace(config, cluster=ClusterConfig(workers=2, slabs=2))
    tiling = Tiling((10, 24), (0, 0))
    assert check_training(config, Volume.open(config.data), tiling) == tiling
    with pytest.raises(InputError, match=words):
        check_training(shared, Volume.open(config.data), tiling)
    run = train(config)
    in_blocks(run)
    with pytest.raises(InputError, match=words):
        train(shared, resume=True)


def test_what_one_process_cannot_map_whole_is_scored_in_blocks(recipe, monkeypatch, capsys):
    """As of a run in slabs, each of which fits: its own tiling says nothing of one process."""
    run = train(recipe("scored", steps=2, validate_every=2))
    whole = evaluate(EvaluateConfig(run=str(run.folder)))
    monkeypatch.setattr("pipeline.scoring.scorer.memory_here", lambda cuda: Memory(60_000, "free"))
    monkeypatch.setattr("pipeline.planning.tiling._map_window", counted := Counted(tiling_module._map_window))
    blocks = evaluate(EvaluateConfig(run=str(run.folder)))
    assert counted.calls > 1
    assert blocks.oa == pytest.approx(whole.oa, abs=0.05)


def test_a_worker_needs_the_memory_of_its_slab_and_is_told_how_many_would_do(recipe):
    def tried(workers: int, slabs: int, memory: str) -> None:
        config = recipe(batch=1, memory=memory)
        far = ClusterConfig(workers=workers, slabs=slabs, address="ray://elsewhere")
        check_training(replace(config, cluster=far), Volume.open(config.data))

    tried(1, 1, "0.14MB")
    with pytest.raises(InputError) as caught:
        tried(1, 1, "0.07MB")
    text = str(caught.value)
    assert text.startswith("a training step on 1 x [24, 24] cells needs 0.1")
    count = int(text.split("share each sample by cluster.slabs ")[1].split(" ")[0])
    assert text.split("share each sample by cluster.slabs ")[1].startswith(f"{count} and as many cluster.workers")
    tried(count, count, "0.07MB")
    if count > 2:
        with pytest.raises(InputError):
            tried(count - 1, count - 1, "0.07MB")
