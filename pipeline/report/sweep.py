"""The page of a sweep."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.amount import show_bytes
from pipeline.config import RunConfig
from pipeline.config_sweep import Range
from pipeline.masking import without_secrets
from pipeline.recipe import load_recipe
from pipeline.report.content import Rows, machine_and_versions
from pipeline.report.page import data_uri, write_page
from pipeline.report.reproduce import installed, portable
from pipeline.run import Run
from pipeline.tracking.journal import read_history
from pipeline.trials import DIRECTIONS, TITLES, Row, in_words, read_trials, show, trial_texts, turned_away

CONTENTS = {
    "what": "What was searched",
    "trials": "Trials",
    "pictures": "Pictures",
    "refused": "Turned away and failed",
    "machine": "Machine",
    "again": "Make it again",
}
_PICTURES = {
    "pareto": "Score over the other objectives; filled is what no other trial beats in all of them.",
    "trials": "Score over depth, and the best of each pair of depth and rank.",
    "parallel": "Every trial as a line across what was searched and what came out.",
}


def write_sweep_report(folder: Path, out: Path | None = None) -> tuple[Path, str, str]:
    """Write the page of a sweep, into its folder by default; returns it, and URI and id of its MLflow run."""
    config = load_recipe(folder / "config.yaml")
    state = json.loads((folder / "sweep.json").read_text())
    page = write_page("sweep.html.j2", _describe(folder, config, state), out or folder / "report.html")
    return page, str(config.tracking.uri), state["run_id"]


def _describe(folder: Path, config: RunConfig, state: Mapping[str, Any]) -> dict[str, Any]:
    found, refused = read_trials(folder) or {}, turned_away(folder)
    rows: list[Row] = found.get("rows", [])
    failed = [without_secrets(error.strip().splitlines()[-1]) for error in found.get("failed", [])]
    runs = [Run.open(path.parent) for path in sorted(folder.glob("trial-*/prepared.json"))]
    noted = next((run for run in runs if run.read("machine.json")), None)
    cells = [trial_texts(row, config.sweep.objectives) for row in rows] or [_unfinished(run) for run in runs]
    return {
        "name": folder.name,
        "state": f"{len(rows)} trials" if found else f"not ended (still at work, or stopped); {len(runs)} trials begun",
        "warnings": [] if found else ["This sweep has not come to its end: what is here is what there is so far."],
        "contents": CONTENTS,
        "tiles": _tiles(rows, failed, len(refused)),
        "what": _what(config, state["memory"]),
        "heads": list(cells[0]) if cells else [],
        "cells": [list(texts.values()) for texts in cells],
        "pictures": {path.stem: data_uri(path) for path in (folder / "pictures").glob("*.png")},
        "captions": _PICTURES,
        "refused": [(in_words(row["choice"]), without_secrets(row["reason"])) for row in refused],
        "failed": failed,
        **machine_and_versions(noted),
        "settings": portable(config),
        "best": in_words(rows[0]["choice"]) if rows else None,
        "commands": _commands(config, state.get("code", "unknown"), finished=bool(found)),
    }


def _tiles(rows: Sequence[Row], failed: Sequence[str], refused: int) -> list[tuple[str, str, str]]:
    if not rows:
        return []
    return [
        ("best", show("score", rows[0]["score"]), "mean IoU on the validation part"),
        ("trials", str(len(rows)), "that came to a score"),
        ("stopped", str(sum(row["stopped"] for row in rows)), "early, by ASHA"),
        ("turned away", str(refused), "by the planner, before they started"),
        ("failed", str(len(failed)), "trials without a score"),
    ]


def _what(config: RunConfig, memory: int | None) -> Rows:
    sweep = config.sweep
    rows: Rows = [("volume", without_secrets(config.data.source))]
    for name, domain in sweep.domains.items():
        if isinstance(domain, Range):
            said = f"{domain.low:g} to {domain.high:g}{', logarithmic' * domain.log}"
        else:
            said = ", ".join(map(str, domain))
        rows.append((TITLES.get(name, name), said))
    most = {"max": "highest", "min": "lowest"}
    rows += [
        ("objectives", ", ".join(f"{most[DIRECTIONS[name]]} {TITLES.get(name, name)}" for name in sweep.objectives)),
        ("budget", f"{sweep.trials} trials of at most {config.training.steps} steps"),
        ("stopping", "ASHA stops weak trials" if sweep.stops_early else "every trial runs to its end"),
        ("scored on", "the validation part; the test part stays unseen"),
    ]
    return rows if memory is None else [*rows, ("memory of a worker", show_bytes(memory))]


def _unfinished(run: Run) -> dict[str, str]:
    history = read_history(run)
    scored = [row["validation/miou"] for row in history if "validation/miou" in row]
    return {
        "trial": run.config.name,
        "layers": run.config.network.layers,
        "steps so far": str(len(history)),
        f"best {TITLES['score']}": show("score", max(scored)) if scored else "-",
    }


def _commands(config: RunConfig, code: str, *, finished: bool) -> list[str]:
    tune = ".venv/bin/python -m pipeline tune sweep.yaml"
    why = "retrain, test and register the best" if finished else "go on with this one"
    more = ["--resume", *["--finish"] * finished, "--runs", config.runs]
    if config.cluster.address != "local":
        more += ["--cluster.address", config.cluster.address]
    return [
        *installed(code),
        f"{tune} --name {shlex.quote(f'{config.name}-again')}",
        f"{tune} {shlex.join(more)}    # {why}",
    ]
