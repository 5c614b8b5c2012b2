"""Every benchmark of the network, one after the other, for a machine that is lent for minutes.

    python -m tests.benchmarks --device cuda [--seconds 520] [--quick] [--results DIR]

Needs PyTorch, NumPy, PyYAML and matplotlib; neither Ray nor a reader. Those come first that say most. Each writes its
own JSON as it goes, so one that runs out of time, or fails, leaves what it has, and the next begins.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks.measuring import RESULTS, ROOT, progress

SHARES = {
    "memory": 0.25,
    "network": 0.35,
    "paper": 0.35,
    "inversion": 0.5,
    "planning": 0.5,
    "pieces": 0.5,
    "turns": 1.0,
}
"""What each may take, in this order, of the time that is then left."""


def arguments_of(name: str, device: str, results: Path, *, quick: bool) -> list[str]:
    """Return the words of a benchmark's command line; pictures of another device do not replace the README's."""
    words = ["--device", device, "--results", str(results)]
    if name in ("memory", "inversion"):
        words += ["--picture", str(results / f"{name}-{device}.png")]
    if quick:
        words += ["--only", "2-D few channels"] if name == "planning" else ["--quick"]
    return words


def run(name: str, words: list[str], limit: float) -> str:
    """Run one benchmark, its tables on this standard output; returns what became of it."""
    began, command = time.monotonic(), [sys.executable, "-m", f"tests.benchmarks.{name}", *words]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True) as process:
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # and the process of the figure that it waits for
            return f"stopped after {limit:.0f} s"
    taken = f"{time.monotonic() - began:.0f} s"
    return f"done in {taken}" if code == 0 else f"failed after {taken} with exit code {code}"


def main() -> None:
    """Run them all, and say at the end what became of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for all of them together")
    parser.add_argument("--quick", action="store_true", help="tiny networks: does all of it run?")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files")
    given = parser.parse_args()
    results, end, outcomes = given.results.resolve(), time.monotonic() + given.seconds, {}
    for name, share in SHARES.items():
        progress(f"== {name}")
        words = arguments_of(name, given.device, results, quick=given.quick)
        outcomes[name] = run(name, words, share * max(end - time.monotonic(), 0))
    for name, outcome in outcomes.items():
        print(f"{name}: {outcome}")
    if any(not outcome.startswith("done") for outcome in outcomes.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
