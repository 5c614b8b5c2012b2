"""One driver trains a run at a time; one that was refused leaves nothing."""

from dataclasses import replace
from pathlib import Path

import pytest

from datasets.errors import InputError
from datasets.storage.journal import locked
from pipeline.training.train import train

pytestmark = pytest.mark.usefixtures("blank_pictures")


def test_a_run_is_trained_by_one_process_at_a_time(recipe):
    config = recipe("busy", steps=2, validate_every=2)
    folder = Path(config.runs) / "busy"
    with locked(folder.with_name(".busy.training"), folder):
        for words in ({}, {"resume": True}):
            with pytest.raises(InputError, match=r"^another process is writing .*busy; wait for its end, or choose"):
                train(config, **words)
        assert not folder.exists()
    with pytest.raises(InputError, match=r"^no volume at .*nowhere.zarr"):
        train(replace(config, runs=str(folder.parent / "none"), data=replace(config.data, source="nowhere.zarr")))
    assert not (folder.parent / "none").exists()
    train(config)
    assert [path.name for path in Path(config.runs).iterdir() if "busy" in path.name] == ["busy"]
