"""Which MLflow store a command means."""

import os
from pathlib import Path


def store_uri(said: str | None, runs: Path | str) -> str:
    """Return the URI that was said, or MLFLOW_TRACKING_URI, or that of SQLite in the folder of all runs."""
    return said or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(runs).resolve() / 'mlflow.db'}"
