"""A volume whose slabs take turns is trained on, scored and mapped in one piece, in less memory, as without."""

import errno
import json
import math
import re
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from datasets.errors import InputError
from datasets.volume import Volume
from models.config import ConfigError, NetworkConfig, SegmenterConfig
from models.peak import Workload, training_peak
from models.shelf import FileShelf
from models.stream import Stream
from pipeline import cli
from pipeline.config import BatchConfig, ClusterConfig, EvaluateConfig, PredictConfig, RunConfig
from pipeline.mapping.batch import Task, batch, map_task
from pipeline.mapping.evaluate import evaluate
from pipeline.mapping.predict import predict
from pipeline.planning import memory
from pipeline.planning.machine import Memory
from pipeline.planning.turns import check_elsewhere, elsewhere, stream_of
from pipeline.recipe import dump_recipe
from pipeline.refusal import refusal
from pipeline.run import Run
from pipeline.scoring.scorer import run_scorer
from pipeline.training.train import train


def in_turns(config: RunConfig, turns: int, scratch: Path | None = None, **cluster: object) -> RunConfig:
    settings = ClusterConfig(workers=0, turns=turns, scratch=scratch and str(scratch), loader_workers=0)
    return replace(config, cluster=replace(settings, **cluster))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes that went to scratch files."""
    written: list[int] = []
    true = FileShelf._away
    monkeypatch.setattr(
        FileShelf, "_away", lambda mine, tensor, key: (written.append(tensor.nbytes), true(mine, tensor, key))[1]
    )
    return written


@pytest.mark.parametrize("states", ["float", "exact"])
def test_a_run_in_turns_is_that_of_the_whole_volume(recipe, tmp_path, counted, states):
    config = recipe("whole", steps=6, validate_every=3)
    config = replace(config, network=replace(config.network, states=states))
    whole = train(config)
    assert not counted
    turns = train(in_turns(replace(config, name="turns"), 4, tmp_path))
    assert counted
    one, other = ({**run.read("metrics.json")} for run in (whole, turns))
    assert other["test/miou"] == pytest.approx(one["test/miou"], abs=0.03)
    assert other["validation_miou"] == pytest.approx(one["validation_miou"], abs=0.03)
    assert (other["inversion_error"] == 0) == (states == "exact")
    mine, theirs = (run_scorer(Run.open(run.folder)).segmenter.state_dict() for run in (whole, turns))
    for name, weights in mine.items():
        assert (weights - theirs[name]).abs().max() <= 1e-3 * weights.abs().max(), name
    assert not list(tmp_path.glob("tmp*")), "the scratch file has no name"
    counted.clear()
    assert evaluate(EvaluateConfig(run=str(turns.folder))).miou == pytest.approx(other["test/miou"], abs=1e-6)
    assert counted


def test_a_run_goes_on_in_turns(recipe, tmp_path, counted):
    config = recipe("resumed", steps=4, validate_every=2)
    run = train(config)
    shutil.rmtree(run.checkpoints / "step-000004")
    run = train(in_turns(config, 4, tmp_path), resume=True)
    assert counted
    assert run.read("metrics.json")["steps"] == 4


@pytest.mark.parametrize("scratch", [False, True])
def test_a_map_in_turns_is_that_of_the_whole_volume(recipe, tmp_path, counted, capsys, scratch):
    config = recipe("mapper", steps=2, validate_every=2)
    run = train(config)
    maps = []
    for name, turns in (("whole", 1), ("turns", 6)):
        cluster = ClusterConfig(workers=0, turns=turns, scratch=str(tmp_path) if scratch and turns > 1 else None)
        out = str(tmp_path / f"{name}.zarr")
        predict(PredictConfig(str(run.folder), config.data.source, out, runs=config.runs, cluster=cluster))
        maps.append(xr.open_zarr(out, mask_and_scale=False).load())
        assert ("mapping 24 x 24 cells in one piece, in 6 turns" in capsys.readouterr().out) == (turns > 1)
    assert bool(counted) == scratch
    np.testing.assert_allclose(maps[1]["probability"], maps[0]["probability"], atol=1e-5)
    assert (maps[1]["class"] != maps[0]["class"]).mean() < 0.01


def test_a_table_is_mapped_in_turns_by_this_process_or_by_tasks(recipe, tmp_path, counted):
    config = recipe("many", steps=2, validate_every=2)
    run = train(config)
    table = tmp_path / "volumes.csv"
    table.write_text(f"input,output\n{config.data.source},{tmp_path / 'one.zarr'}\n")
    cluster = ClusterConfig(workers=0, turns=3, scratch=str(tmp_path))
    (outcome,) = batch(BatchConfig(str(run.folder), str(table), runs=config.runs, cluster=cluster))
    assert outcome.state == "mapped"
    assert counted
    counted.clear()
    digest = run_scorer(Run.open(run.folder)).digest
    task = Task(str(run.folder), "", digest, config.data.source, str(tmp_path / "two.zarr"), cluster=cluster)
    assert map_task(task, 1)[0] == "mapped"
    assert counted


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("scratch", [False, True])
def test_the_plan_says_what_turns_take_and_where(recipe, tmp_path, capsys, scratch, gpu):
    path = tmp_path / "tiny.yaml"
    path.write_text(dump_recipe(recipe(batch=1)))
    words = ["plan", str(path), "--memory", "2GB"]
    assert cli.main([*words, "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert (whole["turns"], whole["host_bytes"], whole["scratch_bytes"]) == (1, 0, 0)
    words += ["--cluster.turns", "4", "--cluster.gpu", str(gpu).lower()]
    words += ["--cluster.scratch", str(tmp_path)] * scratch
    assert cli.main([*words, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    waiting = 2 * 24 * 24 * 4 * 2 * 4  # states and adjoint, each with its increment, of 4 channels
    assert plan["turns"] == 4
    assert plan["scratch_bytes"] == (waiting if scratch else 0)
    assert plan["host_bytes"] > (0 if scratch else waiting) if gpu else plan["host_bytes"] == 0
    assert plan["training_bytes"] < whole["training_bytes"]
    assert plan["prediction_bytes"] < whole["prediction_bytes"]
    assert math.prod(plan["largest_block"]) > math.prod(whole["largest_block"])
    assert plan["most_layers"] > whole["most_layers"]
    assert cli.main(words) == 0
    found = {line[2:20].strip(): line[22:] for line in capsys.readouterr().out.splitlines()}
    assert "in turns" not in found
    little = f"{0.7 * whole['training_bytes'] / 1e6:.3f}MB"
    assert cli.main(["plan", str(path), "--memory", little, "--cluster.gpu", str(gpu).lower()]) == 0
    told = {line[2:20].strip(): line[22:] for line in capsys.readouterr().out.splitlines()}
    assert re.fullmatch(r"a step fits by cluster.turns \d+( and a cluster.scratch folder)?", told["in turns"])
    assert found["training step"].endswith("(1 samples of 24 x 24, 1 at once; in 4 turns)")
    assert ("scratch" in found, "memory of host" in found) == (scratch, gpu)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"turns": 0}, r"^cluster.turns is 0; it must be 1 or more$"),
        ({"turns": 2, "slabs": 2, "workers": 2}, r"^cluster.turns is 2 and cluster.slabs 2; .* one of them to 1$"),
        (
            {"scratch": "/tmp"},
            r"^cluster.scratch is /tmp, but with cluster.turns 1 nothing waits there; raise c",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, words):
    with pytest.raises(InputError, match=words):
        ClusterConfig(**settings)


def test_a_scratch_folder_is_the_same_for_workers_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ClusterConfig(turns=2, scratch="fast").scratch == str(tmp_path / "fast")


def test_a_map_in_turns_has_neither_blocks_nor_workers():
    with pytest.raises(
        InputError, match=r"^block is \[8, 8\], but in 2 turns a volume is .*; leave out block, or take 1 turn$"
    ):
        PredictConfig(block=[8, 8], cluster=ClusterConfig(workers=0, turns=2))
    with pytest.raises(InputError, match=r"^cluster.turns is 2 and cluster.workers 4, .* set cluster.workers to 0$"):
        PredictConfig(cluster=ClusterConfig(workers=4, turns=2))


def test_thin_turns_are_refused_before_any_data_is_read(recipe, monkeypatch):
    monkeypatch.setattr(Volume, "read", None)
    with pytest.raises(ConfigError, match=r"24 cells of the first axis of space are too few for 64 slabs: .* at most"):
        train(in_turns(recipe(), 64))


def test_a_step_that_does_not_fit_is_told_in_which_turns_it_would(recipe, tmp_path):
    config = recipe(batch=1)
    segmenter, work = memory.planned_step(config, Volume.open(config.data))
    whole = training_peak(segmenter, work)
    turns = {count: training_peak(segmenter, replace(work, turns=count)) for count in (2, 4)}
    assert turns[4] < turns[2] < whole

    def tried(mine: RunConfig, size: int) -> None:
        mine = replace(mine, training=replace(mine.training, memory=f"{size / 1e6:.4f}MB"))
        memory.check_training(mine, Volume.open(config.data))

    with pytest.raises(InputError, match=r"or let slabs take turns by cluster.turns 4, or set network.states"):
        tried(config, turns[4] + 100)
    tried(in_turns(config, 4), turns[4] + 100)
    scratch = training_peak(segmenter, replace(work, turns=4, away="states"))
    assert scratch < training_peak(segmenter, replace(work, turns=8))
    with pytest.raises(InputError, match=r"let slabs take turns by cluster.turns 4 and a cluster.scratch folder, or"):
        tried(config, scratch + 100)
    tried(in_turns(config, 4, tmp_path), scratch + 100)
    with pytest.raises(InputError, match=r"take turns by cluster.turns [24],"):
        tried(replace(config, cluster=ClusterConfig(gpu=True, address="ray://far")), scratch + 100)


def test_a_scratch_folder_must_be_there_and_have_room(recipe, tmp_path, monkeypatch):
    config = recipe(batch=1)
    with pytest.raises(InputError, match=r"^cluster.scratch is .*none, which is no folder; make it first, or choose"):
        train(in_turns(config, 4, tmp_path / "none"))
    assert not (Path(config.runs) / config.name).exists()
    far = ClusterConfig(turns=4, scratch="/nowhere/at/all", address="ray://far")
    memory.check_training(replace(config, cluster=far), Volume.open(config.data))
    with pytest.raises(InputError, match=r"^cluster.scratch is /nowhere/at/all, which is no folder"):
        stream_of(far)  # as the worker finds out
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(100, 99, 1000))
    with pytest.raises(
        InputError, match=r"^the states that wait for their turn take 0.\d+ MB in cluster.scratch, but "
    ):
        train(in_turns(config, 4, tmp_path))


def test_the_memory_beside_a_gpu_is_checked_too(recipe, tmp_path):
    segmenter, work = memory.planned_step(in_turns(recipe(batch=1), 4, gpu=True), Volume.open(recipe().data))
    assert work.away == "volume"
    cluster = ClusterConfig(workers=2, turns=4, gpu=True)
    here, _ = elsewhere(segmenter, work, cluster, training=True)
    check_elsewhere(segmenter, work, cluster, Memory(2 * here, "free"), training=True)
    with pytest.raises(InputError, match=r"beside the GPU takes .* free; set cluster.scratch to a folder on a fast"):
        check_elsewhere(segmenter, work, cluster, Memory(2 * here - 1, "free"), training=True)
    on_disk = replace(cluster, scratch=str(tmp_path))
    with pytest.raises(InputError, match=r"beside the GPU takes .* free; take a smaller data.block"):
        check_elsewhere(segmenter, work, on_disk, Memory(1, "free"), training=True)
    check_elsewhere(segmenter, Workload((24, 24)), ClusterConfig(), Memory(0, "nowhere"), training=True)


def test_a_map_that_does_not_fit_in_its_turns_is_refused(recipe, tmp_path, monkeypatch):
    config = recipe("mapper", steps=2, validate_every=2)
    scorer = run_scorer(train(config))
    volume = scorer.open(config.data.source)
    monkeypatch.setattr("pipeline.scoring.scorer.memory_here", lambda cuda: Memory(40_000, "free"))
    with pytest.raises(
        InputError, match=r"^mapping \[24, 24\] cells in 2 turns needs .* MB free; take more turns, or "
    ):
        scorer.take_turns(volume, ClusterConfig(workers=0, turns=2))
    assert scorer.segmenter.network.stream is None
    monkeypatch.setattr("pipeline.scoring.scorer.memory_here", lambda cuda: None)
    scorer.take_turns(volume, ClusterConfig(workers=0, turns=2, scratch=str(tmp_path)))
    assert scorer.segmenter.network.stream == Stream(2, tmp_path)
    assert scorer.segmenter.home == torch.device("cpu")
    work = Workload((24, 24), turns=2, away="states")
    assert elsewhere(scorer.segmenter, work, ClusterConfig(turns=2, scratch="x"), training=False) == (0, 2 * 576 * 16)
    free = namedtuple("usage", "total used free")(10**6, 0, 4 * 576 * 16)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: free)
    scorer.take_turns(volume, ClusterConfig(workers=0, turns=2, scratch=str(tmp_path)), 0.5)
    with pytest.raises(InputError, match=r"^the states that wait for their turn take 0.\d+ MB"):
        scorer.take_turns(volume, ClusterConfig(workers=0, turns=2, scratch=str(tmp_path)), 0.4)


def test_a_run_whose_scratch_folder_is_gone_is_evaluated_without(recipe, tmp_path, capsys):
    (tmp_path / "scratch").mkdir()
    run = train(in_turns(recipe("gone", steps=2, validate_every=2), 4, tmp_path / "scratch"))
    (tmp_path / "scratch").rmdir()
    found = evaluate(EvaluateConfig(run=str(run.folder)))
    assert found.miou == pytest.approx(run.read("metrics.json")["test/miou"], abs=0.02)


def test_a_table_is_refused_at_once_where_there_is_no_scratch_folder(recipe, tmp_path):
    cluster = ClusterConfig(workers=0, turns=3, scratch=str(tmp_path / "none"))
    with pytest.raises(InputError, match="which is no folder"):
        batch(BatchConfig("runs/none", str(tmp_path / "none.csv"), cluster=cluster))


def test_a_plan_of_more_turns_than_there_are_rows_is_refused(recipe, tmp_path, capsys):
    path = tmp_path / "tiny.yaml"
    path.write_text(dump_recipe(recipe()))
    assert cli.main(["plan", str(path), "--cluster.turns", "64"]) == 2
    assert "24 cells of the first axis of space are too few for 64 slabs" in capsys.readouterr().err


def test_a_disk_that_fails_is_one_sentence(tmp_path):
    assert refusal(OSError(errno.EIO, "gone", "/fast")) == "/fast: the disk failed; choose another place"


def test_a_plan_is_of_the_threads_that_a_worker_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    model = memory.trial_segmenter(SegmenterConfig(NetworkConfig(layers="4"), 2, 2, ["one", "other"]))

    def planned(cuda: bool = False, **cluster: int) -> int:
        return memory.map_work(ClusterConfig(**cluster), model, (32, 32), cuda=cuda).threads

    assert planned(workers=0) == 8
    assert [planned(workers=2), planned(workers=16), planned(workers=2, cpus_per_worker=3)] == [4, 1, 3]
    assert planned(cuda=True) == planned(cuda=True, turns=2) == 0
