"""Recipes: YAML files over the run's typed configuration, with dotted overrides."""

import re
from argparse import ArgumentError
from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import yaml
from jsonargparse import ArgumentParser, Namespace

from datasets.errors import InputError
from pipeline.config import RunConfig


def recipe_parser(config: type, **options: Any) -> ArgumentParser:
    """Make a parser of one configuration dataclass: ``--recipe FILE``, ``--print_config`` and dotted overrides.

    A configuration with a setting `recipe` of its own is not read from a file.
    """
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False, **options)
    if "recipe" not in {field.name for field in fields(config)}:
        parser.add_argument("--recipe", action="config", help="YAML file with any of the settings below")
    parser.add_class_arguments(config, fail_untyped=True)
    return parser


def parse(parser: ArgumentParser, words: Sequence[str]) -> Any:
    """Parse the words of a command line.

    `InputError` where a recipe is missing or no YAML, or a key or value is not understood; one nearly right is named.
    """
    recipe = next((after for word, after in pairwise(words) if word == "--recipe"), None)
    if recipe is not None and not Path(recipe).is_file():
        raise InputError(f"no recipe at {recipe}; the examples are in pipeline/recipes")
    try:
        return parser.parse_args(list(words))
    except (ArgumentError, UnicodeDecodeError) as error:
        key, complaint = _explain(str(error))
        by_hand = key is not None and any(word.split("=")[0] == f"--{key}" for word in words)
        place = f"recipe {recipe}: " if recipe is not None and not by_hand else ""
        settings = [option for action in parser._actions for option in action.option_strings]
        near = get_close_matches(f"--{key}", settings, n=1) if complaint is None else []
        hint = f"did you mean {near[0].removeprefix('--')}? " if near else ""
        raise InputError(
            f"{place}{complaint or f'{key} is not a setting'}; {hint}`{parser.prog} --help` lists all settings"
        ) from error


def _explain(message: str) -> tuple[str | None, str | None]:
    """Read a parser's message: its key, and what is wrong other than that there is no such key."""
    if found := re.fullmatch(r"unrecognized arguments: (?:--([^\s=]+))?.*", message, re.S):
        return found[1], None if found[1] else f"{message.split(': ', 1)[1]!r} is not understood"
    if found := re.fullmatch(r"Option '(.+)' is not accepted", message):
        return found[1], None
    if found := re.fullmatch(r"Group '(.+)' does not accept option '(.+)'", message):
        return f"{found[1]}.{found[2]}", None
    if found := re.fullmatch(r"Parser key \"(.+?)\":\s*(.+)", message, re.S):
        key, detail = found.groups()
        if wanted := re.search(r"Expected an? (.+)\. Got value: (.*)", detail, re.S):
            return key, f"{key} is {wanted[2]!r}, expected {_kind(wanted[1], wanted[2])}"
        if wanted := re.search(r"Subtypes: \[(.+?)\]\n.*Given value: (.*)", detail, re.S):
            kinds = [_kind(part, wanted[2]) for part in wanted[1].split(", ")]
            return key, f"{key} is {wanted[2].strip()!r}, expected {' or '.join(kinds)}"
        return key, f"{key}: {_line(detail)}"
    if found := re.fullmatch(r"Unexpected config: (.*)", message, re.S):
        return None, "it holds no settings of the form `key: value`"
    return None, _line(message.replace("Problems parsing config", "not YAML"))


def _kind(python: str, given: str) -> str:
    plain = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", python).replace("typing.Literal", "one of ")
    named = {"NoneType": "null", "list": f"a list such as [{given}]", "Range": "a range such as {low: 0.1, high: 0.5}"}
    return named.get("list" if plain.startswith("list[") else plain, plain)


def _line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a recipe, with `overrides` as on the command line: ``["--training.steps", "10"]``; errors as `parse`."""
    parser = recipe_parser(RunConfig, prog="python -m pipeline train")
    return build(RunConfig, parser, parse(parser, ["--recipe", str(path), *overrides]))


def build(config: type, parser: ArgumentParser, parsed: Any) -> Any:
    """Turn parsed arguments into the dataclass `config`; a group of one value, or a setting of none, is refused."""
    for field in fields(config):
        value, name = parsed[field.name], field.name
        if not is_dataclass(field.type):
            continue
        if not isinstance(value, Namespace):
            raise InputError(
                f"{name} is {value!r}, but it is a group of settings such as {name}.{fields(field.type)[0].name}; set "
                "those"
            )
        for inner in fields(field.type):
            if value[inner.name] is None and type(None) not in get_args(inner.type):
                raise InputError(f"{name}.{inner.name} is null; give it a value, or leave it out")
    instance = parser.instantiate(parsed)
    return config(**{field.name: instance[field.name] for field in fields(config)})


def dump_recipe(config: RunConfig) -> str:
    """Write a configuration as the YAML that `load_recipe` reads."""
    return yaml.safe_dump(asdict(config), sort_keys=False)
