"""Which MLflow store a command means, and how to look at it."""

import os
import sys
from pathlib import Path

from pipeline.masking import without_secrets


def store_uri(said: str | None, runs: Path | str) -> str:
    """Return the URI `said`, or MLFLOW_TRACKING_URI, or that of SQLite in the folder of all runs.

    A SQLite file has its whole path: other processes have other folders.
    """
    uri = said or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(runs) / 'mlflow.db'}"
    file = uri.removeprefix("sqlite:///")
    return uri if file == uri else f"sqlite:///{Path(file).resolve()}"


def lacks_file(uri: str) -> bool:
    """Tell whether a store is SQLite without a file, which it would get by being opened."""
    file = uri.removeprefix("sqlite:///")
    return file != uri and not Path(file).is_file()


def where_to_look(uri: str) -> str:
    """Return the address of a server, or the command that serves another store."""
    shown = without_secrets(uri)
    return shown if uri.startswith("http") else f"{sys.executable} -m mlflow ui --backend-store-uri {shown}"
