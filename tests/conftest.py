"""Fixtures shared by the whole suite."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cloud.faults import FaultyProxy, faulty_proxy
from tests.cloud.mlflow_server import TeamServer
from tests.cloud.postgres import NoPostgresError, Postgres, serve_postgres
from tests.cloud.seaweed import BUCKET, Server, serve

os.environ.pop("MLFLOW_TRACKING_URI", None)  # the tests' runs stay out of anybody's server
os.environ["NO_PROXY"] = "127.0.0.1,localhost"  # no test leaves this machine
# Before torch is imported: tests run side by side, and sums in one order are equal to the bit.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 Ray spells it so; else its workers wait for all others
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore Ctrl-C, which is tested


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data sets, or a skip with the reason."""
    folder = Path(os.environ.get("TELEGRAPHER_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set TELEGRAPHER_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real S3-protocol server on loopback, for the whole session."""
    with serve(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture
def s3(s3_server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """URI of an empty prefix on the server, which the environment's credentials open."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{tmp_path.name}"


@pytest.fixture
def faulty_s3(s3_server: Server, s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy between the server and whatever connects from now on; it does no harm until its faults are set."""
    with faulty_proxy(s3_server.port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        yield proxy


@pytest.fixture(scope="session")
def database() -> Iterator[Postgres]:
    """A real PostgreSQL on loopback, or a skip where this machine has none."""
    try:
        with serve_postgres() as running:
            yield running
    except NoPostgresError as error:
        if os.environ.get("TELEGRAPHER_NEEDS_POSTGRES"):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def mlflow_server(database: Postgres, s3_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URI of a team's MLflow: a server with its runs in PostgreSQL and its artifacts in the S3 store."""
    server = TeamServer(tmp_path_factory.mktemp("mlflow-server"), database.uri, s3_server)
    try:
        server.start()
        yield server.uri
    finally:
        server.kill()


@pytest.fixture
def mlflow_to_kill(database: Postgres, s3_server: Server, tmp_path: Path) -> Iterator[TeamServer]:
    """Another server of that team, started, that a test may kill."""
    server = TeamServer(tmp_path / "mlflow-server", database.uri, s3_server)
    try:
        server.start()
        yield server
    finally:
        server.kill()
