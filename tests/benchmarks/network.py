"""Time of one training step (forward, backward, optimiser) of every way to take it, interleaved in one process.

    python -m tests.benchmarks.network [--device cpu|cuda] [--quick] [--repeats 5] [--cases 2-D]

On the CPU time is processor time of one thread, on CUDA wall time. Every way of the same network must return the same
loss before it is timed. Beside the ratio to plain autograd stands the distance from two floors: of operations, since
ours evaluates each layer once more (for plain autograd's 6 products 8, or 7 where the hidden layer is kept), and of the
machine, the larger of operations at the speed of a large product and bytes at the speed of a copy. Operations are those
of direct convolutions; large volumes in float32 take half (`models.winograd`), and so may go below the floor.
"""

import argparse
import functools
import gc
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.kernels import multiply
from tests.benchmarks import peers
from tests.benchmarks.cases import CASES, OUR_STATES, QUICK, Case
from tests.benchmarks.measuring import RESULTS, markdown, prepare, progress, seconds_of, write_results
from tests.benchmarks.ways import ON_CUDA, OURS, WAYS, Way, make

TOLERANCE = {"ours-exact-bf16": 0.05, "plain-bf16": 0.05, "ours-exact": 1e-3}
"""How far the loss of a way may lie from plain autograd's, relatively; 1e-4 for those not named."""


@dataclass(frozen=True)
class Speed:
    """What a machine can do at best: operations a second in a large product, bytes a second in a copy."""

    flops: float
    bytes: float

    def floor(self, case: Case) -> tuple[float, str]:
        """Return the least seconds that a step of ours takes, and what they are spent on."""
        layers = sum(len(stage) for _, stage in case.stages())
        work = case.flops(stored=False) / self.flops
        traffic = OUR_STATES * layers * case.state_bytes / self.bytes
        return max((work, "operations"), (traffic, "bytes"))


def machine_speed(device: torch.device, *, quick: bool) -> Speed:
    """Measure the speed of a large float32 product and of a large copy, the best of several."""
    edge, size = (256, 2**20) if quick else (2048, 2**26)
    a, x = torch.randn(edge, edge, device=device), torch.randn(size, device=device)
    y = torch.empty_like(x)
    y.copy_(x)

    def products() -> None:
        for _ in range(4):
            multiply(a, a)

    def copies() -> None:
        for _ in range(4):
            y.copy_(x)

    with torch.no_grad():
        product = min(seconds_of(products, device) for _ in range(4)) / 4
        copy = min(seconds_of(copies, device) for _ in range(4)) / 4
    return Speed(2 * edge**3 / max(product, 1e-9), 2 * 4 * size / max(copy, 1e-9))


def same_loss(ways: dict[str, Way], x_BcN: torch.Tensor) -> None:
    """Refuse to time ways that do not compute the same network.

    Raises
    ------
    ValueError
        With the way, its loss, and plain autograd's.
    """
    with torch.no_grad():
        true = float(ways["plain"].loss(x_BcN))
        for name, way in ways.items():
            found = float(way.loss(x_BcN)) if name in WAYS else true
            if not abs(found - true) <= TOLERANCE.get(name, 1e-4) * true:
                raise ValueError(f"{WAYS[name]} has a loss of {found}, plain autograd one of {true}")


def time_case(case: Case, names: Sequence[str], device: torch.device, repeats: int) -> dict[str, list[float]]:
    """Time the ways in turn, `repeats` times after one round that does not count; one that fails is left out."""
    x_BcN = case.volume(device)
    ways = {name: make(name, case, device) for name in names}
    same_loss(ways, x_BcN)
    optimisers = {name: torch.optim.AdamW(way.module.parameters(), lr=1e-6) for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name in list(seconds):
            try:
                taken = seconds_of(functools.partial(ways[name].train, x_BcN, optimisers[name]), device)
            except RuntimeError as error:  # of memory, or a kernel that a device lacks
                if name == "plain":
                    raise
                progress(f"{case.name}: {name} is left out: {str(error).splitlines()[0]}")
                del seconds[name]
                continue
            finally:
                ways[name].module.zero_grad(set_to_none=True)
            if repeat:
                seconds[name].append(taken)
        progress(f"{case.name}: round {repeat} of {repeats}")
        gc.collect()
    return seconds


def summarise(case: Case, seconds: dict[str, list[float]], speed: Speed) -> dict[str, Any]:
    """Reduce the times of a case to medians, spreads (half the range) and ratios."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    floor, bound = speed.floor(case)
    ways = {}
    for name, values in seconds.items():
        ratios = [mine / plain for mine, plain in zip(values, seconds["plain"], strict=True)]
        ways[name] = {
            "seconds": medians[name],
            "spread": (max(values) - min(values)) / 2,
            "ratio": statistics.median(ratios),
            "ratio_spread": (max(ratios) - min(ratios)) / 2,
        }
        if name in OURS:
            more = case.flops(stored=False) / case.flops(stored=True)
            ways[name]["over_operations"] = ways[name]["ratio"] / more
            ways[name]["over_machine"] = medians[name] / floor
    return {
        "name": case.name,
        "size": [case.edge] * case.space,
        "layers": case.layers,
        "gflop_plain": case.flops(stored=True) / 1e9,
        "gflop_ours": case.flops(stored=False) / 1e9,
        "state_mib": case.state_bytes / 2**20,
        "floor_seconds": floor,
        "bound": bound,
        "ways": ways,
    }


def ratios_table(found: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """Lay out the time of each way in units of plain autograd's, a column for each case."""
    labels = WAYS | ON_CUDA | peers.PEERS
    rows = [["time / plain autograd", *[case["name"] for case in found]]]
    for name in names:
        cells = [case["ways"].get(name) for case in found]
        rows.append([labels[name]])
        rows[-1] += [f"{cell['ratio']:.2f} ± {cell['ratio_spread']:.2f}" if cell else "failed" for cell in cells]
    rows.append(["plain autograd, s", *[f"{case['ways']['plain']['seconds']:.3g}" for case in found]])
    return markdown(rows)


def floors_table(found: Sequence[dict[str, Any]]) -> str:
    """Lay out how far ours is from its floors."""
    rows = [
        [
            "case",
            "size",
            "layers",
            "GFLOP, plain",
            "ours",
            "floor of the machine",
            "ours, s",
            "/ machine",
            "/ operations",
        ]
    ]
    for case in found:
        ours = case["ways"]["ours"]
        size, floor = "x".join(map(str, case["size"])), f"{case['floor_seconds']:.3g} s ({case['bound']})"
        rows.append([case["name"], size, f"`{case['layers']}`"])
        rows[-1] += [f"{case['gflop_plain']:.3g}", f"{case['gflop_ours']:.3g}", floor]
        rows[-1] += [f"{ours['seconds']:.3g}", f"{ours['over_machine']:.2f}", f"{ours['over_operations']:.2f}"]
    return markdown(rows)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run")
    parser.add_argument("--quick", action="store_true", help="tiny networks, one round: does it run at all?")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count")
    parser.add_argument("--cases", default="", help="only cases whose name contains this text")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    prepare(device)
    names = [*WAYS, *(ON_CUDA if arguments.device == "cuda" else ()), *peers.installed()]
    if peers.missing():
        progress(peers.missing())
    speed = machine_speed(device, quick=arguments.quick)
    progress(f"this machine: {speed.flops / 1e9:.0f} GFLOP/s in a product, {speed.bytes / 1e9:.1f} GB/s in a copy")
    found = []
    for case in QUICK if arguments.quick else [case.on(device) for case in CASES]:
        if arguments.cases in case.name:
            repeats = 1 if arguments.quick else arguments.repeats
            found.append(summarise(case, time_case(case, names, device, repeats), speed))
            content = {"gflops": speed.flops / 1e9, "gbytes": speed.bytes / 1e9, "cases": found}
            write_results(arguments.results, "network", arguments.device, content)
    print(ratios_table(found, names), floors_table(found), sep="\n\n")


if __name__ == "__main__":
    main()
