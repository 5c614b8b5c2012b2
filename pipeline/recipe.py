"""Recipes: YAML files over the run's typed configuration, with dotted overrides."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from datasets.errors import InputError
from pipeline.config import RunConfig


def recipe_parser(config: type, **options: Any) -> ArgumentParser:
    """Make a parser of one configuration dataclass: ``--recipe FILE``, ``--print_config`` and dotted overrides."""
    parser = ArgumentParser(**options)
    parser.add_argument("--recipe", action="config", help="YAML file with any of the settings below")
    parser.add_class_arguments(config, fail_untyped=True)
    return parser


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a recipe.

    Parameters
    ----------
    path
        YAML file.
    overrides
        Dotted overrides, as on the command line: ``["--training.steps", "10"]``.

    Raises
    ------
    InputError
        Where the file is missing, or a key or value is not understood.
    """
    if not Path(path).is_file():
        raise InputError(f"no recipe at {path}; the examples are in pipeline/recipes")
    parser = recipe_parser(RunConfig, exit_on_error=False)
    try:
        parsed = parser.parse_args(["--recipe", str(path), *overrides])
    except Exception as error:  # jsonargparse raises several types, all of them about the recipe
        raise InputError(f"recipe {path}: {error}") from error
    return build(RunConfig, parser, parsed)


def build(config: type, parser: ArgumentParser, parsed: Any) -> Any:
    """Turn parsed arguments into the dataclass `config`."""
    instance = parser.instantiate(parsed)
    values = {key: instance[key] for key in config.__dataclass_fields__}  # type: ignore[attr-defined]
    return config(**values)


def dump_recipe(config: RunConfig) -> str:
    """Write a configuration as the YAML that `load_recipe` reads."""
    return yaml.safe_dump(asdict(config), sort_keys=False)
