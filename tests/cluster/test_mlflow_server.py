"""The MLflow of the manifest, started by its own command and variables: whom it answers, and whom it refuses."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cloud.seaweed import free_ports
from tests.cluster.manifests import document

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"


def answer(port: int, path: str, host: str) -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Host": host})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The container's command and plain variables; its database is a file here, and its port is free."""
    (container,) = document("Deployment", "mlflow")["spec"]["template"]["spec"]["containers"]
    folder, (port,) = tmp_path_factory.mktemp("mlflow"), free_ports(1)
    settings = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    assert settings["MLFLOW_HOST"] == "0.0.0.0"
    settings |= {"MLFLOW_HOST": "127.0.0.1", "MLFLOW_PORT": str(port)}
    settings |= {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder / 'mlflow.db'}", "MLFLOW_DISABLE_TELEMETRY": "true"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    program, *words = container["command"]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [str(shutil.which(program, path=path)), *words],
            env=os.environ | settings | {"PATH": path}, cwd=folder, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            end = time.monotonic() + 120
            while time.monotonic() < end and process.poll() is None:
                try:
                    answer(port, container["readinessProbe"]["httpGet"]["path"], "10.1.2.3:5000")
                    break
                except OSError:
                    time.sleep(0.2)
            else:
                raise RuntimeError((folder / "log.txt").read_text(errors="replace")[-2000:])
            yield port
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def test_it_answers_kubelet_the_namespace_and_a_tunnel(server):
    (container,) = document("Deployment", "mlflow")["spec"]["template"]["spec"]["containers"]
    probe = container["readinessProbe"]["httpGet"]["path"]
    assert answer(server, probe, "10.1.2.3:5000") == (200, "OK"), "kubelet asks by the pod's address"
    (uri,) = re.findall(r"--tracking.uri http://(\S+)", document("RayJob", "sweep")["spec"]["entrypoint"])
    for host in (uri, "mlflow.telegrapher:5000", "localhost:5000", "127.0.0.1:15000"):
        assert answer(server, SEARCH, host)[0] == 200, host


def test_it_refuses_a_name_that_is_not_its_own(server):
    code, text = answer(server, SEARCH, "elsewhere.example")
    assert code == 403
    assert "Invalid Host header" in text
