"""A real MLflow server on loopback as a team runs it: PostgreSQL behind it, artifacts on an S3-protocol store.

Clients know neither: they send artifacts to the server, and only the server has credentials.
"""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.cloud.seaweed import BUCKET, Server, free_ports

_PATIENCE_S = 240.0


class TeamServer:
    """A server that can be killed, and started again at the same address; what it knew is with PostgreSQL and S3.

    Parameters
    ----------
    folder
        Where it writes its log.
    database
        URI of the PostgreSQL database.
    storage
        Where artifacts go.
    """

    def __init__(self, folder: Path, database: str, storage: Server) -> None:
        self.folder, self.database, self.storage = folder, database, storage
        (self.port,) = free_ports(1)
        self.uri = f"http://127.0.0.1:{self.port}"
        self._running = ExitStack()
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        words, variables = _team(self.port, self.database, self.storage)
        self._process = self._running.enter_context(serving(words, self.folder, self.port, variables))

    def kill(self) -> None:
        """End it at once, without a word to its clients."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process = None
        self._running.close()


def _team(port: int, database: str, storage: Server) -> tuple[list, dict[str, str]]:
    s3 = storage.environment()
    words = [
        "server", "--host", "127.0.0.1", "--port", port, "--workers", 1, "--backend-store-uri", database,
        "--serve-artifacts", "--artifacts-destination", f"s3://{BUCKET}/mlflow",
    ]  # fmt: skip
    return words, {**s3, "MLFLOW_S3_ENDPOINT_URL": s3["AWS_ENDPOINT_URL"]}


@contextmanager
def serve_model(folder: Path, model: str, tracking_uri: str) -> Iterator[str]:
    """Run ``mlflow models serve`` in this environment; gives the address that it answers at."""
    (port,) = free_ports(1)
    words = ["models", "serve", "-m", model, "--env-manager", "local", "-h", "127.0.0.1", "-p", port, "--workers", 1]
    with serving(words, folder, port, {"MLFLOW_TRACKING_URI": tracking_uri}):
        yield f"http://127.0.0.1:{port}/invocations"


@contextmanager
def serving(words: list, folder: Path, port: int, variables: Mapping[str, str]) -> Iterator[subprocess.Popen]:
    """Run an MLflow command until its health check answers; it and its children end afterwards."""
    scripts = str(Path(sys.executable).parent)  # it starts uvicorn by name
    environment = {
        **os.environ, **variables, "MLFLOW_DISABLE_TELEMETRY": "true", "NO_PROXY": "127.0.0.1,localhost",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}",
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.txt"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *map(str, words)],
            cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            _wait(process, f"http://127.0.0.1:{port}", log)
            yield process
        finally:
            _end(process)


def _wait(process: subprocess.Popen, address: str, log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end and process.poll() is None:
        try:
            with opener.open(f"{address}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):  # not listening yet
            time.sleep(0.2)
    raise RuntimeError(f"MLflow does not answer at {address}:\n{log.read_text(errors='replace')[-4000:]}")


def _end(process: subprocess.Popen) -> None:
    """End the server and the workers that it started: they share its process group, which is ours alone."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, kind)
        except ProcessLookupError:
            break
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            continue
