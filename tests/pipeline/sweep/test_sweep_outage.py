"""A sweep whose MLflow server goes away in the middle and comes back."""

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from pipeline.config_sweep import SweepConfig
from tests.pipeline.processes import wait_for_step

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_sweep_outlives_its_mlflow_server_and_tells_it_everything(recipe, mlflow_to_kill, tmp_path, monkeypatch):
    import ray

    from pipeline.sweep.tune import tune

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    config = recipe("outlived", steps=40, validate_every=10)
    config = replace(
        config,
        tracking=replace(config.tracking, uri=mlflow_to_kill.uri, experiment=tmp_path.name),
        sweep=SweepConfig(depth=[3], rank=[2, 4], levels=[1], trials=2, concurrent=1, objectives=["score", "memory"]),
    )
    folder = Path(config.runs) / "outlived-sweep"
    waiting: list[Path] = []
    over = threading.Event()

    def disturb() -> None:
        while not (found := list(folder.glob("trial-*/tracking.json"))):
            if over.wait(0.1):
                return
        wait_for_step(found[0].parent, 5)
        mlflow_to_kill.kill()
        while not list(folder.glob("trial-*/checkpoints/step-000040")):  # the first trial ends without a server
            if over.wait(0.1):
                return
        waiting.extend(box for box in folder.rglob("mlflow-outbox.jsonl") if box.stat().st_size)
        mlflow_to_kill.start()

    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=150_000_000, log_to_driver=False)
    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        rows = tune(config)
    finally:
        over.set()
        thread.join()
        ray.shutdown()
        os.environ.pop("RAY_ADDRESS", None)
    assert len(rows) == 2
    assert waiting, "nothing waited for the server"
    client = MlflowClient(mlflow_to_kill.uri)
    (experiment,) = [one for one in client.search_experiments() if one.name == tmp_path.name]
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 3
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in runs:
        if "mlflow.parentRunId" in run.data.tags:
            assert run.data.metrics["sweep/score"] > 0
            assert run.data.tags["sweep.depth"] == "3"
            assert {point.step for point in client.get_metric_history(run.info.run_id, "loss")} == set(range(1, 41))
    assert not [box for box in folder.rglob("mlflow-outbox.jsonl") if box.stat().st_size]
