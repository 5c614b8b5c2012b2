"""Faults injected for real without Ray: an MLflow server that is killed, a disk that is full, read-only or slow."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mlflow.tracking import MlflowClient

from datasets.errors import InputError
from pipeline.checkpoints.checkpoint import latest_checkpoint, whole_checkpoints
from pipeline.checkpoints.storage import stored_behind
from pipeline.recipe import dump_recipe
from pipeline.run import Run
from pipeline.tracking.journal import read_history
from pipeline.training.context import Context
from pipeline.training.loop import fit
from pipeline.training.prepare import prepare
from pipeline.training.train import Interrupted, _work, absolute, train
from tests.pipeline.processes import ROOT, largest_difference, wait_for_step, weights_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def told(client: MlflowClient, run: Run) -> dict[int, float]:
    """Ask the server for the loss of every step."""
    points = client.get_metric_history(run.read("tracking.json")["run_id"], "loss")
    return {point.step: point.value for point in points}


def test_training_outlives_a_minute_without_its_server(recipe, mlflow_to_kill, capfd):
    never = 10**6
    settings = {"steps": never, "batch": 8, "validate_every": never, "schedule": "constant"}
    config = recipe("orphan", **settings)
    config = replace(config, tracking=replace(config.tracking, uri=mlflow_to_kill.uri))
    folder = Path(config.runs) / "orphan"
    box = folder / "mlflow-outbox.jsonl"
    missed: list[int] = []
    over = threading.Event()

    def disturb() -> None:
        try:
            wait_for_step(folder, 40)
            mlflow_to_kill.kill()
            time.sleep(60)
            missed.append(len(box.read_bytes().splitlines()))
            mlflow_to_kill.start()
            end = time.monotonic() + 120
            while box.stat().st_size > 10_000 and time.monotonic() < end:
                time.sleep(0.2)
        finally:
            if not over.is_set():
                os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        with pytest.raises(Interrupted):
            train(config)
    finally:
        over.set()
        thread.join()
    assert missed[0] > 100
    run, shown = Run.open(folder), capfd.readouterr().out
    assert f"MLflow at {mlflow_to_kill.uri} does not answer" in shown
    assert "training goes on. What it misses waits in" in shown
    assert box.stat().st_size == 0
    client, step = MlflowClient(mlflow_to_kill.uri), run.read("outcome.json")["step"]
    assert set(told(client, run)) == set(range(1, step + 1))
    assert told(client, run) == pytest.approx({row["step"]: row["loss"] for row in read_history(run)})
    assert client.get_run(run.read("tracking.json")["run_id"]).info.status == "KILLED"

    plain, asked = prepare(recipe("plain", **settings)), iter(range(1, step + 1))
    with stored_behind(plain.checkpoints) as store:
        fit(plain, Context(store=store, interrupted=lambda: next(asked) == step))
    assert largest_difference(weights_of(plain), weights_of(run)) == 0


def test_training_ends_without_its_server_and_tells_it_everything_later(recipe, mlflow_to_kill):
    config = recipe("orphan", steps=300, validate_every=100)
    config = replace(config, tracking=replace(config.tracking, uri=mlflow_to_kill.uri))
    plain = train(recipe("plain", steps=300, validate_every=100))
    folder = Path(config.runs) / "orphan"

    def disturb() -> None:
        wait_for_step(folder, 40)
        mlflow_to_kill.kill()

    thread = threading.Thread(target=disturb)
    thread.start()
    run = train(config)
    thread.join()
    assert largest_difference(weights_of(plain), weights_of(run)) == 0
    box = folder / "mlflow-outbox.jsonl"
    assert box.stat().st_size > 0

    mlflow_to_kill.start()
    train(config, resume=True)
    assert box.stat().st_size == 0
    client, run_id = MlflowClient(mlflow_to_kill.uri), run.read("tracking.json")["run_id"]
    assert set(told(client, run)) == set(range(1, 301))
    assert told(client, run) == pytest.approx({row["step"]: row["loss"] for row in read_history(run)})
    assert client.get_run(run_id).info.status == "FINISHED"
    assert "metrics.json" in {item.path for item in client.list_artifacts(run_id)}


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 8 MiB, where this process may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"this process may not mount a tmpfs: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> Path:
    """Take all the room that is left on a disk."""
    filler = place / "filler"
    with suppress(OSError), filler.open("ab", buffering=0) as file:
        for size in (2**16, 2**12, 1):
            with suppress(OSError):
                while file.write(bytes(size)):
                    pass
    return filler


@pytest.mark.parametrize("fault", ["full", "read-only"])
@pytest.mark.usefixtures("team")
def test_a_disk_that_fails_stops_the_run_with_its_last_checkpoint_and_nothing_half_written(
    recipe, small_disk, fault, capfd
):
    settings = {"steps": 400, "validate_every": 20}
    plain = train(recipe("plain", **settings))
    config = recipe("cramped", **settings)
    folder = Path(config.runs) / "cramped"
    # Only the checkpoints lie on that disk: what is read of the run must not fail instead.
    run = prepare(absolute(config))
    run.checkpoints.rmdir()
    (small_disk / "checkpoints").mkdir()
    run.checkpoints.symlink_to(small_disk / "checkpoints")

    def fail() -> None:
        wait_for_step(folder, 45)
        if fault == "full":
            fill(small_disk)
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

    thread = threading.Thread(target=fail)
    thread.start()
    reason = "No space left on device" if fault == "full" else "Read-only file system"
    with pytest.raises(InputError, match=rf"could not be written to .* \({reason}\); earlier ones are kept"):
        _work(run)
    thread.join()
    assert "training goes on and tries again with the next" in capfd.readouterr().out
    kept = whole_checkpoints(run.checkpoints)
    assert len(kept) >= 2
    if fault == "full":
        (small_disk / "filler").unlink()
    else:
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    train(config, resume=True)
    assert not list(run.checkpoints.glob(".step-*"))
    assert latest_checkpoint(run.checkpoints).name == "step-000400"
    assert largest_difference(weights_of(plain), weights_of(run)) == 0
    assert torch.isfinite(next(iter(weights_of(run).values()))).all()


@pytest.fixture
def slow_disk() -> list[str]:
    """Words that run a program on a disk that takes a second for every file that is to be safe on it."""
    words = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync", "-e", "inject=fsync:delay_enter=1000000"]
    if shutil.which("strace") is None:
        pytest.skip("no strace here; apt-get install strace")
    tried = subprocess.run([*words, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"this process may not trace another: {tried.stderr.strip()}")
    return words


@pytest.mark.usefixtures("team")
def test_a_disk_that_is_slow_holds_the_training_up_but_costs_nothing(recipe, slow_disk, tmp_path):
    settings = {"steps": 90, "validate_every": 30}
    plain = train(recipe("plain", **settings))
    config = recipe("patient", **settings)
    path = tmp_path / "patient.yaml"
    path.write_text(dump_recipe(config))
    done = subprocess.run(
        [*slow_disk, sys.executable, "-m", "pipeline", "train", str(path)],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    run = Run.open(Path(config.runs) / "patient")
    waits = (
        f"training waits for {run.checkpoints}: the checkpoint of step 30 took longer to write than the steps up to 60"
    )
    assert done.stdout.count(waits) == 1, done.stdout
    assert done.stdout.count("training waits for") == 1, "it is said once"
    assert len(read_history(run)) == 90
    assert [path.name for path in whole_checkpoints(run.checkpoints)][-1:] == ["step-000090"]
    assert not list(run.checkpoints.glob(".step-*"))
    assert largest_difference(weights_of(plain), weights_of(run)) == 0
