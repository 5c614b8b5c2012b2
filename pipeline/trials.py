"""The trials of a sweep as a table: the best, and those that none beats in every objective."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.amount import show_bytes
from pipeline.config_sweep import SEARCHED

Row = dict[str, Any]
TURNED_AWAY = "turned-away.jsonl"
_TRIALS = "trials.json"
DIRECTIONS = {"score": "max", "parameters": "min", "memory": "min", "peak": "min", "time": "min"}
"""Whether more or less of an objective is better."""


def pareto_front(rows: Sequence[Mapping[str, Any]], objectives: Sequence[str]) -> list[bool]:
    """Tell of each trial whether none is at least as good in all objectives and better in one."""
    signs = {name: -1 if DIRECTIONS[name] == "max" else 1 for name in objectives}
    values = [[sign * row[name] for name, sign in signs.items()] for row in rows]
    return [
        not any(other != mine and all(his <= own for his, own in zip(other, mine, strict=True)) for other in values)
        for mine in values
    ]


def rank_trials(rows: Sequence[Row], objectives: Sequence[str], steps: int) -> list[Row]:
    """Sort trials by score, of equals the smaller first; note which are on the front or took fewer `steps`."""
    front = pareto_front(rows, objectives)
    noted = [{**row, "front": on, "stopped": row["step"] < steps} for row, on in zip(rows, front, strict=True)]
    return sorted(noted, key=lambda row: (-row["score"], row["parameters"], row["trial"]))


def show(name: str, value: Any) -> str:
    """Write one value of a trial."""
    if name == "parameters":
        return f"{value:,}"
    if name in ("memory", "peak"):
        return show_bytes(value)
    if name == "score":
        return f"{value:.3f}"
    if name == "time":
        return f"{value:.2g}" if value < 10 else f"{value:.0f}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


TITLES = {
    "score": "validation mIoU",
    "memory": "planned memory",
    "peak": "measured peak",
    "time": "s a step",
    "step": "step h",
    "rate": "learning rate",
}


def in_words(choice: Mapping[str, Any]) -> str:
    """Write a choice for a sentence: ``depth 10, rank 8, learning rate 0.003``."""
    return ", ".join(f"{TITLES.get(name, name)} {show('', choice[name])}" for name in SEARCHED if name in choice)


def trial_texts(row: Row, objectives: Sequence[str]) -> dict[str, str]:
    """Write a ranked trial, title -> text, and of several objectives whether it is on the front."""
    choice = {name: row["choice"][name] for name in SEARCHED if name in row["choice"]}
    found = {name: row[name] for name in DIRECTIONS if name in row}  # earlier sweeps measured no peak
    texts = {TITLES.get(name, name): show(name, value) for name, value in (choice | found).items()}
    front = {"Pareto front": "yes" * row["front"]} if len(objectives) > 1 else {}
    return {"trial": row["trial"], **texts, "steps": f"{row['step']}{' (stopped)' * row['stopped']}", **front}


def trials_table(rows: Sequence[Row], objectives: Sequence[str]) -> str:
    """Lay out ranked trials as Markdown."""
    texts = [trial_texts(row, objectives) for row in rows]
    last = [title for title in (TITLES["score"], "Pareto front", "trial") if title in texts[0]]
    heads = [*(title for title in texts[0] if title not in last), *last]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join(lines + ["| " + " | ".join(row[head] for head in heads) + " |" for row in texts])


def turned_away(folder: Path) -> list[dict[str, Any]]:
    """Read each choice that was turned away once, with its reason."""
    log = folder / TURNED_AWAY
    if not log.is_file():
        return []
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return list({json.dumps(row["choice"], sort_keys=True): row for row in rows}.values())


def write_trials(folder: Path, rows: list[Row], failed: list[str]) -> None:
    """Keep the ranked trials of a sweep, and the errors of the others."""
    (folder / _TRIALS).write_text(json.dumps({"rows": rows, "failed": failed}, indent=1))


def read_trials(folder: Path) -> dict[str, Any] | None:
    """Read what `write_trials` kept; none before the sweep's end."""
    path = folder / _TRIALS
    return json.loads(path.read_text()) if path.is_file() else None


def forget_trials(folder: Path) -> None:
    """Forget what `write_trials` kept: the sweep goes on."""
    (folder / _TRIALS).unlink(missing_ok=True)
