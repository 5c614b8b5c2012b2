"""A Ray head as ``ray start`` makes one, with a token and a folder of its own; ended by its own processes only."""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cloud.seaweed import free_ports

RAY = str(Path(sys.executable).with_name("ray"))


def ray(words: list[str], environment: dict[str, str], limit: float = 600) -> subprocess.CompletedProcess[str]:
    """Run a command of Ray to its end."""
    return subprocess.run(
        [RAY, *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@contextmanager
def serve(cpus: int) -> Iterator[dict[str, str]]:
    """Run a head; yields the environment by which `ray job` finds it, token included."""
    gcs, dashboard, agent, agent_grpc = free_ports(4)
    private = ("RAY_", "AWS_", "MLFLOW_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(private)}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "NO_PROXY": "127.0.0.1,localhost"}
    environment["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "600"  # a busy machine starts workers slowly
    environment["RAY_worker_niceness"] = "0"
    environment["PATH"] = (
        f"{Path(RAY).parent}{os.pathsep}{environment['PATH']}"  # `python` is the one with dependencies
    )
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:  # sockets: short
        process = subprocess.Popen(
            [
                RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={gcs}",
                f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
                f"--dashboard-agent-grpc-port={agent_grpc}", "--dashboard-host=127.0.0.1", f"--num-cpus={cpus}",
                f"--temp-dir={folder}", "--object-store-memory=100000000",
            ],
            env=environment, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        client = environment | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
        try:
            _wait(process, client)
            yield client
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait(process: subprocess.Popen[bytes], client: dict[str, str], limit: float = 300) -> None:
    """Wait until a job can be submitted: the dashboard answers, and the agent that starts jobs is there."""
    end = time.monotonic() + limit
    while time.monotonic() < end and process.poll() is None:
        done = ray(["job", "submit", "--", "true"], client)
        if done.returncode == 0:
            return
        time.sleep(1)
    raise RuntimeError(f"the head did not come up:\n{done.stdout}{done.stderr}")
