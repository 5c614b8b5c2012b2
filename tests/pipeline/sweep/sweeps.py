"""What the slow tests of sweeps share: a small search space, the sweep's runs in MLflow, how far its trials are."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient

from pipeline.config import RunConfig
from pipeline.config_sweep import SweepConfig

Make = Callable[..., RunConfig]


def searching(config: RunConfig, **sweep: Any) -> RunConfig:
    """Give a recipe a small search space."""
    return replace(config, sweep=SweepConfig(**{"depth": [3, 5], "rank": [2, 4], "levels": [1], **sweep}))


def mlflow_runs(config: RunConfig) -> tuple[Any, list[Any]]:
    """Return the sweep's run and those of its trials."""
    client = MlflowClient(config.tracking.uri or f"sqlite:///{Path(config.runs) / 'mlflow.db'}")
    (experiment,) = [found for found in client.search_experiments() if found.name == config.name]
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if run.info.run_name == f"{config.name}-sweep"]
    return parent, [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]


def lines_of(folder: Path) -> dict[str, int]:
    """Count the steps in the journal of each trial."""
    return {path.parent.name: len(path.read_text().splitlines()) for path in folder.glob("trial-*/history.jsonl")}
