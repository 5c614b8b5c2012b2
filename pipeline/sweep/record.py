"""What a sweep notes in its folder: the choices that were turned away and, at its end, its trials."""

import json
from pathlib import Path
from typing import Any

from pipeline.sweep.trials import Row

TURNED_AWAY = "turned-away.jsonl"
_TRIALS = "trials.json"


def turned_away(folder: Path) -> list[dict[str, Any]]:
    """Read the choices that were turned away, each once, with its reason."""
    log = folder / TURNED_AWAY
    if not log.is_file():
        return []
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return list({json.dumps(row["choice"], sort_keys=True): row for row in rows}.values())


def write_trials(folder: Path, rows: list[Row], failed: list[str]) -> None:
    """Keep the ranked trials of a sweep at its end, and the errors of those that failed."""
    (folder / _TRIALS).write_text(json.dumps({"rows": rows, "failed": failed}, indent=1))


def read_trials(folder: Path) -> dict[str, Any] | None:
    """Read what `write_trials` kept; none before the sweep's end."""
    path = folder / _TRIALS
    return json.loads(path.read_text()) if path.is_file() else None


def forget_trials(folder: Path) -> None:
    """Take back that a sweep came to its end: it goes on."""
    (folder / _TRIALS).unlink(missing_ok=True)
