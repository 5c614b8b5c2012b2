"""Where a volume came from: hashes of its files, and the program that made it."""

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from datasets.progress import Progress

ROOT = Path(__file__).resolve().parents[1]
_PART = 2**22
_MAKES = 1  # raise it when the code makes other bytes of the same source and settings: no older store is gone on with


def hash_files(paths: Sequence[str | Path], *, speak: bool = False) -> dict[str, str]:
    """Hash files: path as given -> SHA-256 in hexadecimal. Where that takes long, `speak` says how far it is."""
    hashes = {}
    with Progress("hashing", sum(Path(path).stat().st_size for path in paths), speak=speak) as progress:
        for path in paths:
            digest = hashlib.sha256()
            with Path(path).open("rb") as file:
                while part := file.read(_PART):
                    digest.update(part)
                    progress.add(len(part))
            hashes[str(path)] = digest.hexdigest()
    return hashes


def version_of(package: str) -> str:
    """Return the version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def program() -> str:
    """Name this program, its version and its commit."""
    return f"telegrapher {version_of('telegrapher')}, commit {code_version()}"


def code_version() -> str:
    """Return the git commit of this code, marked where files have changed since.

    A job's upload is no checkout: who submitted it sets ``TELEGRAPHER_COMMIT``. An image has a file beside the code.
    """
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=ROOT, capture_output=True, text=True, check=True, timeout=10,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        told, beside = os.environ.get("TELEGRAPHER_COMMIT"), ROOT / "COMMIT"
        return told or (beside.read_text().strip() if beside.is_file() else "") or "unknown"


def now() -> str:
    """Write the time, in UTC and to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def content_key(facts: Mapping[str, object]) -> str:
    """Hash what decides every byte of a store: the same key, the same bytes."""
    return hashlib.sha256(json.dumps([_MAKES, facts], sort_keys=True, default=str).encode()).hexdigest()
