"""A sweep that goes on compares with what its trials reached before."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler

from datasets.errors import InputError
from pipeline.config import RunConfig
from pipeline.config_sweep import SweepConfig
from pipeline.sweep.halving import Halving
from pipeline.sweep.tune import tune
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


def test_a_sweep_over_no_volume_is_refused_and_leaves_nothing(recipe: Make, tmp_path: Path) -> None:
    config = replace(recipe(), sweep=SweepConfig(depth=[3, 5], rank=[2], levels=[1]))
    config = replace(config, data=replace(config.data, source=str(tmp_path / "none.zarr")))
    with pytest.raises(InputError, match=r"no volume at .*none\.zarr"):
        tune(config)
    assert not Path(config.runs).exists()


def test_a_refused_sweep_leaves_no_database(recipe: Make) -> None:
    config = replace(recipe(memory="0.001MB"), sweep=SweepConfig(depth=[3, 5], rank=[2], levels=[1]))
    with pytest.raises(InputError, match=r"needs .* there are 0\.001 MB by training.memory"):
        tune(config)
    with pytest.raises(InputError, match="--resume: there is no sweep at"):
        tune(config, resume=True)
    assert not list(Path(config.runs).glob("*"))
