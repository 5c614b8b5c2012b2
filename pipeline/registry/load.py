"""A model by its name."""

from pathlib import Path

from datasets.errors import InputError
from pipeline.run import Run
from pipeline.scoring.scorer import Scorer, run_scorer


def load_model(uri: str, *, tracking_uri: str) -> Scorer:
    """Load ``models:/NAME@alias`` or ``models:/NAME/VERSION`` from the registry, or a run's best checkpoint.

    `InputError`, which lists what there is, where there is no such model, or MLflow does not answer.
    """
    if uri.startswith("models:/"):
        from pipeline.registry import versions  # imports MLflow for seconds, which a folder does not need

        return versions.load_registered(uri, tracking_uri=tracking_uri)
    if (Path(uri) / "prepared.json").is_file():
        return run_scorer(Run.open(uri))
    raise InputError(
        f"{uri or 'an empty name'!r} is neither a registered model (models:/NAME@champion, models:/NAME/3) "
        "nor the folder of a run; register one with `python -m pipeline register runs/NAME`"
    )
