import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient

from datasets.config import DataConfig, SplitConfig
from datasets.errors import InputError
from datasets.store import open_volume, write_volume
from datasets.volume import Volume
from models.config import NetworkConfig
from pipeline.checkpoints.checkpoint import Meta, Snapshot, best_checkpoint, load_segmenter
from pipeline.config import EvaluateConfig, RunConfig
from pipeline.mapping.evaluate import evaluate, table
from pipeline.run import Run
from pipeline.scoring.metrics import scores
from pipeline.training.loop import new_segmenter
from pipeline.training.prepare import prepare
from pipeline.training.train import open_tracking


@pytest.fixture(scope="module")
def make_run(tmp_path_factory: pytest.TempPathFactory):
    """Make a run with a checkpoint of random weights: how it is scored matters, not how well."""

    def make(volume: Path, name: str = "fields", buffer: int = 0, space: Sequence[str] = ("y", "x")) -> Run:
        run = prepare(
            RunConfig(
                name=name,
                runs=str(tmp_path_factory.mktemp("evaluate")),
                data=DataConfig(source=str(volume), space=[*space]),
                split=SplitConfig(block=4, buffer=buffer, fractions=[0.5, 0.2, 0.3]),
                network=NetworkConfig(layers="4 d4 u4", repeat=2 if "band" in space else 1),
            )
        )
        (run.checkpoints / "step-000007").mkdir()
        state = new_segmenter(run).state_dict()
        Snapshot(Meta(7, 0.5), state, {}, run.prepared.segmenter.to_json()).write(run.checkpoints / "step-000007")
        return run

    return make


@pytest.fixture(scope="module")
def run(make_run, tiny_volume) -> Run:
    return make_run(tiny_volume)


def test_the_scores_are_those_of_labelled_test_cells_only(run, tiny_volume, capsys):
    measured = evaluate(EvaluateConfig(str(run.folder)))
    ds = open_volume(tiny_volume)
    raw = np.where(ds["valid"], ds["data"], np.nan).astype(np.float32)
    with torch.no_grad():
        logits = load_segmenter(best_checkpoint(run.folder))(torch.from_numpy(raw)[None])[0].numpy()
    labels = ds["labels"].values
    counted = (labels != 255) & (run.split.values == 3)
    right = logits.argmax(axis=0)[counted] == labels[counted]
    assert 0 < counted.sum() < (labels != 255).sum()
    assert measured.oa == pytest.approx(right.mean())
    assert sum(measured.support) == counted.sum()
    assert 0 < measured.oa < 1
    printed = capsys.readouterr().out
    assert "fields (step-000007), test part" in printed
    assert f"mIoU {measured.miou:.3f}" in printed
    assert "water" in printed
    stored = run.read("metrics.json")
    assert stored["best_step"] == 7
    assert stored["test/miou"] == measured.miou
    assert np.sum(stored["confusion"]) == counted.sum()


def test_labels_outside_the_test_part_do_not_matter(run, tiny_volume, tmp_path):
    ds = open_volume(tiny_volume).load()
    labels = ds["labels"].values.copy()
    outside = run.split.values != 3
    labels[outside] = np.where(labels[outside] == 255, 255, 1 - labels[outside])
    ds["labels"].values[:] = labels
    measured = evaluate(EvaluateConfig(str(run.folder)))
    changed = write_volume(ds, tmp_path / "changed.zarr")
    recipe = run.folder / "config.yaml"
    prepared = run.folder / "prepared.json"
    before, decided = recipe.read_text(), prepared.read_text()
    try:
        recipe.write_text(before.replace(str(tiny_volume), str(changed)))
        with pytest.raises(InputError, match=r"is no longer the volume that .* was prepared with"):
            evaluate(EvaluateConfig(str(run.folder)))
        digest = Volume.open(replace(run.config.data, source=str(changed))).digest()
        prepared.write_text(decided.replace(run.prepared.volume_digest, digest))
        assert evaluate(EvaluateConfig(str(run.folder))) == measured
    finally:
        recipe.write_text(before)
        prepared.write_text(decided)


def test_the_scores_go_to_the_runs_mlflow_run(run):
    run_id = open_tracking(run)
    measured = evaluate(EvaluateConfig(str(run.folder)))
    client = MlflowClient(run.tracking_uri)
    logged = client.get_run(run_id).data.metrics
    assert logged["test/miou"] == pytest.approx(measured.miou)
    assert logged["test/iou/land"] == pytest.approx(measured.iou[1])
    assert "metrics.json" in {item.path for item in client.list_artifacts(run_id)}


def test_another_model_is_scored_on_this_split_and_not_noted_down(run, make_run, tiny_volume, capsys):
    other = make_run(tiny_volume, "other")
    before = run.read("metrics.json")
    own = evaluate(EvaluateConfig(str(other.folder)))
    assert evaluate(EvaluateConfig(str(run.folder), model=str(other.folder))) == own
    assert "other (step-000007), test part" in capsys.readouterr().out
    assert run.read("metrics.json") == before


@pytest.mark.parametrize(("own", "its"), [("y x", "band y x"), ("band y x", "y x"), ("band y x", "y band x")])
def test_a_model_with_another_view_of_the_volume_scores_as_it_does_by_itself(make_run, tiny_volume, own, its):
    run, other = (make_run(tiny_volume, name, space=space.split()) for name, space in (("own", own), ("its", its)))
    assert run.prepared.split_digest == other.prepared.split_digest
    alone = evaluate(EvaluateConfig(str(other.folder)))
    assert evaluate(EvaluateConfig(str(run.folder), model=str(other.folder))) == alone


def test_a_model_of_other_classes_is_refused(run, make_run, tiny_volume, tmp_path):
    ds = open_volume(tiny_volume).load()
    ds["labels"].attrs["class_names"] = ["land", "water"]
    swapped = make_run(write_volume(ds, tmp_path / "swapped.zarr"), "swapped")
    with pytest.raises(InputError, match=r"^swapped .* has the classes \['land', 'water'\], .* \['water', 'land'\]$"):
        evaluate(EvaluateConfig(str(run.folder), model=str(swapped.folder)))


def test_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"is not the folder of a run"):
        evaluate(EvaluateConfig(str(tmp_path)))


def test_models_side_by_side():
    good, poor = scores(np.array([[8, 2], [0, 0]])), scores(np.array([[5, 5], [0, 0]]))
    lines = table(["salt", "rest"], {"network": good, "random forest": poor}).splitlines()
    assert lines[0].split() == ["IoU", "cells", "network", "random", "forest"]
    assert lines[1].split() == ["salt", "10", "0.800", "0.500"]
    assert lines[2].split() == ["rest", "0", "-", "-"]
    assert lines[3].split() == ["OA", "10", "0.800", "0.500"]
    assert lines[-1].split() == ["mean", "IoU", "10", "0.800", "0.500"]


def test_a_leak_planted_into_a_runs_split_is_found(make_run, tiny_volume, capsys):
    run = make_run(tiny_volume, "leaking", buffer=1)
    config = EvaluateConfig(str(run.folder))
    evaluate(config)
    assert "split: no leak: every test cell is more than 1 cell from every train cell" in capsys.readouterr().out
    assert run.read("leaks.json")["proven"] is True
    y, x = next((y, x) for y, x in np.argwhere(run.split.values == 1) if x and run.split.values[y, x - 1] != 1)
    run.split.values[y, x - 1] = 3
    run.split.to_dataset(name="split").to_zarr(run.folder / "split.zarr", mode="w", zarr_format=3, consolidated=False)
    evaluate(config)
    assert re.search(r"split: LEAK: \d+ of \d+ test cells? lies? within the buffer of 1 cell", capsys.readouterr().out)
    found = run.read("leaks.json")
    (gap,) = (gap for gap in found["gaps"] if gap["parts"] == ["train", "test"])
    assert gap["first_violation"][1] == [y, x - 1]
    assert f"y {y} ({1000 - 10 * y} m), x {x - 1} ({500 + 10 * (x - 1)} m)" in gap["first_violation_places"]
    assert (found["proven"], found["spacing_m"]) == (False, [10.0, 10.0])
    assert (run.pictures / "leaks.png").is_file()
