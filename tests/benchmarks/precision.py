"""What the precision of states and force costs in accuracy: recipes trained in every mode, each seed with one split.

``python -m tests.benchmarks.precision pipeline/recipes/timelapse.yaml pipeline/recipes/quickstart.yaml --seeds 5``
prints a Markdown table a recipe: mean IoU of the test part, its difference from float32, and the inversion error.
"""

from typing import Any

import torch

from pipeline.run import Run
from pipeline.scoring.validation import validate
from pipeline.tracking.listener import Listener
from pipeline.training.context import Context
from pipeline.training.loop import new_segmenter
from tests.benchmarks.accuracy import fingerprint, train_best
from tests.benchmarks.over_seeds import Row, Variant, compare, mean_and_deviation

MODES: dict[str, dict[str, Any]] = {
    "float32": {"states": "float"},
    "exact": {"states": "exact"},
    "exact; 16 bits at 2^-8": {"states": "exact", "state_bits": 16, "grid_bits": 8},
    "exact; 16 bits at 2^-6": {"states": "exact", "state_bits": 16, "grid_bits": 6},
    "exact; bfloat16 force": {"force_dtype": "bfloat16"},
    "exact; 16 bits at 2^-8; bfloat16 force": {"force_dtype": "bfloat16", "state_bits": 16, "grid_bits": 8},
    "float32; bfloat16 force": {"states": "float", "force_dtype": "bfloat16"},
}


class Errors(Listener):
    """Remembers the largest error of the input that a backward pass recovered."""

    largest = 0.0

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Take the numbers of one step."""
        self.largest = max(self.largest, values["inversion_error"])


def score(run: Run) -> dict[str, float]:
    """Train and score a prepared run."""
    errors = Errors()
    outcome = train_best(run, new_segmenter, Context(listener=errors))
    measured, _ = validate(outcome.model, run, torch.device("cpu"), "test")
    return {"miou": measured.miou, "inversion_error": errors.largest}


def table(name: str, results: list[Row]) -> str:
    """Lay out mean and deviation over the seeds as Markdown; differences are from float32 on the same seed."""
    found = {(row["variant"], row["seed"]): row for row in results}
    lines = [f"| {name} | mean IoU | difference from float32 | inversion error |", "|---|---|---|---|"]
    for mode in MODES:
        rows = [row for row in results if row["variant"] == mode]
        if not rows:
            continue
        scores = mean_and_deviation([row["miou"] for row in rows])
        pairs = [
            (row["miou"], found["float32", row["seed"]]["miou"]) for row in rows if ("float32", row["seed"]) in found
        ]
        differences = mean_and_deviation([one - other for one, other in pairs], "+") if pairs else "-"
        error = max(row["inversion_error"] for row in rows)
        lines.append(f"| {mode} | {scores} | {differences} | {error:.0e} |")
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark."""
    modes = {name: Variant(score, lambda config: fingerprint(config, "telegraph"), new) for name, new in MODES.items()}
    compare("precision", modes, table, __doc__.splitlines()[0])


if __name__ == "__main__":
    main()
