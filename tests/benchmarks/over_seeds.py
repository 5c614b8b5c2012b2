"""Recipes trained in several variants over seeds, each with its own split and weights; results kept as they come."""

import argparse
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.config import ClusterConfig, RunConfig
from pipeline.recipe import load_recipe
from pipeline.run import Run
from pipeline.training.prepare import prepare
from pipeline.training.train import absolute

RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """One of what is compared.

    Attributes
    ----------
    score
        Trains and scores a prepared run; the numbers include ``miou``.
    mark
        Identifies what the numbers depend on.
    network
        Settings of the network that replace the recipe's.
    """

    score: Callable[[Run], Row]
    mark: Callable[[RunConfig], str]
    network: Mapping[str, Any]


def compare(kind: str, variants: Mapping[str, Variant], table: Callable[[str, list[Row]], str], about: str) -> None:
    """Run a benchmark from its command line: print a table a recipe, write JSON.

    Numbers that were kept are not made again unless what they depend on has changed.

    Parameters
    ----------
    kind
        Begins the name of the JSON.
    variants
        What is compared, by name.
    table
        Lays the rows of a recipe out as Markdown; a row has ``variant`` and ``seed`` beside its numbers.
    about
        What the benchmark is for.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("recipes", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default=",".join(variants), help="variants, with commas between them")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--runs", default=f"runs/{kind}", help="folder of the prepared runs")
    arguments = parser.parse_args()
    chosen = {name: variants[name] for name in arguments.only.split(",")}
    for path in arguments.recipes:
        place = arguments.results / f"{kind}-{path.stem}.json"
        rows = json.loads(place.read_text())["results"] if place.is_file() else []
        for seed in range(arguments.seeds):
            for name, variant in chosen.items():
                config = of_seed(load_recipe(path), seed, arguments.runs, variant.network)
                mark = variant.mark(config)
                if any((row["mark"], row["variant"]) == (mark, name) for row in rows):
                    continue
                folder = Path(config.runs) / config.name
                if (folder / "prepared.json").is_file():
                    shutil.rmtree(folder)
                found = variant.score(prepare(absolute(config)))
                rows = [old for old in rows if (old["variant"], old["seed"]) != (name, seed)]
                rows.append({"variant": name, "seed": seed, "mark": mark, **found})
                rows.sort(key=lambda row: (row["variant"], row["seed"]))
                print(f"{path.stem} seed {seed} {name}: mean IoU {found['miou']:.3f}", flush=True)
                place.parent.mkdir(parents=True, exist_ok=True)
                content = {"recipe": path.name, "threads": torch.get_num_threads(), "results": rows}
                place.write_text(json.dumps(content, indent=1))
        print(f"\n{table(path.stem, rows)}\n")


def of_seed(recipe: RunConfig, seed: int, runs: str, network: Mapping[str, Any]) -> RunConfig:
    """Give a recipe a seed, for split and weights, and replace settings of its network."""
    return replace(
        recipe,
        runs=runs,
        split=replace(recipe.split, seed=seed),
        training=replace(recipe.training, seed=seed),
        network=replace(recipe.network, **network),
        cluster=ClusterConfig(workers=0),
    )


def mean_and_deviation(values: list[float], sign: str = "") -> str:
    """Write the mean and the sample deviation as the field's tables do: ``.615 ± .012``."""
    mean, deviation = np.mean(values), np.std(values, ddof=1) if len(values) > 1 else 0.0
    return " ± ".join(text.replace("0.", ".", 1) for text in (f"{mean:{sign}.3f}", f"{deviation:.3f}"))
