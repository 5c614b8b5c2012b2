"""A real PostgreSQL on loopback, from the system's packages: a private cluster in a folder of its own."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cloud.seaweed import free_ports

USER, PASSWORD = "telegrapher", "test-password-7f3c"


@dataclass(frozen=True)
class Postgres:
    """A server that can be taken down, with what is in it kept, and brought back.

    Attributes
    ----------
    uri
        Of its one database, which is empty at first.
    start, stop
        Bring it up, or end it at once and without a word to its clients.
    """

    uri: str
    start: Callable[[], None]
    stop: Callable[[], None]


class NoPostgresError(RuntimeError):
    """This machine has no PostgreSQL server, or nobody who may run it."""


def find_programs() -> Path:
    """Folder of the server's programs, the newest version's; Debian keeps them off the PATH."""
    places = [str(place) for place in Path("/usr/lib/postgresql").glob("*/bin")]
    places.sort(key=lambda place: int(Path(place).parent.name.split(".")[0]))
    for place in [*reversed(places), *os.environ.get("PATH", "").split(os.pathsep)]:
        if shutil.which("initdb", path=place) and shutil.which("pg_ctl", path=place):
            return Path(place)
    raise NoPostgresError("no PostgreSQL server here; apt-get install postgresql")


def _who() -> dict[str, Any]:
    """Whom the server runs as: never root, whom it refuses."""
    if os.geteuid() != 0:
        return {}
    try:
        user = pwd.getpwnam("postgres")
    except KeyError as error:
        raise NoPostgresError("PostgreSQL does not run as root, and there is no user postgres") from error
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


@contextmanager
def serve_postgres() -> Iterator[Postgres]:
    """Run a server on an empty cluster."""
    programs, who = find_programs(), _who()
    (port,) = free_ports(1)
    # pytest's own folders are closed to other users, and a socket's path may have 107 letters at most.
    with tempfile.TemporaryDirectory(prefix="telegrapher-pg-") as place:
        folder = Path(place)
        secret = folder / "password"
        secret.write_text(PASSWORD)
        if who:
            for path in (folder, secret):
                os.chown(path, who["user"], who["group"])

        def run(*words: object) -> None:
            done = subprocess.run(
                [str(word) for word in words], cwd=folder, capture_output=True, text=True, timeout=120, **who
            )
            if done.returncode:
                log = folder / "log"
                raise RuntimeError(f"{words[0]}: {done.stdout}{done.stderr}{log.read_text() if log.is_file() else ''}")

        data = folder / "data"
        run(
            programs / "initdb", "-D", data, "-U", USER, f"--pwfile={secret}", "--auth=scram-sha-256",
            "--encoding=UTF8", "--locale=C", "--no-sync",
        )  # fmt: skip
        options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off -c max_connections=40"
        control = [programs / "pg_ctl", "-D", data, "-w", "-t", "60"]

        def start() -> None:  # the log is a file, or the server would hold on to our pipe
            run(*control, "-l", folder / "log", "-o", options, "start")

        def stop() -> None:
            if (data / "postmaster.pid").exists():
                run(*control, "-m", "immediate", "stop")

        start()
        try:
            yield Postgres(f"postgresql+psycopg://{USER}:{PASSWORD}@127.0.0.1:{port}/postgres", start, stop)
        finally:
            stop()
