"""How to make a run again, and what must then agree."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import yaml

from pipeline.config import RunConfig
from pipeline.masking import without_secrets
from pipeline.recipe import dump_recipe
from pipeline.report.evidence import Evidence


def commands(found: Evidence) -> list[str]:
    """Return the command lines that make the run again."""
    config, started, recipe = found.run.config, sessions(found), volume_recipe(found)
    lines, source = installed(started[-1][2] if started else "unknown"), config.data.source
    if recipe is not None:
        source = _here(source)
        lines.append(f".venv/bin/python -m pipeline {recipe[0]} volume.yaml")
    again = ["--data.source", without_secrets(source), "--name", f"{config.name}-again"]
    lines.append(f".venv/bin/python -m pipeline train run.yaml {shlex.join(again)}")
    return lines


def installed(code: str) -> list[str]:
    """Return the command lines that install a commit of the code."""
    checkout = [] if code == "unknown" else [f"git checkout {code.removesuffix('-dirty')}"]
    return [*checkout, "python3 -m venv .venv && .venv/bin/pip install -e ."]


def portable(config: RunConfig) -> str:
    """Write a recipe for any machine: local Ray, results in ``runs``, MLflow beside them."""
    cluster, tracking = replace(config.cluster, address="local"), replace(config.tracking, uri=None)
    return without_secrets(dump_recipe(replace(config, runs="runs", cluster=cluster, tracking=tracking)))


def volume_recipe(found: Evidence) -> tuple[str, str] | None:
    """Return the volume's command and recipe, as it remembers them."""
    if found.volume is None:
        return None
    attrs, out = found.volume.dataset.attrs, _here(found.run.config.data.source)
    if "synthesis" in attrs:
        return "synthesize", _yaml({"out": out, **json.loads(attrs["synthesis"])})
    settings = json.loads(attrs.get("conversion", "{}")).get("settings")
    if settings is None:
        return None
    return "convert", _yaml({"source": attrs["source"], "out": out, **settings})


def digests(found: Evidence) -> list[tuple[str, str]]:
    """Return the SHA-256 of volume, split and source, as far as they are known."""
    prepared, source = found.run.prepared, attribute(found, "source_sha256")
    rows = [("volume", prepared.volume_digest), ("split", prepared.split_digest), ("source", source)]
    return [row for row in rows if row[1]]


def sessions(found: Evidence) -> list[tuple[str, str, str]]:
    """Return when, how and from which commit the run was started and resumed."""
    return [
        (
            session["at"],
            without_secrets("python " + shlex.join(session["command"])) if session["command"] else "by another program",
            session["code"],
        )
        for session in found.run.read("started.json").get("sessions", [])
    ]


def attribute(found: Evidence, name: str) -> str:
    """Return what the volume says of itself, such as its title, or nothing."""
    return "" if found.volume is None else without_secrets(str(found.volume.dataset.attrs.get(name, "")))


def _here(source: str) -> str:
    return f"surveys/{PurePosixPath(source).name}"


def _yaml(values: Mapping[str, Any]) -> str:
    return without_secrets(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
