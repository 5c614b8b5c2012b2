"""MLflow runs: created and ended by the driver, fed by rank 0."""

import itertools
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from datasets.errors import InputError
from pipeline.masking import without_secrets
from pipeline.tracking.outbox import Entry, Outbox, RefusedError, reason
from pipeline.tracking.store import lacks_file

Status = Literal["FINISHED", "FAILED", "KILLED"]
_FINAL = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "INVALID_STATE", "BAD_REQUEST")


def connect(uri: str) -> MlflowClient:
    """Open a tracking store; `InputError` where it does not answer."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # a run says itself where to look
    for noisy in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    except Exception as error:  # of HTTP, SQL, the file system
        raise InputError(
            f"MLflow does not answer at {without_secrets(uri)} ({reason(error)}); start the server, or set "
            "tracking.uri (none means SQLite beside the runs)"
        ) from error
    return client


def must_know(uri: str, run_id: str, what: str, before: str) -> None:
    """Refuse to go on with `what`, begun in the store `before`, in one that does not know its MLflow run."""
    place = f"MLflow at {without_secrets(uri)}"
    if not lacks_file(uri):
        try:
            connect(uri).get_run(run_id)
            return
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise InputError(f"{place} does not answer ({error}); try again later") from error
    raise InputError(
        f"--resume: {place} does not know the {what}, which was started with "
        f"{without_secrets(before)}; give that one as tracking.uri (or MLFLOW_TRACKING_URI), or none"
    )


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
    """Create a run, and its experiment if need be; returns its id.

    With SQLite, a new experiment's artifacts go into the folder `artifacts`; a server has its own place.
    """
    client = connect(uri)
    marks = {**tags, MLFLOW_PARENT_RUN_ID: parent} if parent else dict(tags)
    experiment_id = _experiment(client, experiment, artifacts if uri.startswith("sqlite:") else None)
    run_id: str = client.create_run(experiment_id, run_name=name, tags=marks).info.run_id
    shown = [Param(key, without_secrets(str(value))[:6000]) for key, value in parameters.items()]
    client.log_batch(run_id, params=shown)
    return run_id


def _experiment(client: MlflowClient, name: str, artifacts: Path | None) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=artifacts.resolve().as_uri() if artifacts else None)
        except MlflowException:
            found = client.get_experiment_by_name(name)  # somebody else made it in between
            if found is None:
                raise
    return found.experiment_id


class Tracker:
    """Feeds one run, at once, or by a file as `outbox`: then nothing here waits for MLflow or fails with it."""

    def __init__(self, uri: str, run_id: str, outbox: Path | None = None) -> None:
        self.uri, self.run_id = uri, run_id
        self._client = None if outbox else connect(uri)
        self._outbox = Outbox(outbox, self._send, f"MLflow at {without_secrets(uri)}") if outbox else None

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of one step."""
        now = int(time.time() * 1000)
        self._post("metrics", [[key, float(value), now, step] for key, value in values.items()])

    def tag(self, key: str, value: str) -> None:
        """Set a tag."""
        self._post("tag", key, value)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Upload a file."""
        self._post("artifact", str(path), folder)

    def artifacts(self, source: Path, folder: str) -> None:
        """Upload a folder."""
        self._post("artifacts", str(source), folder)

    def reopen(self) -> None:
        """Mark a run as running again; with an outbox, the next to open it says so."""
        self._post("status", "RUNNING", later=True)

    def end(self, status: Status) -> None:
        """Send what waits and close the run."""
        self._post("status", status)
        self.close()

    def flush(self) -> None:
        """Send what waits."""
        if self._outbox:
            self._outbox.flush()

    def close(self) -> None:
        """Send what waits, if MLflow answers, and end."""
        if self._outbox:
            self._outbox.close()

    def _post(self, *entry: Any, later: bool = False) -> None:
        if self._outbox:
            self._outbox.post(list(entry), later=later)
        else:
            self._send([list(entry)])

    def _send(self, entries: list[Entry]) -> None:
        """With an outbox, tell apart what MLflow will never take, as of a deleted run."""
        try:
            self._send_all(entries)
        except MlflowException as error:
            if self._outbox is not None and error.error_code in _FINAL:
                raise RefusedError(str(error)) from error
            raise

    def _send_all(self, entries: list[Entry]) -> None:
        """Send entries in order, metrics in a row together; sending twice changes nothing."""
        client = self._client = self._client or connect(self.uri)
        for kind, group in itertools.groupby(entries, key=lambda entry: entry[0]):
            if kind == "metrics":
                client.log_batch(self.run_id, metrics=[Metric(*row) for entry in group for row in entry[1]])
                continue
            for _, *what in group:
                self._send_one(client, kind, *what)

    def _send_one(self, client: MlflowClient, kind: str, *what: Any) -> None:
        if kind == "tag":
            client.set_tag(self.run_id, *what)
        elif kind == "status" and what[0] == "RUNNING":
            client.update_run(self.run_id, *what)
        elif kind == "status":
            client.set_terminated(self.run_id, *what)
        elif not Path(what[0]).exists():
            print(f"{what[0]} is gone before MLflow got it", flush=True)
        elif kind == "artifact":
            client.log_artifact(self.run_id, *what)
        else:
            client.log_artifacts(self.run_id, *what)
