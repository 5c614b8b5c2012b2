"""A team's MLflow: PostgreSQL and S3 behind a server, clients without credentials; and a model that answers by HTTP."""

import json
import os
import urllib.request

import numpy as np
import psycopg
import pytest
import torch
import xarray as xr
from mlflow.tracking import MlflowClient

from datasets.objects import open_objects
from pipeline import cli
from pipeline.mapping.scorer import load_model
from pipeline.recipe import dump_recipe
from pipeline.run import Run
from pipeline.training.checkpoint import best_checkpoint, load_segmenter
from tests.cloud.mlflow_server import serve_mlflow, serve_model
from tests.cloud.postgres import NoPostgresError, serve_postgres
from tests.cloud.seaweed import BUCKET

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def database():
    try:
        with serve_postgres() as uri:
            yield uri
    except NoPostgresError as error:
        if os.environ.get("TELEGRAPHER_NEEDS_POSTGRES"):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def server(database, s3_server, tmp_path_factory):
    with serve_mlflow(tmp_path_factory.mktemp("mlflow"), database, s3_server) as uri:
        yield uri


@pytest.fixture
def without_credentials(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("AWS_", "MLFLOW_S3"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


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
    recipe, tiny_volume, server, database, s3_server, tmp_path, without_credentials, monkeypatch, capsys
):
    for seed in (1, 2):
        config = recipe(f"seed-{seed}", steps=4, seed=seed)
        config.tracking.uri = server
        path = tmp_path / f"seed-{seed}.yaml"
        path.write_text(dump_recipe(config))
        run("train", path)
        run("register", tmp_path / "runs" / f"seed-{seed}", "--name", "fields")
    client = MlflowClient(server)
    assert aliases(client) == {"champion": 1, "challenger": 2}
    where = ["--tracking_uri", server]
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
    assert load_model("models:/fields@champion", tracking_uri=server).version == "fields/1"

    with psycopg.connect(database.replace("+psycopg", "")) as connection:
        names = connection.execute("SELECT name, version FROM model_versions ORDER BY version").fetchall()
    assert names == [("fields", 1), ("fields", 2)]
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    stored = open_objects(f"s3://{BUCKET}/mlflow")
    assert not stored.is_empty(), "the artifacts are not where the server was told to keep them"
    without = [name for name in os.environ if name.startswith("AWS_")]
    for name in without:
        monkeypatch.delenv(name)

    with serve_model(tmp_path / "served", "models:/fields/2", server) as address:
        for shape in ((1, 4, 24, 24), (2, 4, 9, 13)):
            block = np.random.default_rng(1).normal(size=shape).astype(np.float32)
            block[0, :, 2, 3] = np.nan
            with torch.no_grad():
                wanted = network.probabilities(torch.from_numpy(block)).numpy()
            np.testing.assert_allclose(ask(address, block), wanted, atol=1e-5)
        assert np.ptp(wanted) > 0.05, "the probabilities are all alike, so nothing would notice another answer"


def aliases(client: MlflowClient) -> dict[str, int]:
    return {alias: int(number) for alias, number in client.get_registered_model("fields").aliases.items()}
