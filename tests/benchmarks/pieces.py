"""Time of a training step over the size of the pieces that a state is worked on in.

    python -m tests.benchmarks.pieces [--device cpu|cuda] [--quick] [--repeats 4]

Pieces bound the temporaries of a layer and stay in the cache; small ones cost calls, large ones memory. Times are
interleaved, and relative to those of the pieces that `models.pieces` sets.
"""

import argparse
import functools
import statistics
from pathlib import Path
from unittest.mock import patch

import torch

from models import pieces
from tests.benchmarks.cases import CASES, QUICK, Case
from tests.benchmarks.measuring import RESULTS, markdown, prepare, progress, seconds_of, write_results
from tests.benchmarks.ways import make

SIZES = [2**power for power in (19, 21, 23, 25, 27, 29)]


def time_case(case: Case, device: torch.device, repeats: int) -> dict[int, float]:
    """Return the seconds of a step of ours with pieces of each size, the median after one round that does not count."""
    x_BcN, way = case.volume(device), make("ours", case, device)
    optimiser = torch.optim.AdamW(way.module.parameters(), lr=1e-6)
    seconds: dict[int, list[float]] = {size: [] for size in SIZES}
    for repeat in range(repeats + 1):
        for size, taken in seconds.items():
            with patch.dict(pieces.PIECE_BYTES, {device.type: size}):
                found = seconds_of(functools.partial(way.train, x_BcN, optimiser), device)
            if repeat:
                taken.append(found)
        progress(f"{case.name}: round {repeat} of {repeats}")
    return {size: statistics.median(taken) for size, taken in seconds.items()}


def table(found: dict[str, dict[int, float]], own_size: int) -> str:
    """Lay times out, a column for each size in MiB."""
    rows = [["time / pieces as set", *[f"{size / 2**20:g} MiB" for size in SIZES], "as set, s"]]
    for name, seconds in found.items():
        own = seconds[own_size]
        rows.append([name, *[f"{seconds[size] / own:.2f}" for size in SIZES], f"{own:.3g}"])
    return markdown(rows)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run")
    parser.add_argument("--quick", action="store_true", help="tiny networks, one round: does it run at all?")
    parser.add_argument("--repeats", type=int, default=4, help="rounds that count")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file")
    given = parser.parse_args()
    device = torch.device(given.device)
    prepare(device)
    own_size = pieces.PIECE_BYTES[device.type]
    found: dict[str, dict[int, float]] = {}
    for case in QUICK if given.quick else [case.on(device) for case in CASES]:
        found[case.name] = time_case(case, device, 1 if given.quick else given.repeats)
        write_results(given.results, "pieces", given.device, {"set": own_size, "cases": found})
    print(table(found, own_size))


if __name__ == "__main__":
    main()
