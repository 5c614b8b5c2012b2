"""A run's best checkpoint becomes a registered version, which needs none of our code."""

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlflow
import mlflow.pytorch
import numpy as np
import torch
from mlflow.entities import Run as Record
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.types import Schema, TensorSpec

from datasets.errors import InputError
from models.segmenter import Segmenter
from pipeline.checkpoints.checkpoint import best_checkpoint, load_segmenter, read_meta
from pipeline.config import RegisterConfig
from pipeline.masking import without_secrets
from pipeline.recipe import dump_recipe
from pipeline.registry.champion import Standing
from pipeline.registry.export import Exportable, example_batch, tolerance
from pipeline.registry.versions import DESCRIPTION_FILE, RECIPE_FILE, Registry, label, tracking_at
from pipeline.report.card import model_card
from pipeline.run import Run
from pipeline.scoring.description import ModelDescription, describe_run
from pipeline.scoring.metrics import MEANS
from pipeline.tracking.tracker import connect
from pipeline.training.train import flatten

_LONGEST_TEXT = 5000  # of MLflow's database column


@dataclass(frozen=True)
class RegisteredVersion:
    """What `register` made."""

    name: str
    version: int
    champion: bool  # else challenger

    @property
    def uri(self) -> str:
        """URI of exactly this version."""
        return f"models:/{self.name}/{self.version}"


def register(config: RegisterConfig) -> RegisteredVersion:
    """Register a run's best checkpoint: the first version is the champion, later ones challenge it.

    `InputError` where there is no finished run, or MLflow does not answer or know it; `RuntimeError` where the exported
    program does not compute what the network does, and nothing is registered.
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
    try:
        record = client.get_run(run_id)
    except MlflowException as error:
        raise InputError(
            f"MLflow at {uri} does not know the run of {run.folder} (id {run_id}); "
            "give the --tracking_uri that it was trained with, or train it again"
        ) from error
    segmenter = load_segmenter(checkpoint)
    description = describe_run(run, segmenter)
    card = model_card(name, description, metrics)
    with tracking_at(uri):
        try:
            with mlflow.start_run(run_id=run_id):
                logged = _log(Exportable(segmenter).eval(), description, card, run, metrics)
        finally:
            client.set_terminated(run_id, record.info.status, record.info.end_time)  # as before
        _verify(logged.model_uri, segmenter, description)
        try:
            client.get_registered_model(name)
        except MlflowException:
            text = f"{' x '.join(description.space)} to {', '.join(description.classes)}"
            client.create_registered_model(name, description=text)
        tags, text, model = _tags(name, description, metrics, record), card[:_LONGEST_TEXT], logged.model_id
        made = client.create_model_version(name, logged.model_uri, run_id, tags=tags, description=text, model_id=model)
        registered = RegisteredVersion(name, int(made.version), Registry(uri, client).enter(made))
    print(f"registered {registered.uri}")
    if registered.champion:
        print(f"{label(made)} is the champion: it is the first.")
    else:
        print(f"{label(made)} is the challenger; `python -m pipeline promote {name}` compares it with the champion.")
    return registered


def _log(module: torch.nn.Module, d: ModelDescription, card: str, run: Run, metrics: dict[str, Any]) -> ModelInfo:
    sizes = tuple(-1 if size is None else size for size in d.sizes)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("float32"), (-1, d.channels, *sizes))]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, len(d.classes), *[-1] * len(d.label_dims)))]),
    )
    with tempfile.TemporaryDirectory() as folder:
        beside = {
            "README.md": card,
            DESCRIPTION_FILE: json.dumps(d.to_json(), indent=1),
            RECIPE_FILE: without_secrets(dump_recipe(run.config)),
            "metrics.json": json.dumps(metrics, indent=1),
        }
        for file, text in beside.items():
            (Path(folder) / file).write_text(text)
        return mlflow.pytorch.log_model(
            module,
            name="model",
            signature=signature,
            input_example=example_batch(d),
            serialization_format="pt2",
            validate_serving_input=False,  # would load the program once more; `_verify` does
            pip_requirements=[f"torch=={torch.__version__.split('+')[0]}", f"numpy=={np.__version__}"],
            extra_files=[str(Path(folder) / file) for file in beside],
            metadata=d.to_json(),
            params={key: without_secrets(str(value)) for key, value in flatten(asdict(run.config)).items()},
        )


def _verify(model_uri: str, segmenter: Segmenter, d: ModelDescription) -> None:
    stored, allowed = mlflow.pytorch.load_model(model_uri), tolerance(segmenter.config.network)
    for extra in (1, d.multiple):  # sizes other than the traced
        raw = torch.from_numpy(example_batch(d, extra)[:1])
        with torch.no_grad():
            difference = float((stored(raw) - segmenter.probabilities(raw)).abs().max())
        if not difference <= allowed:
            raise RuntimeError(
                f"the exported program differs from the network by {difference:.1e} on an input of {tuple(raw.shape)}; "
                f"{allowed:.0e} is allowed"
            )


def _tags(name: str, d: ModelDescription, metrics: dict[str, Any], record: Record) -> dict[str, str]:
    learned, miou = d.training, float(metrics["test/miou"])
    return {
        **{f"test_{key}": repr(metrics[f"test/{key}"]) for key in MEANS},
        **Standing(name, miou, learned["volume_digest"], learned["split_digest"], f"{d.factor:g}").tags(),
        "classes": json.dumps(d.classes),
        "space": json.dumps(d.space),
        "channel_dims": json.dumps(dict(zip(d.channel_dims, d.channel_sizes, strict=True))),
        "label_dims": json.dumps(d.label_dims),
        "read_slice": json.dumps({d.space[axis]: cell for axis, cell in d.read_slice.items()}),
        "units": d.data.get("units", ""),
        "split": json.dumps(learned["split"]),
        "best_step": str(metrics["best_step"]),
        "source_sha256": learned.get("source_sha256", ""),
        "shape": json.dumps(learned["shape"]),
        "code_version": record.data.tags.get("code_version", "unknown"),
    }
