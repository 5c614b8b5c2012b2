"""Accuracy over seeds, beside a random forest and MONAI's U-Net on the same split in the same run.

``python -m tests.benchmarks.accuracy pipeline/recipes/indian-pines.yaml pipeline/recipes/timelapse.yaml --seeds 5``
prints a Markdown table a recipe.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import torch

from pipeline.checkpoints.checkpoint import Meta, Snapshot
from pipeline.config import RunConfig
from pipeline.run import Run
from pipeline.scoring.baseline import forest_scores
from pipeline.scoring.validation import validate
from pipeline.training.context import Context
from pipeline.training.loop import Outcome, fit, new_segmenter
from tests.benchmarks.over_seeds import Row, Variant, compare, mean_and_deviation
from tests.benchmarks.unet import unet_twin

COLUMNS = {"oa": "OA", "aa": "AA", "kappa": "kappa", "miou": "mean IoU"}
UNET_RATES = (1e-3, 3e-3, 1e-2)
UNET_STEPS = 2
"""The recipes were tuned for the telegraph network, so the U-Net takes twice their steps at the best of three rates."""
LATER = {
    "data": ("halo", "labelled_share", "missing"),
    "network": ("boundary", "coarsening", "states", "grid_bits", "state_bits", "kept_hidden"),
    "training": ("memory",),
}
"""Settings that are younger than the first results kept: they count only where a recipe sets them."""
TITLES = {"telegraph": "telegraph network", "unet": "MONAI U-Net", "forest": "random forest"}


class Best:
    """Storage that holds the checkpoint of the best validation in memory."""

    def __init__(self) -> None:
        self.score, self.weights = -math.inf, dict[str, torch.Tensor]()

    def __call__(self, snapshot: Snapshot | None, meta: Meta) -> None:
        """Take a checkpoint."""
        if snapshot is not None and meta.score > self.score:
            self.score, self.weights = meta.score, snapshot.model


def train_best(run: Run, build: Callable[[Run], torch.nn.Module], context: Context | None = None) -> Outcome:
    """Train a network by the recipe; its model ends with the weights of the best validation."""
    best = Best()
    outcome = fit(run, replace(context or Context(), store=best), build)
    outcome.model.load_state_dict(best.weights)
    return outcome


def train_unet(run: Run) -> Outcome:
    """Train the U-Net at each rate, and return the one that validates best."""
    recipe = run.config.training
    trainings = (replace(recipe, rate=rate, steps=UNET_STEPS * recipe.steps) for rate in UNET_RATES)
    outcomes = [train_best(replace(run, config=replace(run.config, training=each)), unet_twin) for each in trainings]
    return max(outcomes, key=lambda outcome: outcome.progress.best_score)


def score(run: Run, method: str) -> Row:
    """Train and score one method on a prepared run."""
    began = time.perf_counter()
    parameters = 0
    if method == "forest":
        measured = forest_scores(run)
    else:
        outcome = train_unet(run) if method == "unet" else train_best(run, new_segmenter)
        measured, _ = validate(outcome.model, run, torch.device("cpu"), "test")
        parameters = sum(parameter.numel() for parameter in outcome.model.parameters())
    return {
        **{key: getattr(measured, key) for key in COLUMNS},
        "iou": measured.iou,
        "parameters": parameters,
        "seconds": time.perf_counter() - began,
    }


def fingerprint(config: RunConfig, method: str) -> str:
    """Identify what a method's result depends on; the forest does not depend on network and schedule."""
    parts = asdict(config)
    plain = asdict(RunConfig())
    for part, later in LATER.items():
        for key in later:
            if key in parts[part] and parts[part][key] == plain[part][key]:
                del parts[part][key]
    kept = ["data", "split"] if method == "forest" else ["data", "split", "network", "training"]
    chosen = {name: parts[name] for name in kept} | {"seed": config.training.seed}
    if method == "unet":
        chosen["unet"] = [*UNET_RATES, UNET_STEPS]
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:16]


def table(name: str, results: list[Row]) -> str:
    """Lay out mean and deviation over the seeds as Markdown."""
    lines = [f"| {name} | parameters | OA | AA | kappa | mean IoU | seconds |", "|---|---|---|---|---|---|---|"]
    for method, title in TITLES.items():
        rows = [row for row in results if row["variant"] == method]
        if not rows:
            continue
        cells = [mean_and_deviation([row[key] for row in rows]) for key in COLUMNS]
        parameters = f"{rows[0]['parameters'] / 1e6:.2f} M" if rows[0]["parameters"] else "-"
        seconds = f"{np.median([row['seconds'] for row in rows]):.0f}"
        lines.append(f"| {title} | {parameters} | {' | '.join(cells)} | {seconds} |")
    return "\n".join(lines)


def variant(method: str) -> Variant:
    """Make a method one of what is compared."""
    return Variant(lambda run: score(run, method), lambda config: fingerprint(config, method), {})


def main() -> None:
    """Run the benchmark."""
    compare("accuracy", {method: variant(method) for method in TITLES}, table, __doc__.splitlines()[0])


if __name__ == "__main__":
    main()
