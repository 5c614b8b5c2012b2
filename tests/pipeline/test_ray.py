"""Ray for real: data-parallel workers, a killed worker, a killed driver, Ctrl-C, a job on a cluster."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mlflow.tracking import MlflowClient

from pipeline.checkpoint import latest_checkpoint, read_meta
from pipeline.journal import read_history
from pipeline.recipe import dump_recipe
from pipeline.run import Run
from pipeline.train import train
from tests.pipeline.processes import command, largest_difference, wait_for_step, weights_of, workers_now

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ray_here():
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
    ray = pytest.importorskip("ray")
    ray.init(address="local", num_cpus=4, include_dashboard=True, object_store_memory=150_000_000, log_to_driver=False)
    yield ray
    ray.shutdown()


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
        wait_for_step(Path(config.runs) / "struck", 130)
        for pid in workers_now():
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)
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


def free_ports(count):
    """Find ports that nobody listens on now; the other Ray of this module takes some at random."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture
def head(tmp_path):
    """A Ray head started by ``ray start``, stopped by its own process group only."""
    gcs, dashboard, agent, agent_grpc = free_ports(4)
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    environment.pop("RAY_ADDRESS", None)
    process = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--node-ip-address=127.0.0.1",
            f"--port={gcs}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
            f"--dashboard-agent-grpc-port={agent_grpc}", "--dashboard-host=127.0.0.1", "--num-cpus=2",
            f"--temp-dir=/tmp/ray-{os.getpid()}", "--object-store-memory=150000000",
        ],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    yield environment | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    process.send_signal(signal.SIGTERM)
    try:
        process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def test_a_job_from_a_clean_checkout_trains_on_a_cluster(recipe, tmp_path, head):
    checkout = tmp_path / "checkout"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(checkout)], check=True)
    config = recipe("job", workers=1)
    config = replace(config, cluster=replace(config.cluster, address="auto"))
    path = tmp_path / "job.yaml"
    path.write_text(dump_recipe(config))
    submit = [
        str(Path(sys.executable).with_name("ray")), "job", "submit", "--working-dir", str(checkout), "--",
        sys.executable, "-m", "pipeline", "train", str(path),
    ]  # fmt: skip
    end = time.monotonic() + 120
    while True:
        done = subprocess.run(submit, env=head, capture_output=True, text=True, timeout=300, check=False)
        waits = "onnect" in done.stderr or "try again later" in done.stderr
        if done.returncode == 0 or time.monotonic() > end or not waits:
            break
        time.sleep(2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 12/12" in done.stdout
    run = Run.open(Path(config.runs) / "job")
    assert run.read("metrics.json")["steps"] == 12
    assert torch.isfinite(next(iter(weights_of(run).values()))).all()
