"""docs/benchmarks.md shows what the benchmarks print of the results that are kept, to the digit."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import inversion, memory, network, paper
from tests.benchmarks.measuring import RESULTS

PAGE = (Path(__file__).parents[1] / "docs" / "benchmarks.md").read_text()


def kept(benchmark: str) -> Any:
    return json.loads((RESULTS / f"{benchmark}-x86_64-2-cores.json").read_text())


def errors(points: dict[str, list[float | None]]) -> dict[int, tuple[float, float]]:
    """JSON knows neither inf, where states were lost, nor nan, where there is nothing to invert."""
    nothing = [all(values[which] is None for values in points.values()) for which in (0, 1)]
    missing = [math.nan if none else math.inf for none in nothing]
    return {
        int(depth): (found[0] if found[0] is not None else missing[0], found[1] if found[1] is not None else missing[1])
        for depth, found in points.items()
    }


def tables() -> Iterator[tuple[str, str]]:
    curves = {name: errors(points) for name, points in kept("inversion")["curves"].items()}
    yield "inversion", inversion.table(curves, 0, "inversion error at depth")
    yield "gradients", inversion.table(curves, 1, "gradient error at depth")
    cases = kept("network")["cases"]
    yield "ratios", network.ratios_table(cases, list(cases[0]["ways"]))
    yield "floors", network.floors_table(cases)
    found = kept("memory")
    yield "depths", memory.table(found["curves"], "depth", "layers")
    yield "sizes", memory.table(found["sizes"], "edge", f"edge, {memory.SIZES_DEPTH} layers")
    networks = kept("paper")["networks"]
    yield "paper's memory", paper.memory_table(networks)
    yield "paper's time", paper.time_table(networks)


TABLES = list(tables())


@pytest.mark.parametrize(("name", "table"), TABLES, ids=[name for name, _ in TABLES])
def test_a_table_is_the_one_of_the_kept_results(name: str, table: str) -> None:
    assert table in PAGE, f"the table of {name} in docs/benchmarks.md should be:\n{table}"
