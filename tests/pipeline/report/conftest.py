"""Folders of sweeps, at work and ended, as ``tune`` leaves them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config import RunConfig
from pipeline.config_sweep import Range, SweepConfig
from pipeline.pictures.sweep import draw_trials
from pipeline.recipe import dump_recipe
from pipeline.training.prepare import prepare
from pipeline.trials import TURNED_AWAY, write_trials


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


@pytest.fixture
def ended_sweep(sweep: Path) -> Path:
    """The sweep at its end: one trial was stopped, one failed."""
    best = {"choice": {"depth": 5, "rank": 2, "levels": 1, "rate": 0.004}, "trial": "trial-one", "run_id": "0"}
    best |= {"score": 0.75, "parameters": 1234, "memory": 1_500_000, "peak": 9_000_000, "time": 0.25, "step": 8}
    write_trials(sweep, [best | {"front": True, "stopped": True}], ["Traceback\n  at <here>\nValueError: it <broke>\n"])
    (sweep / "pictures").mkdir()
    draw_trials([{"depth": 5, "rank": 2, "score": 0.75, "steps": 8}], sweep / "pictures" / "trials.png")
    return sweep
