"""The page of a sweep: what was found, what was turned away and failed, as far as it has come."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.config import RunConfig
from pipeline.config_sweep import Range, SweepConfig
from pipeline.pictures.curves import draw_trials
from pipeline.recipe import dump_recipe
from pipeline.sweep.record import TURNED_AWAY, forget_trials, write_trials
from pipeline.training.prepare import prepare
from tests.pipeline.report.pages import Page


@pytest.fixture
def sweep(recipe: Callable[..., RunConfig]) -> Path:
    """A sweep at work: one trial has begun, one choice was turned away."""
    config = recipe("searched", memory="2MB")
    searched = SweepConfig(
        depth=[3, 5], rank=[2, 9000], levels=[1], rate=Range(1e-3, 1e-2), objectives=["score", "time"]
    )
    config = replace(config, sweep=searched)
    folder = Path(config.runs) / "searched-sweep"
    run = prepare(replace(config, name="trial-one", runs=str(folder)))
    (run.folder / "history.jsonl").write_text(json.dumps({"step": 4, "loss": 1.0, "validation/miou": 0.625}) + "\n")
    config = replace(config, tracking=replace(config.tracking, uri=f"sqlite:///{folder / 'none.db'}"))
    (folder / "config.yaml").write_text(dump_recipe(config))
    (folder / "sweep.json").write_text(json.dumps({"run_id": "0", "memory": 2_500_000, "code": "abc123-dirty"}))
    refused = {"choice": {"depth": 3, "rank": 9000, "levels": 1, "rate": 0.002}, "reason": "needs <124> MB"}
    (folder / TURNED_AWAY).write_text(json.dumps(refused) + "\n")
    return folder


def page_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["report", str(folder)]) == 0
    assert f"report:      {folder / 'report.html'}" in capsys.readouterr().out
    page = Page(folder / "report.html")
    assert not page.open, "an element is not closed"
    assert not page.all("script")
    return page.source


def test_a_sweep_at_work_shows_what_there_is(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = page_of(sweep, capsys)
    for words in (
        "not ended (still at work, or stopped); 1 trials begun",
        '<th scope="row">trial-one</th><td>4 d4 u4</td><td>1</td><td>0.625</td>',
        "0.001 to 0.01, logarithmic",
        "highest validation mIoU, lowest s a step",
        "depth 3, levels 1, rank 9000, learning rate 0.002</th><td>needs &lt;124&gt; MB",
        "memory of a worker</dt><dd>2.5 MB",
        "git checkout abc123\n",
        "--resume    # go on with this one",
    ):
        assert words in text, words
    assert "<img" not in text


def test_a_sweep_that_ended_shows_trials_pictures_and_failures(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = {"choice": {"depth": 5, "rank": 2, "levels": 1, "rate": 0.004}, "trial": "trial-one", "run_id": "0"}
    best |= {"score": 0.75, "parameters": 1234, "memory": 1_500_000, "time": 0.25, "step": 8}
    write_trials(sweep, [best | {"front": True, "stopped": True}], ["Traceback\n  at <here>\nValueError: it <broke>\n"])
    (sweep / "pictures").mkdir()
    draw_trials([{"depth": 5, "rank": 2, "score": 0.75, "steps": 8}], sweep / "pictures" / "trials.png")
    text = page_of(sweep, capsys)
    cells = "<td>5</td><td>1</td><td>2</td><td>0.004</td><td>0.750</td><td>1,234</td><td>1.5 MB</td><td>0.25</td>"
    for words in (
        f"trial-one</th>{cells}<td>8 (stopped)</td><td>yes</td>",
        "A trial failed: ValueError: it &lt;broke&gt;",
        'src="data:image/png;base64,',
        "The best is depth 5, levels 1, rank 2, learning rate 0.004.",
        "--resume --finish    # retrain, test and register the best",
    ):
        assert words in text, words
    assert "at &lt;here&gt;" not in text
    assert text.count("<figure>") == 1
    forget_trials(sweep)  # as a sweep does that goes on
    assert "not ended (still at work, or stopped)" in page_of(sweep, capsys)


def test_a_page_of_nothing_is_refused_and_makes_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "none"), "--out", str(tmp_path / "new" / "page.html")]) == 2
    assert "none" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
