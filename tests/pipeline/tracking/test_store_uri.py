"""Where runs go that do not say it."""

from pipeline.run import Run
from pipeline.training.train import train


def test_mlflows_own_variable_names_the_store(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'team.db'}")
    run = train(recipe(steps=2, validate_every=2))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # a worker on another machine does not know it
    assert Run.open(run.folder).tracking_uri == f"sqlite:///{tmp_path / 'team.db'}"
    assert (tmp_path / "team.db").is_file()
    assert not (run.folder.parent / "mlflow.db").exists()
