"""Ray for real: data-parallel workers, a killed worker, a killed driver, Ctrl-C, a sweep."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from pipeline.checkpoint import latest_checkpoint, load_segmenter, read_meta
from pipeline.config import SweepConfig
from pipeline.journal import read_history
from pipeline.recipe import dump_recipe
from pipeline.run import Run
from pipeline.train import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ray_here():
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
    ray = pytest.importorskip("ray")
    ray.init(address="local", num_cpus=4, include_dashboard=True, object_store_memory=150_000_000, log_to_driver=False)
    yield ray
    ray.shutdown()


def weights_of(run):
    return load_segmenter(latest_checkpoint(run.checkpoints)).state_dict()


def largest_difference(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def wait_for_step(folder: Path, step: int, limit: float = 120.0) -> None:
    """Wait until the journal of a run has reached a step."""
    end = time.monotonic() + limit
    journal = folder / "history.jsonl"
    while time.monotonic() < end:
        if journal.is_file() and len(journal.read_text().splitlines()) >= step:
            return
        time.sleep(0.1)
    raise AssertionError(f"{journal} never reached step {step}")


def command(path: Path, *words: str) -> subprocess.Popen:
    """Start ``python -m pipeline train`` as a user would, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", "train", str(path), *words],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def test_two_workers_follow_the_same_path_as_one_process(recipe, ray_here):
    alone = train(recipe("alone", batch=3))
    together = train(recipe("together", workers=2, batch=3))
    assert largest_difference(weights_of(alone), weights_of(together)) < 1e-4
    losses = [[row["loss"] for row in read_history(run)] for run in (alone, together)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert len(losses[1]) == 12


def test_a_killed_worker_is_replaced_and_ends_with_the_same_weights(recipe, ray_here):
    settings = {"steps": 400, "validate_every": 40}
    plain = train(recipe("plain", workers=1, **settings))
    config = recipe("struck", workers=1, **settings)
    done = threading.Event()
    killed = []

    def strike():
        from ray.util.state import list_actors

        wait_for_step(Path(config.runs) / "struck", 130)
        for actor in list_actors(filters=[("state", "=", "ALIVE"), ("class_name", "=", "RayTrainWorker")]):
            killed.append(actor.pid)
            os.kill(actor.pid, signal.SIGKILL)
        done.set()

    thread = threading.Thread(target=strike)
    thread.start()
    struck = train(config)
    thread.join()
    assert done.is_set()
    assert len(killed) == 1
    assert largest_difference(weights_of(plain), weights_of(struck)) == 0
    assert len((struck.folder / "history.jsonl").read_text().splitlines()) > 400, "some steps were taken twice"
    assert MlflowClient(struck.tracking_uri).get_run(struck.read("tracking.json")["run_id"]).info.status == "FINISHED"


def test_ctrl_c_and_a_killed_driver_lose_nothing(recipe, tmp_path):
    settings = {"steps": 600, "validate_every": 50}
    plain = train(recipe("plain", **settings))
    config = recipe("broken", workers=1, **settings)
    path = tmp_path / "broken.yaml"
    path.write_text(dump_recipe(config))
    folder = Path(config.runs) / "broken"

    process = command(path)
    wait_for_step(folder, 60)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    run = Run.open(folder)
    stopped = run.read("outcome.json")["step"]
    assert read_meta(latest_checkpoint(run.checkpoints)).step == stopped < 600
    client, run_id = MlflowClient(run.tracking_uri), run.read("tracking.json")["run_id"]
    assert client.get_run(run_id).info.status == "KILLED"

    process = command(path, "--resume")
    wait_for_step(folder, stopped + 120)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (folder / "metrics.json").exists()

    process = command(path, "--resume")
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert client.get_run(run_id).info.status == "FINISHED"
    assert largest_difference(weights_of(plain), weights_of(run)) == 0


def test_a_sweep_tracks_its_trials_and_ranks_them(recipe, ray_here, capsys):
    from pipeline.sweep import tune

    config = recipe("search", steps=24, validate_every=4)
    config = replace(config, sweep=SweepConfig(depth=[3, 5], rank=[2, 4], levels=[1], trials=4, grace=1, concurrent=2))
    rows = tune(config)
    assert len(rows) == 4
    assert [row["best"] for row in rows] == sorted((row["best"] for row in rows), reverse=True)
    assert any(row["step"] < 24 for row in rows), "ASHA stopped none"
    assert "| depth | rank | levels |" in capsys.readouterr().out
    folder = Path(config.runs) / "search-sweep"
    assert (folder / "pictures" / "trials.png").stat().st_size > 10_000
    client = MlflowClient(f"sqlite:///{Path(config.runs) / 'mlflow.db'}")
    (experiment,) = [found for found in client.search_experiments() if found.name == "search"]
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [found for found in runs if "mlflow.parentRunId" not in found.data.tags]
    children = [found for found in runs if found.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == 4
    assert {found.info.status for found in runs} == {"FINISHED"}
    assert all("validation/miou" in child.data.metrics for child in children)
    assert not any(key.startswith("test/") for child in children for key in child.data.metrics)
