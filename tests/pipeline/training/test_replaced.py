"""A run that replaces another or goes on elsewhere: the old one stays until there is a new, however it ends."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from datasets.errors import InputError
from pipeline.run import Run
from pipeline.tracking.journal import read_history
from pipeline.training.train import _old_run_kept, train
from tests.pipeline.processes import largest_difference, weights_of

pytestmark = pytest.mark.usefixtures("blank_pictures")


def _no_cluster(*_: object) -> None:
    raise ConnectionError("no cluster")


def test_the_old_run_stays_until_the_new_one_has_a_checkpoint(recipe, monkeypatch):
    first = train(recipe("kept", steps=4))
    before = weights_of(first)
    monkeypatch.setattr("pipeline.training.train.train_here", _no_cluster)
    with pytest.raises(ConnectionError):
        train(recipe("kept", steps=8), overwrite=True)
    assert largest_difference(before, weights_of(Run.open(first.folder))) == 0
    monkeypatch.undo()
    refused = recipe("kept", steps=8)
    with pytest.raises(InputError):
        train(replace(refused, data=replace(refused.data, source="")), overwrite=True)
    assert largest_difference(before, weights_of(Run.open(first.folder))) == 0
    train(recipe("kept", steps=8), overwrite=True)
    assert Run.open(first.folder).config.training.steps == 8
    assert [path.name for path in first.folder.parent.iterdir() if path.name.startswith(".")] == []


def test_a_run_that_never_got_a_checkpoint_is_not_in_the_way(recipe, monkeypatch):
    monkeypatch.setattr("pipeline.training.train.train_here", _no_cluster)
    with pytest.raises(ConnectionError):
        train(recipe("second-try", steps=4))
    monkeypatch.undo()
    train(recipe("second-try", steps=4))


def test_an_overwrite_that_is_killed_costs_nothing(recipe):
    first = train(recipe("kept", steps=4))
    before = weights_of(first)
    killed = _old_run_kept(first.folder, resume=False, overwrite=True)
    killed.__enter__()  # and never leaves
    first.folder.mkdir()
    (first.folder / "prepared.json").write_text("{}")
    with pytest.raises(InputError, match=r"kept exists already; .* --overwrite"):
        train(recipe("kept", steps=8))
    refused = recipe("kept", steps=8)
    with pytest.raises(InputError, match=r"data.source is empty"):
        train(replace(refused, data=replace(refused.data, source="")), overwrite=True)
    assert largest_difference(before, weights_of(Run.open(first.folder))) == 0
    killed = _old_run_kept(first.folder, resume=False, overwrite=True)
    killed.__enter__()
    assert not first.folder.exists()
    train(recipe("kept", steps=4), resume=True)
    assert largest_difference(before, weights_of(Run.open(first.folder))) == 0
    killed = _old_run_kept(first.folder, resume=False, overwrite=True)
    killed.__enter__()
    train(recipe("kept", steps=8), overwrite=True)
    assert Run.open(first.folder).config.training.steps == 8
    assert [path.name for path in first.folder.parent.iterdir() if path.name.startswith(".")] == []


def test_what_is_no_run_is_not_deleted_for_one_that_was_hidden(recipe):
    first = train(recipe("kept", steps=4))
    killed = _old_run_kept(first.folder, resume=False, overwrite=True)
    killed.__enter__()  # and never leaves
    first.folder.mkdir()
    (first.folder / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match=r"kept is no run"):
        train(recipe("kept", steps=8), overwrite=True)
    assert (first.folder / "mine.txt").read_text() == "precious"
    assert (first.folder.with_name(".kept.replaced") / "prepared.json").is_file()


def test_a_run_goes_on_with_the_mlflow_that_knows_it(recipe, tmp_path, monkeypatch):
    config = recipe("moved", steps=4)
    run = train(config)
    (run.folder / "metrics.json").unlink()
    shutil.rmtree(run.checkpoints / "step-000004")
    strange = f"sqlite:///{tmp_path / 'strange.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", strange)
    with pytest.raises(InputError, match=rf"--resume: MLflow at {strange} does not know the run of .*; give that one"):
        train(config, resume=True)
    assert not (tmp_path / "strange.db").exists(), "to be asked, it was made"
    moved = tmp_path / "moved.db"
    shutil.copyfile(Path(config.runs) / "mlflow.db", moved)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{moved}")
    (Path(config.runs) / "mlflow.db").unlink()
    assert train(config, resume=True).tracking_uri == f"sqlite:///{moved}"
    assert Run.open(run.folder).tracking_uri == f"sqlite:///{moved}"
    assert not (Path(config.runs) / "mlflow.db").exists()
    assert len(read_history(run)) == 4


def test_a_run_that_is_killed_while_it_is_scored_has_not_ended(recipe, monkeypatch):
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    config = recipe("scored", steps=4)
    asked = iter([False, True, True])
    monkeypatch.setattr("pipeline.training.train.asked_to_stop", lambda: _Asked(asked))
    with pytest.raises(KeyboardInterrupt):
        train(config)
    folder = Path(config.runs) / "scored"
    assert Run.open(folder).read("outcome.json") == {"step": 2, "interrupted": True}
    monkeypatch.undo()
    monkeypatch.setattr("pipeline.training.finish.predict_classes", killed)
    with pytest.raises(KeyboardInterrupt):
        train(config, resume=True)
    assert Run.open(folder).read("outcome.json") == {}
    monkeypatch.undo()
    train(config, resume=True)
    assert Run.open(folder).read("outcome.json") == {"step": 4, "interrupted": False}


class _Asked:
    """Asks a run to stop when it is told to."""

    def __init__(self, answers) -> None:
        self._answers = answers

    def __enter__(self) -> "_Asked":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def is_set(self) -> bool:
        return next(self._answers)


def test_runs_do_not_go_into_the_upload_of_a_job(recipe, tmp_path, monkeypatch):
    place = tmp_path / "working_dir_files" / "_ray_pkg_0123"
    place.mkdir(parents=True)
    monkeypatch.chdir(place)
    with pytest.raises(InputError, match=r"^runs is 'runs', which lies in this job's upload, .*; give a folder"):
        train(replace(recipe("lost"), runs="runs"))
    assert list(place.iterdir()) == []
