"""A sweep that cannot work is refused before anything is made."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from datasets.errors import InputError
from pipeline.config import RunConfig
from pipeline.config_sweep import SweepConfig
from pipeline.sweep.tune import tune
from pipeline.training.train import alone

Make = Callable[..., RunConfig]


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


def test_a_sweep_has_one_driver(recipe: Make) -> None:
    config = replace(recipe(), sweep=SweepConfig(depth=[3, 5], rank=[2], levels=[1]))
    folder = Path(config.runs) / f"{config.name}-sweep"
    with alone(folder), pytest.raises(InputError, match=rf"another process is writing {folder}; wait for its end"):
        tune(config)
