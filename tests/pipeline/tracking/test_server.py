"""A team's MLflow: PostgreSQL and S3 behind a server, clients without credentials; and a model that answers by HTTP."""

import json
import os
import threading
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import psycopg
import pytest
import torch
import xarray as xr
from mlflow.tracking import MlflowClient

from datasets.storage.objects import Objects
from pipeline import cli
from pipeline.checkpoints.checkpoint import best_checkpoint, load_segmenter
from pipeline.config_sweep import SweepConfig
from pipeline.recipe import dump_recipe
from pipeline.registry.load import load_model
from pipeline.run import Run
from pipeline.tracking.journal import read_history
from pipeline.training.train import train
from tests.cloud.mlflow_server import serve_model
from tests.cloud.seaweed import BUCKET
from tests.pipeline.processes import wait_for_step

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def without_credentials(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("AWS_", "MLFLOW_S3"))]:
        monkeypatch.delenv(name)


def run(*words: object) -> None:
    assert cli.main([str(word) for word in words]) == 0


def ask(address: str, raw: np.ndarray) -> np.ndarray:
    """Send a block to a served model; JSON has no word for NaN, but Python's has."""
    body = json.dumps({"inputs": raw.tolist()}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=120) as answer:
        return np.array(json.load(answer)["predictions"], np.float32)


def test_from_training_to_a_served_model(
    recipe, tiny_volume, mlflow_server, database, s3_server, tmp_path, without_credentials, monkeypatch, capsys
):
    for seed in (1, 2):
        config = recipe(f"seed-{seed}", steps=4, seed=seed)
        config.tracking.uri = mlflow_server
        path = tmp_path / f"seed-{seed}.yaml"
        path.write_text(dump_recipe(config))
        run("train", path)
        run("register", tmp_path / "runs" / f"seed-{seed}", "--name", "fields")
    client = MlflowClient(mlflow_server)
    assert aliases(client) == {"champion": 1, "challenger": 2}
    where = ["--tracking_uri", mlflow_server]
    run("promote", "fields", *where)
    decided = capsys.readouterr().out.splitlines()[-1]
    assert "on the same test split" in decided
    moved = "fields/2 becomes champion" in decided
    assert aliases(client) == ({"champion": 2} if moved else {"champion": 1, "challenger": 2})
    if not moved:
        run("promote", "models:/fields/2", "--force", *where)
    champion = Run.open(tmp_path / "runs" / "seed-2")
    run("predict", "models:/fields@champion", tiny_volume, tmp_path / "map.zarr", *where)
    raw = champion.volume.read()
    with torch.no_grad():
        network = load_segmenter(best_checkpoint(champion.folder))
        expected = network.probabilities(torch.from_numpy(raw)[None])[0].numpy()
    found = xr.open_zarr(tmp_path / "map.zarr", mask_and_scale=False)
    there = found["class"].values != 255
    np.testing.assert_allclose(found["probability"].values[:, there], expected[:, there], atol=1e-5)
    assert found.attrs["model_version"] == "fields/2"
    table = tmp_path / "table.csv"
    table.write_text(f"input,output\n{tiny_volume},{tmp_path / 'map.zarr'}\n{tiny_volume},{tmp_path / 'other.zarr'}\n")
    run("batch", "models:/fields@champion", table, "--cluster.workers", 0, *where)
    assert capsys.readouterr().out.splitlines()[-1] == "2 volumes: 1 finished before, 1 mapped"
    run("promote", "fields", "--rollback", *where)
    assert aliases(client)["champion"] == 1
    assert load_model("models:/fields@champion", tracking_uri=mlflow_server).version == "fields/1"

    with psycopg.connect(database.uri.replace("+psycopg", "")) as connection:
        names = connection.execute(
            "SELECT name, version FROM model_versions WHERE name = 'fields' ORDER BY version"
        ).fetchall()
    assert names == [("fields", 1), ("fields", 2)]
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    stored = Objects(f"s3://{BUCKET}/mlflow")
    assert not stored.is_empty(), "the artifacts are not where the server was told to keep them"
    without = [name for name in os.environ if name.startswith("AWS_")]
    for name in without:
        monkeypatch.delenv(name)

    with serve_model(tmp_path / "served", "models:/fields/2", mlflow_server) as address:
        for shape in ((1, 4, 24, 24), (2, 4, 9, 13)):
            block = np.random.default_rng(1).normal(size=shape).astype(np.float32)
            block[0, :, 2, 3] = np.nan
            with torch.no_grad():
                wanted = network.probabilities(torch.from_numpy(block)).numpy()
            np.testing.assert_allclose(ask(address, block), wanted, atol=1e-5)
        assert np.ptp(wanted) > 0.05, "the probabilities are all alike, so nothing would notice another answer"


def test_training_outlives_its_database(recipe, mlflow_server, database, without_credentials, capfd):
    """The server is there, but cannot store: what it answers then is no refusal, and nothing is left out for it."""
    config = recipe("patient", steps=300, validate_every=100)
    config.tracking.uri = mlflow_server
    folder = Path(config.runs) / "patient"
    box = folder / "mlflow-outbox.jsonl"

    def disturb() -> None:
        wait_for_step(folder, 40)
        database.stop()
        missed = len(box.read_bytes())
        end = time.monotonic() + 120
        while (len(box.read_bytes()) <= missed or not told()) and time.monotonic() < end:
            time.sleep(0.05)
        database.start()

    def told() -> bool:
        seen.append(capfd.readouterr().out)
        return "does not answer" in "".join(seen)

    seen: list[str] = []
    thread = threading.Thread(target=disturb)
    thread.start()
    run = train(config)
    thread.join()
    if box.stat().st_size:  # it was away until the end
        train(config, resume=True)
    seen.append(capfd.readouterr().out)
    assert "does not answer" in "".join(seen)
    assert "refuses" not in "".join(seen)
    client = MlflowClient(mlflow_server)
    points = client.get_metric_history(run.read("tracking.json")["run_id"], "loss")
    ours = {row["step"]: row["loss"] for row in read_history(run)}
    assert {point.step: point.value for point in points} == pytest.approx(ours)
    assert len(ours) == 300


def test_workers_and_trials_report_there_and_the_best_is_champion(
    recipe, mlflow_server, s3_server, tmp_path, without_credentials, capsys
):
    """A sweep whose trials are two workers each: sweep, trials and the best's own run, on Ray, in one store."""
    config = recipe("there", workers=2, steps=4)
    config = replace(config, sweep=SweepConfig(depth=[3], rank=[2, 4], levels=[1], trials=2, concurrent=1))
    config.tracking.uri = mlflow_server
    path = tmp_path / "there.yaml"
    path.write_text(dump_recipe(config))
    run("tune", path, "--finish")
    client = MlflowClient(mlflow_server)
    experiment = client.get_experiment_by_name("there")
    runs = {one.info.run_id: one for one in client.search_runs([experiment.experiment_id])}
    (parent,) = [one for one in runs.values() if one.info.run_name == "there-sweep"]
    children = [one for one in runs.values() if one.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert {one.info.status for one in runs.values()} == {"FINISHED"}
    assert sorted(one.data.tags["sweep.rank"] for one in children if "sweep.rank" in one.data.tags) == ["2", "4"]
    for one in children:
        assert len(client.get_metric_history(one.info.run_id, "loss")) == 4
    champion = client.get_model_version_by_alias("there", "champion")
    assert champion.run_id == parent.data.tags["best_run"]
    assert "test/miou" in runs[champion.run_id].data.metrics
    names = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert names, "the sweep's pages and pictures go where the artifacts are"


def aliases(client: MlflowClient) -> dict[str, int]:
    return {alias: int(number) for alias, number in client.get_registered_model("fields").aliases.items()}
