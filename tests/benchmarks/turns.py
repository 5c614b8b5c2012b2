"""One volume on one device, its slabs in turns: what the device holds, and the time of a step and of a map.

    python -m tests.benchmarks.turns [--device cpu|cuda] [--turns 1 2 4 8 16] [--scratch DIR] [--quick]

States wait in the host's memory, and then in a file of the scratch folder. Each figure is of a process of its own, on
one thread on the CPU, where what waits in memory is counted too. Peaks are above what is held before; the gradients
must be those of the whole volume at once, which is also compared as the plan has it.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from models.config import NetworkConfig, SegmenterConfig
from models.peak import Away, Workload, prediction_peak, training_peak
from models.segmenter import Segmenter
from models.stream import Stream
from tests.benchmarks.measuring import (
    RESULTS,
    answer_apart,
    markdown,
    peak_of,
    prepare,
    progress,
    seconds_of,
    write_results,
)

LAYERS, REPEAT, EDGE = "8*2 d16*2 d32*2 u16*2 u8*2", 12, 128
QUICK = ("4*2 d4*2 u4", 4, 64)
TOLERANCE = 1e-3


def measure(turns: int, scratch: Path | None, device: torch.device, *, quick: bool) -> dict[str, Any]:
    """Measure one step and one map."""
    layers, repeat, edge = QUICK if quick else (LAYERS, REPEAT, EDGE * (2 if device.type == "cuda" else 1))
    torch.manual_seed(0)
    config = SegmenterConfig(NetworkConfig(layers=layers, repeat=repeat), 3, 1, ["one", "other"])
    segmenter = Segmenter(config, torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)).to(device)
    segmenter.network.stream = Stream(turns, scratch) if turns > 1 else None
    raw_BcN = torch.randn(1, 1, edge, edge, edge, generator=torch.Generator().manual_seed(1)).to(segmenter.home)

    def step() -> None:
        segmenter.zero_grad(set_to_none=True)
        segmenter(raw_BcN).square().mean().backward()

    @torch.no_grad()
    def mapping() -> None:
        segmenter(raw_BcN)

    def taken(task: Callable[[], None]) -> float:
        return min(seconds_of(task, device, wall=True) for _ in range(3 if device.type == "cuda" else 1))

    segmenter(raw_BcN[..., : edge // 8])  # a first pass brings libraries that do not count
    found: dict[str, Any] = {"peak": peak_of(step, device), "map_peak": peak_of(mapping, device)}
    found |= {"seconds": taken(step), "map_seconds": taken(mapping)}
    gradients = [parameter.grad.flatten() for parameter in segmenter.parameters() if parameter.grad is not None]
    away: Away = "" if turns == 1 else "volume" if device.type == "cuda" else "states" if scratch else ""
    work = Workload((edge, edge, edge), turns=turns, away=away, threads=0 if device.type == "cuda" else 1)
    plans = {"plan": training_peak(segmenter, work), "map_plan": prediction_peak(segmenter, work)}
    return found | plans | {"gradient": torch.cat(gradients).cpu().tolist(), "state": 4 * repeat * edge**3}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run")
    parser.add_argument("--turns", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="how many; one is the first")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="a folder on a disk")
    parser.add_argument("--quick", action="store_true", help="a tiny network: does it run at all?")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file")
    parser.add_argument("--one", choices=("memory", "scratch"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        device = torch.device(given.device)
        prepare(device)
        scratch = given.scratch if given.one == "scratch" else None
        print(json.dumps(measure(given.turns[0], scratch, device, quick=given.quick)))
        return
    entries: list[dict[str, Any]] = []
    rows = [["states wait in", "turns", "peak of a step", "states", "s", "peak of a map", "states", "s", "error"]]
    whole: list[float] = []
    for where in ("memory", "scratch") if given.device == "cpu" else ("memory",):  # a GPU's slabs would wait for a disk
        for turns in [1, *sorted(set(given.turns) - {1})] if where == "memory" else sorted(set(given.turns) - {1}):
            words = ["--device", given.device, "--turns", str(turns), "--scratch", str(given.scratch), "--one", where]
            words += ["--quick"] * given.quick
            found = json.loads(answer_apart("tests.benchmarks.turns", words, memory=given.device == "cpu"))
            if given.device == "cpu":  # timed apart: returning all memory to the system takes time
                timed = json.loads(answer_apart("tests.benchmarks.turns", words, memory=False))
                found |= {name: timed[name] for name in ("seconds", "map_seconds")}
            gradient = found.pop("gradient")
            whole = whole or gradient
            difference, true = torch.tensor(gradient) - torch.tensor(whole), torch.tensor(whole)
            found |= {"where": where, "turns": turns, "gradient_error": float(difference.norm() / true.norm())}
            if found["gradient_error"] > TOLERANCE:
                raise ValueError(f"{turns} turns have gradients off by {found['gradient_error']}")
            entries.append(found)
            rows.append([where if turns > 1 else "", str(turns)])
            for peak, seconds in (("peak", "seconds"), ("map_peak", "map_seconds")):
                size = found[peak]
                rows[-1] += [f"{size / 1e6:.0f} MB", f"{size / found['state']:.1f}", f"{found[seconds]:.2f}"]
            rows[-1].append(f"{found['gradient_error']:.1e}")
            progress(" ".join(rows[-1]))
            write_results(given.results, "turns", given.device, {"layers": LAYERS, "edge": EDGE, "cases": entries})
    print(markdown(rows))


if __name__ == "__main__":
    main()
