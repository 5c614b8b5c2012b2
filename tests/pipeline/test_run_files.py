"""The files of a run: whole or not there, read by those who may read the others, and passwords by their owner only."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config import RunConfig, TrackingConfig
from pipeline.config_sweep import SweepConfig
from pipeline.run import Run
from pipeline.sweep.folder import begin
from pipeline.training.prepare import prepare

Make = Callable[..., RunConfig]
SECRET = "postgresql://ann:s3cr3t@127.0.0.1/mlflow"


@pytest.fixture(params=[0o022, 0o027, 0o002], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_runs_files_are_as_readable_as_any_other(recipe: Make, umask: int) -> None:
    run = prepare(recipe())
    run.write("metrics.json", {"best_step": 3})
    run.write("metrics.json", {"best_step": 4})
    files = [path for path in run.folder.iterdir() if path.is_file()]
    assert {path.name for path in files} >= {"config.yaml", "prepared.json", "description.json", "metrics.json"}
    assert {mode(path) for path in files} == {0o666 & ~umask}
    assert run.read("metrics.json") == {"best_step": 4}


@pytest.mark.usefixtures("umask")
def test_a_password_is_for_its_owner(recipe: Make, tmp_path: Path) -> None:
    config = replace(recipe(), tracking=TrackingConfig(uri=SECRET), sweep=SweepConfig(depth=[3], rank=[2], levels=[1]))
    run = prepare(config)
    assert Run.open(run.folder).config.tracking.uri == SECRET
    begin(tmp_path, config, {"run_id": "abc"})
    told = run.write("tracking.json", {"uri": SECRET, "run_id": "abc"})
    for path in (run.folder / "config.yaml", tmp_path / "config.yaml", told):
        assert "s3cr3t" in path.read_text()
        assert mode(path) == 0o600
    assert mode(run.folder / "prepared.json") != 0o600


def test_a_failed_write_leaves_the_file_as_it_was_and_nothing_beside_it(
    recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare(recipe())
    run.write("metrics.json", {"best_step": 3})
    before = sorted(run.folder.iterdir())
    real = Path.write_text

    def full(path: Path, text: str) -> int:
        real(path, text[: len(text) // 2])
        raise OSError("no room")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no room"):
        run.write("metrics.json", {"best_step": 4})
    assert sorted(run.folder.iterdir()) == before
    assert run.read("metrics.json") == {"best_step": 3}
