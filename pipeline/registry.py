"""MLflow's model registry: a run's best checkpoint becomes a version that needs none of our code.

B batch, C channels, K classes, N the space.
"""

import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import mlflow.pytorch
import numpy as np
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import Schema, TensorSpec

from datasets.errors import InputError
from pipeline.card import model_card
from pipeline.champion import Standing, compare
from pipeline.checkpoint import best_checkpoint, load_segmenter, read_meta
from pipeline.config import RegisterConfig
from pipeline.description import ModelDescription, describe_run
from pipeline.export import Exportable, example_batch
from pipeline.run import Run
from pipeline.scorer import Scorer
from pipeline.tracking import connect

CHAMPION = "champion"
DESCRIPTION_FILE = "telegrapher.json"
_TOLERANCE = 1e-5
_LONGEST_TEXT = 5000  # of MLflow's database column
_NAME = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))\Z")


@dataclass(frozen=True)
class RegisteredVersion:
    """A version that `register` made.

    Attributes
    ----------
    name, version
        Name in the registry and number.
    champion
        Whether the alias ``champion`` now points at it.
    reason
        The sentence that says why, or why not.
    """

    name: str
    version: int
    champion: bool
    reason: str

    @property
    def uri(self) -> str:
        """URI of exactly this version."""
        return f"models:/{self.name}/{self.version}"


def register(config: RegisterConfig) -> RegisteredVersion:
    """Put a run's best checkpoint into the registry, and say whether it is the champion.

    Parameters
    ----------
    config
        Which run, under which name.

    Returns
    -------
    RegisteredVersion
        The new version.

    Raises
    ------
    InputError
        Where there is no finished run, or MLflow does not answer or does not know it.
    RuntimeError
        Where the exported program does not compute what the network computes; nothing is registered then.
    """
    run = Run.open(config.run)
    uri, name = config.tracking_uri or run.tracking_uri, config.name or run.config.name
    checkpoint = best_checkpoint(run.folder)
    metrics = run.read("metrics.json")
    if metrics.get("best_step") != read_meta(checkpoint).step:
        raise InputError(
            f"{run.folder} has no test scores of its best checkpoint ({checkpoint.name}); "
            f"run `python -m pipeline evaluate {config.run}` first"
        )
    run_id = str(run.read("tracking.json").get("run_id"))
    client = connect(uri)
    record = _find_run(client, run_id, run, uri)
    segmenter = load_segmenter(checkpoint)
    description = describe_run(run, segmenter)
    card = model_card(name, description, metrics)
    with _tracking_at(uri):
        with _resumed(client, run_id):
            model_uri, model_id = _log(Exportable(segmenter).eval(), description, card)
        _verify(model_uri, segmenter, description)
        return _enter(client, name, model_uri, model_id, record, description, card, metrics)


def _find_run(client: MlflowClient, run_id: str, run: Run, uri: str) -> Any:
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        raise InputError(
            f"MLflow at {uri} does not know the run of {run.folder} (id {run_id}); "
            "give the --tracking_uri that it was trained with, or train it again"
        ) from error


@contextmanager
def _tracking_at(uri: str) -> Iterator[None]:
    """Point MLflow's global calls at `uri`, quietly, and back afterwards."""
    before = mlflow.get_tracking_uri()
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


@contextmanager
def _resumed(client: MlflowClient, run_id: str) -> Iterator[None]:
    """Make a finished run active again; its status and its end stay what they were."""
    info = client.get_run(run_id).info
    with mlflow.start_run(run_id=run_id):
        yield
    client.set_terminated(run_id, info.status, info.end_time)


def _log(module: torch.nn.Module, d: ModelDescription, card: str) -> tuple[str, str]:
    sizes = tuple(-1 if size is None else size for size in d.sizes)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("float32"), (-1, d.channels, *sizes))]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, len(d.classes), *[-1] * len(d.label_dims)))]),
    )
    with tempfile.TemporaryDirectory() as folder:
        card_file, description_file = Path(folder) / "README.md", Path(folder) / DESCRIPTION_FILE
        card_file.write_text(card)
        description_file.write_text(json.dumps(d.to_json(), indent=1))
        info = mlflow.pytorch.log_model(
            module,
            name="model",
            signature=signature,
            input_example=example_batch(d),
            serialization_format="pt2",
            pip_requirements=[f"torch=={torch.__version__.split('+')[0]}", f"numpy=={np.__version__}"],
            extra_files=[str(card_file), str(description_file)],
            metadata=d.to_json(),
        )
    return info.model_uri, info.model_id


def _verify(model_uri: str, segmenter: Any, d: ModelDescription) -> None:
    """Compare the stored program with the network on sizes that it was not traced with."""
    stored = mlflow.pytorch.load_model(model_uri)
    for extra in (1, d.multiple):
        raw = torch.from_numpy(example_batch(d, extra)[:1])
        with torch.no_grad():
            difference = float((stored(raw) - segmenter.probabilities(raw)).abs().max())
        if not difference <= _TOLERANCE:
            raise RuntimeError(
                f"the exported program differs from the network by {difference:.1e} on an input of {tuple(raw.shape)}"
            )


def _enter(
    client: MlflowClient,
    name: str,
    model_uri: str,
    model_id: str,
    record: Any,
    d: ModelDescription,
    card: str,
    metrics: dict[str, Any],
) -> RegisteredVersion:
    try:
        client.get_registered_model(name)
    except MlflowException:
        client.create_registered_model(name, description=f"{' x '.join(d.space)} to {', '.join(d.classes)}")
    champion = _champion(client, name)
    standing = Standing(
        name,
        float(metrics["test/miou"]),
        d.training["volume_digest"],
        d.training["split_digest"],
        f"{d.factor:g}",
    )
    tags = standing.tags() | {
        "classes": json.dumps(d.classes),
        "space": json.dumps(d.space),
        "channel_dims": json.dumps(dict(zip(d.channel_dims, d.channel_sizes, strict=True))),
        "label_dims": json.dumps(d.label_dims),
        "read_slice": json.dumps({d.space[axis]: cell for axis, cell in d.read_slice.items()}),
        "units": d.data.get("units", ""),
        "split": json.dumps(d.training["split"]),
        "best_step": str(metrics["best_step"]),
        "code_version": record.data.tags.get("code_version", "unknown"),
    }
    made = client.create_model_version(
        name, model_uri, record.info.run_id, tags=tags, description=card[:_LONGEST_TEXT], model_id=model_id
    )
    version = int(made.version)
    new = Standing.of(f"{name}/{version}", standing.tags())
    wins, reason = compare(new, champion)
    if wins:
        client.set_registered_model_alias(name, CHAMPION, str(version))
    print(f"registered models:/{name}/{version}")
    print(reason)
    return RegisteredVersion(name, version, wins, reason)


def _champion(client: MlflowClient, name: str) -> Standing | None:
    try:
        found = client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException:
        return None
    return Standing.of(f"{name}/{found.version}", found.tags)


def load_registered(uri: str, *, tracking_uri: str) -> Scorer:
    """Load a version from the registry; see `pipeline.scorer.load_model`.

    Raises
    ------
    InputError
        Where the URI is not one, MLflow does not answer, or there is no such model; the message lists what there is.
    """
    match = _NAME.match(uri)
    if match is None:
        raise InputError(f"{uri} is not a model's URI; write models:/NAME@{CHAMPION} or models:/NAME/3")
    database = tracking_uri.removeprefix("sqlite:///")
    if database != tracking_uri and not Path(database).is_file():
        raise InputError(
            f"no MLflow database at {database}, so no {uri}; register a model first, "
            "or say where it is with --tracking_uri or --runs"
        )
    client = connect(tracking_uri)
    try:
        if match["alias"]:
            found = client.get_model_version_by_alias(match["name"], match["alias"])
        else:
            found = client.get_model_version(match["name"], match["version"])
    except MlflowException as error:
        raise InputError(f"no {uri} at {tracking_uri}; {_inventory(client)}") from error
    with _tracking_at(tracking_uri):
        folder = Path(mlflow.artifacts.download_artifacts(f"models:/{found.name}/{found.version}"))
        module = mlflow.pytorch.load_model(str(folder))
    stored = next(folder.rglob(DESCRIPTION_FILE), None)
    if stored is None:
        raise InputError(f"{uri} was not registered by this program: it has no {DESCRIPTION_FILE}")
    description = ModelDescription.from_json(json.loads(stored.read_text()))
    return Scorer(uri, f"{found.name}/{found.version}", description, module)


def _inventory(client: MlflowClient) -> str:
    models = client.search_registered_models(max_results=20)
    if not models:
        return "the registry is empty: fill it with `python -m pipeline register runs/NAME`"
    shown = []
    for model in models:
        newest = max((int(v.version) for v in client.search_model_versions(f"name = '{model.name}'")), default=0)
        aliases = "".join(f", @{alias} = {version}" for alias, version in sorted(model.aliases.items()))
        shown.append(f"models:/{model.name}/1..{newest}{aliases}" if newest > 1 else f"models:/{model.name}/1{aliases}")
    return f"there is {'; '.join(shown)}"
