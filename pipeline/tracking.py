"""MLflow runs: created and ended by the driver, fed by rank 0, which may restart in between."""

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from datasets.errors import InputError

Status = Literal["FINISHED", "FAILED", "KILLED"]
_PATIENCE_S = 5.0


def connect(uri: str) -> MlflowClient:
    """Open a tracking store and make sure that it answers.

    Raises
    ------
    InputError
        Where it does not.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    for noisy in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    except Exception as error:  # the store's driver decides the type: HTTP, SQL, file system
        raise InputError(
            f"MLflow does not answer at {uri} ({str(error).splitlines()[0]}); start the server, or set tracking.uri "
            "(none means SQLite beside the runs)"
        ) from error
    return client


def create_run(
    uri: str,
    experiment: str,
    name: str,
    *,
    parameters: Mapping[str, Any],
    tags: Mapping[str, str],
    artifacts: Path | None = None,
    parent: str | None = None,
) -> str:
    """Create a run.

    Parameters
    ----------
    uri
        Tracking URI.
    experiment
        Experiment, made where it does not exist.
    name
        Name of the run.
    parameters
        Flat configuration.
    tags
        Code version, data hash and the like.
    artifacts
        Folder for the artifacts of a new experiment; none leaves it to the server.
    parent
        Run that this one is a child of.

    Returns
    -------
    str
        The run's id.
    """
    client = connect(uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        location = None if artifacts is None else artifacts.resolve().as_uri()
        try:
            experiment_id = client.create_experiment(experiment, artifact_location=location)
        except MlflowException:  # somebody else made it in between
            found = client.get_experiment_by_name(experiment)
            if found is None:
                raise
            experiment_id = found.experiment_id
    else:
        experiment_id = found.experiment_id
    marks = dict(tags) | ({MLFLOW_PARENT_RUN_ID: parent} if parent else {})
    run_id: str = client.create_run(experiment_id, run_name=name, tags=marks).info.run_id
    client.log_batch(
        run_id,
        params=[Param(key, str(value)[:6000]) for key, value in parameters.items()],
        tags=[RunTag(key, value) for key, value in marks.items()],
    )
    return run_id


class Tracker:
    """Feeds one run; metrics are sent in batches, a few seconds apart.

    Parameters
    ----------
    uri
        Tracking URI.
    run_id
        The run.
    """

    def __init__(self, uri: str, run_id: str) -> None:
        self.client = connect(uri)
        self.run_id = run_id
        self._waiting: list[Metric] = []
        self._sent = time.monotonic()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of one step."""
        now = int(time.time() * 1000)
        self._waiting += [Metric(key, float(value), now, step) for key, value in values.items()]
        if time.monotonic() - self._sent > _PATIENCE_S or len(self._waiting) > 800:
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        for start in range(0, len(self._waiting), 1000):
            self.client.log_batch(self.run_id, metrics=self._waiting[start : start + 1000])
        self._waiting = []
        self._sent = time.monotonic()

    def tag(self, key: str, value: str) -> None:
        """Set a tag."""
        self.client.set_tag(self.run_id, key, value)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Upload a file."""
        self.client.log_artifact(self.run_id, str(path), folder)

    def artifacts(self, source: Path, folder: str) -> None:
        """Upload a folder."""
        self.client.log_artifacts(self.run_id, str(source), folder)

    def end(self, status: Status) -> None:
        """Send what waits and close the run."""
        self.flush()
        self.client.set_terminated(self.run_id, status)

    def reopen(self) -> None:
        """Mark a run that goes on as running again."""
        self.client.update_run(self.run_id, "RUNNING")
