"""Faults injected for real without Ray: an MLflow server that is killed, a disk that is full, read-only or slow."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mlflow.tracking import MlflowClient

from datasets.errors import InputError
from pipeline.recipe import dump_recipe
from pipeline.run import Run
from pipeline.tracking.journal import read_history
from pipeline.training.checkpoint import latest_checkpoint, whole_checkpoints
from pipeline.training.prepare import prepare
from pipeline.training.train import _work, train
from tests.pipeline.processes import ROOT, largest_difference, wait_for_step, weights_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Server:
    """An MLflow server on loopback that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers",
                "1", "--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}", "--artifacts-destination",
                str(self.folder / "artifacts"),
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        end = time.monotonic() + 240
        while time.monotonic() < end:
            with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
            time.sleep(0.2)
        raise AssertionError("the MLflow server never answered")

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path / "server")
    yield server
    server.kill()


def test_training_outlives_its_mlflow_server_and_tells_it_everything(recipe, server, capfd):
    server.start()
    config = recipe("orphan", steps=300, validate_every=100)
    config = replace(config, tracking=replace(config.tracking, uri=server.uri))
    plain = train(recipe("plain", steps=300, validate_every=100))
    folder = Path(config.runs) / "orphan"
    box = folder / "mlflow-outbox.jsonl"

    def disturb() -> None:
        wait_for_step(folder, 40)
        server.kill()
        missed = len(box.read_bytes())
        while len(box.read_bytes()) <= missed:
            time.sleep(0.05)
        server.start()

    thread = threading.Thread(target=disturb)
    thread.start()
    run = train(config)
    thread.join()
    assert largest_difference(weights_of(plain), weights_of(run)) == 0
    run_id = run.read("tracking.json")["run_id"]

    server.kill()  # and for good: the whole second run happens without it
    shutil.rmtree(run.checkpoints / "step-000300")
    train(config, resume=True)
    assert largest_difference(weights_of(plain), weights_of(run)) == 0
    assert box.stat().st_size > 0
    shown = capfd.readouterr().out
    assert f"MLflow at {server.uri} does not answer" in shown
    assert "training goes on. What it misses waits in" in shown

    server.start()
    train(config, resume=True)
    assert box.stat().st_size == 0
    client = MlflowClient(server.uri)
    points = client.get_metric_history(run_id, "loss")
    assert {point.step for point in points} == set(range(1, 301))
    ours = {row["step"]: row["loss"] for row in read_history(run)}
    assert {point.step: point.value for point in points} == pytest.approx(ours)
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
def test_a_disk_that_fails_stops_the_run_with_its_last_checkpoint_and_nothing_half_written(
    recipe, small_disk, tmp_path, fault, capfd
):
    settings = {"steps": 400, "validate_every": 20}
    plain = train(recipe("plain", **settings))
    config = recipe("cramped", **settings)
    config = replace(config, tracking=replace(config.tracking, uri=f"sqlite:///{tmp_path / 'elsewhere.db'}"))
    folder = Path(config.runs) / "cramped"
    # Only the checkpoints lie on that disk: what is read of the run must not fail instead.
    run = prepare(config)
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
