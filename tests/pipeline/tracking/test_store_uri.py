"""Where runs go that do not say it."""

import pytest

from pipeline.registry.versions import tracking_at
from pipeline.run import Run
from pipeline.tracking.store import store_uri
from pipeline.training.train import train

pytestmark = pytest.mark.usefixtures("blank_pictures")


def test_mlflows_own_variable_names_the_store(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'team.db'}")
    run = train(recipe(steps=2, validate_every=2))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # a worker on another machine does not know it
    assert Run.open(run.folder).tracking_uri == f"sqlite:///{tmp_path / 'team.db'}"
    assert (tmp_path / "team.db").is_file()
    assert not (run.folder.parent / "mlflow.db").exists()


@pytest.mark.parametrize("said", [None, "sqlite:///said.db"])
def test_registering_leaves_no_store_behind(said, tmp_path, monkeypatch):
    if said:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", said)
    expected = store_uri(None, tmp_path)
    with tracking_at(f"sqlite:///{tmp_path / 'other.db'}"):
        pass
    assert store_uri(None, tmp_path) == expected
