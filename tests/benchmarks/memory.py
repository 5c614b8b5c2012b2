"""Peak memory and time of one training step against depth: ours, torch's checkpoint, and plain autograd.

    python -m tests.benchmarks.memory [--device cpu|cuda] [--quick] [--picture docs/memory.png]

All run the same network with the same weights. Every figure comes from a process of its own. On the CPU the peak
is the resident one above what was resident before the step, on CUDA that of the allocator; both in units of one state
(the float32 tensor [C, *N] between two layers). Time is processor time of one thread on the CPU, wall time on CUDA.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from models.chain import repeated, unrolled, unrolled_step
from models.config import NetworkConfig, hourglass
from models.network import TelegraphNetwork

METHODS = {
    "telegraph": "reversible chain (ours)",
    "segments": "torch.utils.checkpoint, segments of √depth layers",
    "checkpoint": "torch.utils.checkpoint, every layer",
    "plain": "plain autograd",
}
DEPTHS = (4, 8, 16, 32, 64)
CHANNELS, REPEAT, RANK = 8, 8, 8
RESULTS = Path(__file__).parent / "results"


def build(depth: int) -> TelegraphNetwork:
    """Make the benchmark's network: two dimensions, 64 state channels, one coarsening, block rank 8."""
    torch.manual_seed(0)
    return TelegraphNetwork(NetworkConfig(layers=hourglass(depth, RANK, 1), repeat=REPEAT), 2, CHANNELS)


def checkpointed(network: TelegraphNetwork, x_BcN: Tensor, segment: int) -> Tensor:
    """Run the layers out of place, each segment of layers recomputed in the backward pass from its stored input.

    Between segments go the two newest states, and a state is handed on as it is, so that neighbours share what they
    store: one state a layer for segments of one layer.
    """
    plan, weights = network.plan, list(zip(network.kernels, network.biases, strict=True))

    def run(start: int, previous: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        for layer, (kernel, bias) in list(zip(plan.layers, weights, strict=True))[start : start + segment]:
            newest, increment = unrolled_step(plan, layer, x, x - previous, kernel, bias)
            previous, x = newest - increment if layer.resample else x, newest
        return previous, x

    previous = x = repeated(x_BcN, plan.repeat)
    for start in range(0, len(weights), segment):
        previous, x = checkpoint(run, start, previous, x, use_reentrant=False)
    return x.movedim(-1, 1)


def forward(method: str, network: TelegraphNetwork, x_BcN: Tensor) -> Tensor:
    """Run the network in one of the ways that are compared."""
    if method == "telegraph":
        return network(x_BcN)
    if method == "plain":
        return unrolled(network.plan, x_BcN, network.parameters_in_order())[1]
    return checkpointed(network, x_BcN, 1 if method == "checkpoint" else math.isqrt(len(network.plan.layers)))


def step(method: str, network: TelegraphNetwork, x_BcN: Tensor) -> None:
    """Take a forward and a backward pass from a read-out of four channels."""
    network.zero_grad(set_to_none=True)
    forward(method, network, x_BcN)[:, :4].square().mean().backward()


def resident(field: str) -> int:
    """Read a field of this process's memory in bytes: VmRSS now, VmHWM at its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def peak_of(task: Callable[[], None], device: torch.device) -> int:
    """Return the bytes that a task needed at its peak above those held before it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        task()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = resident("VmRSS")
    task()
    return resident("VmHWM") - before


def measure(quantity: str, method: str, depth: int, edge: int, device: torch.device) -> float:
    """Measure the peak bytes of a first step, or the seconds of the faster of two."""
    network = build(depth).to(device)
    step(method, network, torch.randn(1, CHANNELS, 16, 16, device=device))  # libraries set themselves up
    network.zero_grad(set_to_none=True)
    x_BcN = torch.randn(1, CHANNELS, edge, edge, device=device)

    def task() -> None:
        step(method, network, x_BcN)
        if device.type == "cuda":
            torch.cuda.synchronize()

    if quantity == "bytes":
        return peak_of(task, device)
    clock = time.perf_counter
    if device.type == "cpu":
        # Processor time of one thread: a busy machine does not blur it.
        torch.set_num_threads(1)
        clock = time.thread_time
    seconds = []
    for _ in range(2):
        began = clock()
        task()
        seconds.append(clock() - began)
    return min(seconds)


def measure_apart(quantity: str, method: str, depth: int, edge: int, device: str) -> float:
    """Measure one figure in a process of its own."""
    environment = dict(os.environ)
    if quantity == "bytes":
        # Large blocks come from and return to the system one by one, so that the resident peak is the tensors' peak.
        environment |= {"MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_TRIM_THRESHOLD_": str(2**20)}
    arguments = ["--figure", quantity, method, str(depth), str(edge), "--device", device]
    answer = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.memory", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    if answer.returncode:
        raise RuntimeError(f"{method} at depth {depth} failed:\n{answer.stderr[-2000:]}")
    return float(answer.stdout.splitlines()[-1])


def measure_point(method: str, depth: int, edge: int, device: str) -> dict[str, float]:
    """Measure peak and time of a method at a depth."""
    peak = measure_apart("bytes", method, depth, edge, device)
    seconds = measure_apart("seconds", method, depth, edge, device)
    return {"depth": depth, "bytes": peak, "states": peak / state_bytes(edge), "seconds": seconds}


def state_bytes(edge: int) -> int:
    """Return the size of one float32 state."""
    return 4 * CHANNELS * REPEAT * edge**2


def device_name(device: str) -> str:
    """Name the hardware, fit for a file's name."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} {os.cpu_count()} cores"
    return "-".join(name.lower().split())


def table(curves: dict[str, list[dict[str, float]]]) -> str:
    """Lay the curves out as a Markdown table: states and seconds of each method at each depth."""
    lines = ["| depth | " + " | ".join(METHODS.values()) + " |", "|---" * (len(METHODS) + 1) + "|"]
    for points in zip(*(curves[method] for method in METHODS), strict=True):
        cells = [f"{point['states']:.2f} states, {point['seconds']:.2f} s" for point in points]
        lines.append(f"| {points[0]['depth']:.0f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(curves: dict[str, list[dict[str, float]]], title: str, path: Path) -> None:
    """Draw peak memory and time of a step against depth."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4.4), constrained_layout=True)
    colours = dict(zip(METHODS, ("#0072b2", "#009e73", "#e69f00", "#7f7f7f"), strict=True))
    for panel, quantity, label in zip(
        axes, ("states", "seconds"), ("peak memory of a step / states", "time of a step / s"), strict=True
    ):
        for method, points in curves.items():
            depths, values = [point["depth"] for point in points], [point[quantity] for point in points]
            panel.plot(depths, values, marker="o", color=colours[method], label=METHODS[method])
        panel.set(xlabel="layers", ylabel=label, ylim=(0, None))
        panel.set_xticks(depths, [f"{depth:.0f}" for depth in depths])
        panel.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def main() -> None:
    """Run the benchmark, or one of its points."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run")
    parser.add_argument("--quick", action="store_true", help="tiny states and two depths: does it run at all?")
    parser.add_argument("--picture", type=Path, default=Path("docs/memory.png"), help="where the picture goes")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file")
    parser.add_argument(
        "--figure", nargs=4, metavar=("bytes|seconds", "METHOD", "DEPTH", "EDGE"), help="measure one figure only"
    )
    arguments = parser.parse_args()
    if arguments.figure:
        quantity, method, depth, edge = arguments.figure
        print(measure(quantity, method, int(depth), int(edge), torch.device(arguments.device)))
        return
    edge, depths = (64, DEPTHS[:2]) if arguments.quick else (288, DEPTHS)
    curves: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
    for depth in depths:
        for method, points in curves.items():
            points.append(measure_point(method, depth, edge, arguments.device))
            print(f"depth {depth:3d} {method:12s} {points[-1]['states']:7.2f} states", file=sys.stderr, flush=True)
    state = state_bytes(edge) / 2**20
    name = device_name(arguments.device)
    content = {
        "device": name,
        "torch": torch.__version__,
        "state_mib": state,
        "network": f"{CHANNELS * REPEAT} channels x {edge} x {edge}, rank {RANK}, one coarsening",
        "curves": curves,
    }
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / f"memory-{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    draw(curves, f"One training step, {content['network']} ({state:.1f} MiB a state), {name}", arguments.picture)
    print(table(curves))


if __name__ == "__main__":
    main()
