"""The page of a run: complete, escaped, self-contained, for runs that ended and runs that did not."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from mlflow.tracking import MlflowClient

from datasets.config import SplitConfig
from datasets.store import write_volume
from pipeline.checkpoints.storage import directory_storage
from pipeline.cli import main
from pipeline.config import ReportConfig
from pipeline.report.card import split_in_words
from pipeline.report.report import report, write_report
from pipeline.run import Run
from pipeline.tracking.session import note_machine
from pipeline.training.context import Context
from pipeline.training.loop import fit, peak_memory
from pipeline.training.prepare import prepare
from tests.pipeline.conftest import tiny_dataset
from tests.pipeline.report.pages import HOSTILE, SECTIONS, Page, hostile_run, settings


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A 2-D run that came to its end, whose texts try to break out of the page."""
    return hostile_run(tmp_path_factory.mktemp("ended"))


@pytest.fixture
def copied(ended: Run, tmp_path: Path) -> Callable[..., Run]:
    """A copy of the run that ended, as if it had not: stopped, without its scores, and without what is named."""

    def make(*without: str, interrupted: bool = True) -> Run:
        folder = tmp_path / "runs" / "tiny"
        shutil.copytree(ended.folder, folder)
        for name in ("metrics.json", "report.html", *without):
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if interrupted:
            (folder / "outcome.json").write_text(json.dumps({"step": 4, "interrupted": True}))
        return Run.open(folder)

    return make


def test_training_ends_with_a_page_that_says_everything(ended: Run, capsys: pytest.CaptureFixture[str]) -> None:
    page, metrics = Page(ended.folder / "report.html"), ended.read("metrics.json")
    assert page.open == []
    assert [item["id"] for item in page.all("section")] == [*SECTIONS, "again"]
    assert "Report of a run: finished after 4 steps" in page.text
    assert "Scores on the test part" in page.text
    for key in ("oa", "aa", "kappa", "miou"):
        assert f"{metrics[f'test/{key}']:.3f}" in page.text
    for word in (*HOSTILE, "<i>tiny</i>", "3 layers: 4 d4 u4", f"{metrics['parameters']:,}", metrics["leaks"]):
        assert word in page.text
    assert page.pictures == {
        "Learning curves", "Map of the labels and of the parts of the split", "Data", "Picture of the leak report",
        "Confusion matrix of the test part", "Relative error of the recovered input over the steps",
        "Peak memory of a training step over the number of layers",
    }  # fmt: skip
    machine, started = ended.read("machine.json"), ended.read("started.json")["sessions"]
    for word in (machine["processor"], machine["versions"]["torch"], machine["system"], started[0]["code"]):
        assert word in page.text
    assert ended.prepared.volume_digest in page.text
    assert ended.prepared.split_digest in page.text
    assert "measured" in page.text
    artifacts = MlflowClient(ended.tracking_uri).list_artifacts(ended.read("tracking.json")["run_id"])
    assert "report.html" in {item.path for item in artifacts}


def test_nothing_a_user_writes_becomes_markup(ended: Run) -> None:
    page = Page(ended.folder / "report.html")
    assert {"script", "b", "i", "u"} & {tag for tag, _ in page.elements} == set()
    assert "<script" not in page.source


def test_the_page_needs_nothing_from_elsewhere(ended: Run) -> None:
    page = Page(ended.folder / "report.html")
    named = [
        str(value) for _, attributes in page.elements for key, value in attributes.items() if key in ("src", "href")
    ]
    assert all(value.startswith(("data:", "#")) for value in named)
    assert {tag for tag, _ in page.elements} & {"script", "iframe", "object", "embed", "base", "form"} == set()
    (style,) = re.findall(r"<style>(.*?)</style>", page.source, re.DOTALL)
    assert not re.search(r"url\(|@import|@font-face|//", style)
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    anchors = {value.removeprefix("#") for value in named if value.startswith("#")}
    assert anchors == {str(attributes["id"]) for attributes in page.all("section")}


def test_the_page_can_be_heard_and_not_only_seen(ended: Run) -> None:
    page = Page(ended.folder / "report.html")
    assert page.all("html") == [{"lang": "en"}]
    assert all(len(str(image["alt"])) > 20 for image in page.all("img"))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(cell.get("scope") in ("row", "col") for cell in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))


def test_the_classes_are_scored_as_the_run_scored_them(ended: Run) -> None:
    page, metrics = Page(ended.folder / "report.html"), ended.read("metrics.json")
    matrix = np.asarray(metrics["confusion"])
    for k, name in enumerate(HOSTILE):
        hit, true, given = matrix[k, k], matrix[k].sum(), matrix[:, k].sum()
        cells = f"{ended.prepared.counts['train'][k]:,} {ended.prepared.counts['validation'][k]:,} {true:,}"
        precision = f"{hit / given:.3f}" if given else "-"
        assert f"{name} {cells} {hit / true:.3f} {precision} {hit / (true + given - hit):.3f}" in page.text


def test_a_forest_that_was_scored_beside_it_is_shown(copied: Callable[..., Run], ended: Run) -> None:
    run = copied(interrupted=False)
    scored = ended.read("metrics.json")
    forest = {key.replace("test/", "forest/"): 0.123 for key in scored if key.startswith("test/iou/")}
    run.write("metrics.json", scored | forest)
    text = Page(write_report(run)).text
    assert "IoU of a random forest" in text
    assert text.count("0.123") == len(forest) > 0


def test_what_can_be_typed_to_make_it_again_is_exact(ended: Run) -> None:
    page = Page(ended.folder / "report.html")
    lines = [line for text in page.words for line in text.splitlines() if "-m pipeline" in line]
    assert ".venv/bin/python -m pipeline convert volume.yaml" in lines
    assert ".venv/bin/python -m pipeline train run.yaml --data.source surveys/tiny.zarr --name tiny-again" in lines
    run_yaml, volume_yaml = (text for text in page.words if text.startswith(("name: tiny\n", "source: made here\n")))
    assert yaml.safe_load(run_yaml)["network"]["layers"] == "4 d4 u4"
    assert yaml.safe_load(volume_yaml) == {"source": "made here", "out": "surveys/tiny.zarr", "name": "<u>"}


def test_code_that_no_commit_holds_is_warned_of(copied: Callable[..., Run], ended: Run) -> None:
    run = copied(interrupted=False)
    run.write("metrics.json", ended.read("metrics.json"))
    session = {"at": "2026-01-01T00:00:00+00:00", "command": ["-m", "pipeline", "train", "a b.yaml"], "workers": 0}
    run.write("started.json", {"sessions": [session | {"code": "c0ffee-dirty"}, session | {"code": "decade"}]})
    text = Page(write_report(run)).text
    assert "The code had changes that no commit holds: the commit alone does not reproduce this run." in text
    assert "started and resumed from different commits: c0ffee-dirty, decade." in text
    assert "git checkout decade" in text
    assert "python -m pipeline train 'a b.yaml'" in text


def test_an_interrupted_run_shows_what_there_is_and_keeps_the_test_part_for_the_end(copied: Callable[..., Run]) -> None:
    run = copied("pictures", "leaks.json")
    run.pictures.mkdir()
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    page = Page(write_report(run))
    assert "Report of a run: interrupted at step 4 of 4; best checkpoint so far of step" in page.text
    assert "This run has not come to its end." in page.text
    assert "Scores on the validation part" in page.text
    assert "test part:" not in page.text
    assert "Confusion matrix of the validation part" in page.pictures
    assert "Picture of the leak report" in page.pictures
    after = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*") if path.name != "report.html"}
    assert after.keys() == before.keys()
    assert all(after[path] == before[path] for path in before if path != run.folder)


def test_scores_of_another_checkpoint_are_not_shown(copied: Callable[..., Run], ended: Run) -> None:
    run = copied()
    run.write("metrics.json", ended.read("metrics.json") | {"best_step": 1})
    assert "Scores on the validation part" in Page(write_report(run)).text


def test_a_run_that_was_killed_before_its_first_checkpoint(copied: Callable[..., Run]) -> None:
    run = copied("pictures", "leaks.json", "checkpoints", "outcome.json", "machine.json", interrupted=False)
    (run.folder / "history.jsonl").write_text('{"step": 1, "loss": 1.5}\n{"step": 2, "lo')
    page = Page(write_report(run))
    assert "not ended (still at work, or killed) at step 1 of 4; no checkpoint yet" in page.text
    assert "Scores on" not in page.text
    assert "No picture: data, labels of the validation part" in page.text
    assert "No step noted how well its backward pass recovered the input." in page.text
    assert page.text.count("Not noted by this run.") == 1


def test_a_page_without_its_volume_keeps_what_the_run_drew(copied: Callable[..., Run], ended: Run) -> None:
    run = copied(interrupted=False)
    run.write("metrics.json", ended.read("metrics.json"))
    gone = replace(run.config.data, source=str(run.folder / "gone.zarr"))
    page = Page(write_report(replace(run, config=replace(run.config, data=gone))))
    assert "The volume cannot be shown: no volume at" in page.text
    assert "Data" in page.pictures
    assert "Peak memory of a training step over the number of layers" not in page.pictures


def test_a_volume_of_three_dimensions_is_shown_in_sections(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    labels = (np.arange(8)[None, None] > 3) * np.ones((16, 16, 8), np.uint8)
    cube = xr.Dataset(
        {
            "data": (("inline", "crossline", "depth"), (labels + draw.normal(0, 0.5, labels.shape)).astype(np.float32)),
            "labels": (
                ("inline", "crossline", "depth"),
                labels.astype(np.uint8),
                {"class_names": ["rest", "salt"], "class_values": [0, 1], "unlabelled": 255},
            ),
        },
        attrs=tiny_dataset().attrs | {"synthesis": json.dumps({"shape": [16, 16, 8]})},
    )
    source = write_volume(cube, tmp_path / "cube.zarr")
    config = settings(source, tmp_path / "runs", ["inline", "crossline", "depth"])
    config = replace(config, training=replace(config.training, steps=2))
    run = prepare(replace(config, network=replace(config.network, states="exact", repeat=2)))

    class Lines:
        def metrics(self, step: int, values: dict[str, float]) -> None:
            with (run.folder / "history.jsonl").open("a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")

        def progress(self, line: str) -> None: ...

    fit(run, Context(store=directory_storage(run.checkpoints), listener=Lines()))
    page = Page(write_report(run))
    assert "Sections through the volume, where the labels show most" in page.text
    assert "inline 16, crossline 16, depth 8" in page.text
    assert "0 in all 2 steps: every backward pass recovered its input bit for bit." in page.text
    assert ".venv/bin/python -m pipeline synthesize volume.yaml" in page.source


def test_the_command_logs_the_page_where_the_store_still_knows_the_run(
    ended: Run, copied: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pages" / "page.html"
    assert report(ReportConfig(run=str(ended.folder), out=str(out))) == out
    assert capsys.readouterr().out == f"report:      {out}\nMLflow:      logged as page.html\n"
    run = copied()
    assert main(["report", str(run.folder)]) == 0
    shown = capsys.readouterr().out
    assert f"report:      {run.folder / 'report.html'}" in shown
    assert f"not logged: there is no {run.folder.parent / 'mlflow.db'}" in shown
    assert not (run.folder.parent / "mlflow.db").exists()


def test_what_cannot_be_done_is_said_before_any_work(
    ended: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("precious")
    (tmp_path / "folder.html").mkdir()
    for words, sentence in (
        ([], "name the folder of a run: python -m pipeline report runs/NAME"),
        ([tmp_path], f"{tmp_path} is not the folder of a run"),
        ([ended.folder, "--out", tmp_path / "page.pdf"], "which does not end in .html; name the page itself"),
        ([ended.folder, "--out", tmp_path / "folder.html"], "folder.html is a folder; name the page itself"),
        ([ended.folder, "--out", mine], "mine.html exists already; choose another place, or pass --overwrite"),
    ):
        assert main(["report", *map(str, words)]) == 2
        assert sentence in capsys.readouterr().err
    assert mine.read_text() == "precious"
    assert main(["report", str(ended.folder), "--out", str(mine), "--overwrite"]) == 0
    assert mine.read_text().startswith("<!doctype html>")


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="only Linux forgets a peak")
def test_the_peak_of_a_run_is_not_that_of_its_preparation(copied: Callable[..., Run]) -> None:
    ballast = np.ones(2**25)
    before = peak_memory(torch.device("cpu"))
    del ballast
    run = copied("machine.json")
    note_machine(run)
    assert {"processor", "cores", "gpus", "resident", "versions"} <= run.read("machine.json").keys()
    assert before - peak_memory(torch.device("cpu")) > 150


def test_each_kind_of_split_is_said_in_words() -> None:
    said = {
        "blocks": "blocks of 16 cells dealt 0.5 / 0.15 / 0.35 to training, validation and test",
        "wells": "cells within 4 of the wells train and validate (2 wells validate), all others test",
        "points": "25 cells of each class train, 10 validate, all others test",
    }
    for method, words in said.items():
        assert split_in_words(vars(SplitConfig(method=method))) == words
