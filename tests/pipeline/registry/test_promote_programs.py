"""Promotion between two programs that were really trained on different splits and registered on a team's server."""

from dataclasses import replace

import pytest

from pipeline.config import PromoteConfig, RegisterConfig
from pipeline.registry.load import load_model
from pipeline.registry.promote import promote
from pipeline.registry.register import register
from pipeline.scoring.metrics import confusion, scores
from pipeline.training.train import train

pytestmark = pytest.mark.slow


def test_programs_of_different_splits_are_scored_on_the_newer_ones(recipe, mlflow_server, capsys):
    runs = []
    for seed, steps in ((0, 2), (1, 40)):
        config = recipe(f"rival-{seed}", steps=steps, validate_every=2)
        config.tracking.uri = mlflow_server
        runs.append(train(replace(config, split=replace(config.split, seed=seed))))
        register(RegisterConfig(run=str(runs[-1].folder), name="rivals"))
    uri, new = mlflow_server, runs[1]
    target = new.volume.read_labels(new.split, "test")
    expected = []
    for version in (2, 1):
        (piece,) = load_model(f"models:/rivals/{version}", tracking_uri=uri).map(new.volume)
        expected.append(scores(confusion(piece.found.argmax(axis=0), target, 2)).miou)
    assert expected[0] > expected[1]
    capsys.readouterr()
    assert promote(PromoteConfig("rivals", tracking_uri=uri))
    first, seen, decision = capsys.readouterr().out.splitlines()
    assert first.startswith("rivals/2 and rivals/1 were tested on different splits (")
    assert seen.startswith("warning: rivals/1 trained or validated on ")
    assert f"{expected[0]:.4f} against {expected[1]:.4f} on the same test split" in decision
    assert load_model("models:/rivals@champion", tracking_uri=uri).version == "rivals/2"
    promote(PromoteConfig("rivals", tracking_uri=uri), rollback=True)
    assert capsys.readouterr().out == "rivals/1 is champion again, in place of rivals/2.\n"
    assert load_model("models:/rivals@champion", tracking_uri=uri).version == "rivals/1"
