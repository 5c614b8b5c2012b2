"""What the precision of states and force costs in accuracy: recipes trained in every mode, each seed with one split.

``python -m tests.benchmarks.precision pipeline/recipes/timelapse.yaml pipeline/recipes/quickstart.yaml --seeds 5``
prints a Markdown table a recipe: mean IoU of the test part, and its difference from float32 on the same seed. Finished
results are kept in the JSON, and not made again unless the recipe has changed.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.config import ClusterConfig
from pipeline.recipe import load_recipe
from pipeline.run import Run
from pipeline.training.context import Context, Silent
from pipeline.training.loop import fit, validate
from pipeline.training.prepare import prepare
from pipeline.training.train import absolute
from tests.benchmarks.accuracy import RESULTS, fingerprint, mean_and_deviation

MODES: dict[str, dict[str, Any]] = {
    "float32": {"states": "float"},
    "exact, float32 force": {"states": "exact"},
    "exact in 16 bits, float32 force": {"states": "exact", "state_bits": 16},
    "exact, bfloat16 force": {"force_dtype": "bfloat16"},
    "exact in 16 bits, bfloat16 force": {"force_dtype": "bfloat16", "state_bits": 16},
    "float states, bfloat16 force": {"states": "float", "force_dtype": "bfloat16"},
}


class Errors(Silent):
    """Remembers the largest error of the input that a backward pass recovered."""

    largest = 0.0

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Take the numbers of one step."""
        self.largest = max(self.largest, values["inversion_error"])


def score(run: Run) -> dict[str, float]:
    """Train and score a prepared run."""
    errors = Errors()
    outcome = fit(run, Context(listener=errors))
    assert outcome.best is not None
    outcome.model.load_state_dict(outcome.best)
    measured, _ = validate(outcome.model, run, torch.device("cpu"), "test")
    return {"miou": measured.miou, "inversion_error": errors.largest}


def table(name: str, results: list[dict[str, Any]]) -> str:
    """Lay out mean and deviation over the seeds as Markdown."""
    found = {(row["mode"], row["seed"]): row for row in results}
    lines = [f"| {name} | mean IoU | difference from float32 | inversion error |", "|---|---|---|---|"]
    for mode in MODES:
        rows = [row for row in results if row["mode"] == mode]
        differences = [row["miou"] - found["float32", row["seed"]]["miou"] for row in rows]
        mean, spread = np.mean(differences), np.std(differences, ddof=1) if len(rows) > 1 else 0.0
        scores, error = mean_and_deviation([row["miou"] for row in rows]), max(row["inversion_error"] for row in rows)
        lines.append(f"| {mode} | {scores} | {mean:+.3f} ± {spread:.3f} | {error:.0e} |")
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--runs", default="runs/precision", help="folder of the prepared runs")
    arguments = parser.parse_args()
    for path in arguments.recipes:
        place = arguments.results / f"precision-{path.stem}.json"
        results = json.loads(place.read_text())["results"] if place.is_file() else []
        base = load_recipe(path)
        for mode, settings in MODES.items():
            for seed in range(arguments.seeds):
                config = replace(
                    base,
                    runs=arguments.runs,
                    split=replace(base.split, seed=seed),
                    training=replace(base.training, seed=seed),
                    network=replace(base.network, **settings),
                    cluster=ClusterConfig(workers=0),
                )
                mark = fingerprint(config, "telegraph")
                if any((row["mark"], row["mode"]) == (mark, mode) for row in results):
                    continue
                row = {"mode": mode, "seed": seed, "mark": mark, **score(prepare(absolute(config), overwrite=True))}
                results = [old for old in results if (old["mode"], old["seed"]) != (mode, seed)] + [row]
                print(f"{path.stem} seed {seed} {mode}: mean IoU {row['miou']:.3f}", flush=True)
                place.parent.mkdir(parents=True, exist_ok=True)
                content = {"recipe": path.name, "threads": torch.get_num_threads(), "results": results}
                place.write_text(json.dumps(content, indent=1))
        print(f"\n{table(path.stem, results)}\n")


if __name__ == "__main__":
    main()
