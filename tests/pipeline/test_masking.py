"""Passwords and signatures of addresses: in no page, no log, and nothing that MLflow keeps."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from datasets.errors import InputError
from pipeline import cli
from pipeline.masking import without_secrets
from pipeline.recipe import dump_recipe
from pipeline.tracking.outbox import Outbox
from pipeline.tracking.store import where_to_look
from pipeline.tracking.tracker import Tracker, connect
from pipeline.training.prepare import prepare
from pipeline.training.train import open_tracking

SERVER = "http://ann:s3cr3t@127.0.0.1:9"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("uri: postgresql://ann:s3cr3t@db/mlflow", "uri: postgresql://***@db/mlflow"),
        ("https://h/v.zarr?sv=1&sig=abc%3D&x=2", "https://h/v.zarr?sv=1&***&x=2"),
        ("https://h/v.zarr?X-Amz-Signature=abc", "https://h/v.zarr?***"),
        ("https://h/v?X-Goog-Signature=abc&Signature=d&Expires=1", "https://h/v?***&***&Expires=1"),
        ("https://h/v?X-Amz-Security-Token=a&access_token=b&Sig=c", "https://h/v?***&***&***"),
        ("postgresql://ml:Ab/c+d==@db:5432/mlflow, retried", "postgresql://***@db:5432/mlflow, retried"),
        ("'postgresql://ml:it's@db/mlflow'", "'postgresql://***@db/mlflow'"),
        ("postgresql://ml:p@ss@db", "postgresql://***@db"),
        ("http://ann@h:80/x http://[::1]:80/y", "http://***@h:80/x http://[::1]:80/y"),
        ("s3://bucket/v.zarr and a@b", "s3://bucket/v.zarr and a@b"),
        ("see https://h/v?block=8&halo=4, or ask", "see https://h/v?block=8&halo=4, or ask"),
    ],
)
def test_what_opens_an_address_is_left_out(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_masking_takes_no_longer_for_odd_texts() -> None:
    began = time.perf_counter()
    for odd in ("?" * 100_000, "://" * 30_000, "://a:" + "b" * 100_000, "&key" * 25_000):
        without_secrets(odd)
    assert time.perf_counter() - began < 20


def test_mlflow_is_told_of_a_run_but_not_of_its_passwords(recipe, monkeypatch):
    config = recipe("told")
    run = prepare(config)
    source = "https://ann:s3cr3t@h/v.zarr?sig=s3cr3t"
    told = replace(run, config=replace(config, data=replace(config.data, source=source)))
    run_id = open_tracking(told)
    client = MlflowClient(told.tracking_uri)
    found = client.get_run(run_id).data
    assert found.params["data.source"] == "https://***@h/v.zarr?***"
    assert "s3cr3t" not in str(found.to_dictionary())
    kept = Path(client.download_artifacts(run_id, "config.yaml")).read_text()
    assert "https://***@h/v.zarr?***" in kept
    assert "s3cr3t" not in kept


def test_a_server_that_is_away_is_named_without_its_password(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InputError, match=r"MLflow does not answer at http://\*\*\*@127.0.0.1:9 "):
        connect(SERVER)
    Tracker(SERVER, "0", tmp_path / "outbox.jsonl").end("FAILED")

    def away(entries: list) -> None:
        raise ConnectionError(f"nobody at {SERVER}")

    box = Outbox(tmp_path / "other.jsonl", away, "MLflow")
    box.post(["tag", "a", "b"])
    box.close()
    shown = capfd.readouterr().out
    assert shown.count("training goes on") == 2
    assert "s3cr3t" not in shown
    assert where_to_look(SERVER) == "http://***@127.0.0.1:9"


def test_a_refusal_is_printed_without_them(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    path = tmp_path / "refused.yaml"
    path.write_text(dump_recipe(recipe("refused")))
    assert cli.main(["train", str(path), "--tracking.uri", SERVER]) == 2
    shown = capsys.readouterr()
    assert "s3cr3t" not in shown.out + shown.err
    assert "error: MLflow does not answer at http://***@127.0.0.1:9" in shown.err
