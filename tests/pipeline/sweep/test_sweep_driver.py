"""The driver of a sweep, as a process: killed, told to stop, gone on with, and the best finished."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from pipeline.checkpoints.checkpoint import all_checkpoints, folder_name
from pipeline.recipe import dump_recipe
from tests.pipeline.sweep.sweeps import Make, lines_of, mlflow_runs, searching

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
ROOT = Path(__file__).parents[3]


def command(path: Path, *words: str) -> subprocess.Popen[str]:
    """Start ``python -m pipeline tune`` as a user would, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", "tune", str(path), *words],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def test_a_killed_driver_resumes_without_repeating_and_the_best_is_finished(recipe: Make, tmp_path: Path) -> None:
    steps = 300
    config = searching(recipe("broken", steps=steps, validate_every=100), trials=3, concurrent=1, stop_early=False)
    path = tmp_path / "broken.yaml"
    path.write_text(dump_recipe(config))
    folder = Path(config.runs) / "broken-sweep"

    def ended() -> list[str]:
        last = folder_name(steps)
        return [
            trial.name for trial in folder.glob("trial-*") if (trial / "checkpoints" / last / "meta.json").is_file()
        ]

    process = command(path)
    limit = time.monotonic() + 600
    while not (len(ended()) == 2 and sorted(lines_of(folder).values())[0] < steps):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < limit, "the second trial never ended"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = ended()
    before = lines_of(folder)
    parent, _ = mlflow_runs(config)
    assert parent.info.status == "RUNNING"

    process = command(path, "--resume", "--finish")
    output, _ = process.communicate(timeout=800)
    assert process.returncode == 0, output
    after = lines_of(folder)
    assert all(after[name] == before[name] == steps for name in done), "a finished trial was trained again"
    assert output.count("| trial-") == 3, "every trial has its row"
    assert all(f"| {name} |" in output for name in done)
    parent, children = mlflow_runs(config)
    assert parent.info.status == "FINISHED"
    assert "RUNNING" not in {run.info.status for run in children}
    assert not any(key.startswith("test/") for run in children for key in run.data.metrics)

    client = MlflowClient(f"sqlite:///{Path(config.runs) / 'mlflow.db'}")
    best = client.get_run(parent.data.tags["best_run"])
    assert "test/miou" in best.data.metrics
    assert best.data.params["training.steps"] == str(steps)
    assert client.get_model_version_by_alias("broken", "champion").run_id == best.info.run_id
    assert all_checkpoints(Path(config.runs) / "broken-best" / "checkpoints")


def test_a_driver_told_to_stop_leaves_a_sweep_that_goes_on(recipe: Make, tmp_path: Path) -> None:
    """SIGTERM is what `ray job stop` sends."""
    config = searching(recipe("stopped", steps=300, validate_every=100), depth=[3], trials=2, concurrent=1)
    path = tmp_path / "stopped.yaml"
    path.write_text(dump_recipe(config))
    folder = Path(config.runs) / "stopped-sweep"
    process = command(path)
    limit = time.monotonic() + 600
    while max(lines_of(folder).values(), default=0) < 120:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < limit
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 130, output
    assert "the sweep stopped; go on with the same command and --resume" in output
    parent, children = mlflow_runs(config)
    assert parent.info.status == "KILLED"
    assert "RUNNING" not in {run.info.status for run in children}

    process = command(path, "--resume")
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert output.count("| trial-") == 2
    assert all(300 <= taken < 300 + 110 for taken in lines_of(folder).values()), "a trial began anew"
    parent, children = mlflow_runs(config)
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
