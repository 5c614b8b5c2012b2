"""The whole way once, by the commands that a user would type."""

from dataclasses import dataclass
from pathlib import Path

from datasets.errors import InputError


@dataclass
class QuickstartConfig:
    """Where the quickstart puts its things.

    Attributes
    ----------
    survey
        Recipe of the synthetic survey.
    training
        Recipe of the training run.
    map
        Folder of the map (Zarr).
    """

    survey: str = "pipeline/recipes/synthesize/small.yaml"
    training: str = "pipeline/recipes/quickstart.yaml"
    map: str = "maps/small.zarr"


def quickstart(config: QuickstartConfig, *, overwrite: bool = False) -> None:
    """Make a survey, train on it, register the model, map the volume, score the map, and write a report.

    `InputError` where a recipe is missing, or an earlier quickstart is in the way without `overwrite`.
    """
    from pipeline.cli import run_command
    from pipeline.recipe import load_recipe
    from pipeline.tracking.store import store_uri, where_to_look

    recipe = load_recipe(config.training)
    run = str(Path(recipe.runs) / recipe.name)
    for place in (recipe.data.source, run, config.map):
        if Path(place).exists() and not overwrite:
            raise InputError(f"{place} exists already from an earlier quickstart; pass --overwrite to replace it")
    replace = ["--overwrite"] if overwrite else []
    for name, *words in (
        ["synthesize", config.survey, *replace],
        ["train", config.training, *replace],
        ["register", run],
        ["promote", recipe.name],
        ["predict", f"models:/{recipe.name}@champion", recipe.data.source, config.map, *replace],
        ["evaluate", run, "--baseline"],
        ["report", run],
    ):
        print(f"\n$ python -m pipeline {' '.join([name, *words])}", flush=True)
        run_command(name, words)
    print(f"\nthe map:      {config.map}, its picture {Path(config.map).with_suffix('.png')}")
    print(f"the training: {run}/report.html")
    uri = store_uri(recipe.tracking.uri, recipe.runs)
    print(f"MLflow:       {where_to_look(uri)}")
    if not uri.startswith("http"):
        print("              then open http://127.0.0.1:5000")
