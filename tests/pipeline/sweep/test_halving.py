"""A sweep that goes on compares with what its trials reached before."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler

from pipeline.config import RunConfig
from pipeline.config_sweep import SweepConfig
from pipeline.sweep.halving import Halving
from pipeline.training.prepare import prepare

Make = Callable[..., RunConfig]


@pytest.mark.parametrize("reached", [0.9, None])
def test_a_trial_is_compared_with_those_of_the_killed_driver(recipe: Make, reached: float | None) -> None:
    config = replace(recipe("trial-before"), sweep=SweepConfig(depth=[3], grace=1))
    run = prepare(config)
    rows = [{"step": 3, "loss": 1.0}, {"step": 4, "loss": 1.0, "validation/miou": reached}] if reached else []
    (run.folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    halving = Halving(config, Path(config.runs).resolve())
    new = SimpleNamespace(trial_id="new")
    halving.on_trial_add(None, SimpleNamespace(trial_id="before"))
    halving.on_trial_add(None, new)
    expected = TrialScheduler.STOP if reached else TrialScheduler.CONTINUE
    assert halving.on_trial_result(None, new, {"step": 4, "score": 0.3}) == expected


def test_a_trial_from_before_counts_with_its_best_score_as_while_it_ran(recipe: Make) -> None:
    config = replace(recipe("trial-before"), sweep=SweepConfig(depth=[3], grace=2))
    run = prepare(config)
    rows = [{"step": 4, "loss": 1.0, "validation/miou": 0.9}, {"step": 8, "loss": 1.0, "validation/miou": 0.2}]
    (run.folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    halving = Halving(config, Path(config.runs).resolve())
    new = SimpleNamespace(trial_id="new")
    halving.on_trial_add(None, SimpleNamespace(trial_id="before"))
    halving.on_trial_add(None, new)
    assert halving.on_trial_result(None, new, {"step": 8, "score": 0.5}) == TrialScheduler.STOP
