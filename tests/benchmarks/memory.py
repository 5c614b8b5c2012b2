"""Peak memory and time of one training step against depth and size, of every way to take it.

    python -m tests.benchmarks.memory [--device cpu|cuda] [--quick] [--picture docs/memory.png]

On the CPU every figure comes from a process of its own, and the peak is the resident one above what was resident before
the step; on CUDA it is that of the allocator. Both are in units of one state (the float32 tensor [C, *N] between two
layers), without the weights and their gradients. Time is processor time of one thread on the CPU, wall time on CUDA,
and stops at 64 layers, as do all ways but ours.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.benchmarks import peers
from tests.benchmarks.cases import Case, even_hourglass
from tests.benchmarks.measuring import (
    RESULTS,
    device_name,
    figure,
    markdown,
    peak_of,
    prepare,
    progress,
    seconds_of,
    write_results,
)
from tests.benchmarks.ways import WAYS, make

STORED_DEPTHS = (8, 16, 32, 64)
DEPTHS = (*STORED_DEPTHS, 128, 256, 512)
EDGES = (96, 192, 384)
EDGE, SIZES_DEPTH = 192, 16
ON_CUDA = 8
"""Times as many cells along each axis on a GPU, where small states would measure launches and workspaces."""
CHANNELS, RANK = 64, 8
CONSTANT = ("ours", "ours-exact-bf16")
STORING = ("segments", "checkpoint", "selective", "plain", "conventional")
COLOURS = {
    "ours": "#0072b2",
    "ours-exact-bf16": "#56b4e9",
    "segments": "#009e73",
    "checkpoint": "#e69f00",
    "selective": "#bcbd22",
    "plain": "#7f7f7f",
    "conventional": "#000000",
    "memcnn": "#cc79a7",
    "revlib": "#d55e00",
    "iunets": "#8c564b",
}


def case_of(depth: int, edge: int) -> Case:
    """Make the benchmark's network: two dimensions, 64 channels, one coarsening, block rank 8."""
    return Case("memory", 2, CHANNELS, even_hourglass(depth, RANK, 1), edge)


def measure(quantity: str, name: str, depth: int, edge: int, device: torch.device) -> float:
    """Measure the peak bytes of a first forward and backward pass without the weights' gradients, or its seconds."""
    prepare(device)
    case = case_of(depth, edge)
    way, x_BcN = make(name, case, device), case.volume(device)

    def task() -> None:
        way.module.zero_grad(set_to_none=True)
        way.loss(x_BcN).backward()

    way.loss(case_of(depth, 16).volume(device)).backward()  # libraries set themselves up
    way.module.zero_grad(set_to_none=True)
    if quantity == "bytes":
        return peak_of(task, device) - sum(4 * weight.numel() for weight in way.module.parameters())
    return min(seconds_of(task, device) for _ in range(2))


def measure_apart(quantity: str, name: str, depth: int, edge: int, device: str) -> float:
    """Measure one figure, apart from all others."""
    arguments = ["--figure", quantity, name, str(depth), str(edge), "--device", device]

    def here() -> float:
        return measure(quantity, name, depth, edge, torch.device(device))

    return figure("tests.benchmarks.memory", arguments, here, device, memory=quantity == "bytes")


def measure_point(name: str, depth: int, edge: int, device: str) -> dict[str, float]:
    """Measure peak and time of a way at a depth and size."""
    peak = measure_apart("bytes", name, depth, edge, device)
    timed = depth <= STORED_DEPTHS[-1]
    seconds = measure_apart("seconds", name, depth, edge, device) if timed else math.nan
    states = peak / state_bytes(edge)
    progress(f"depth {depth:3d} edge {edge:3d} {name:16s} {states:7.2f} states {seconds:7.2f} s")
    return {"depth": depth, "edge": edge, "bytes": peak, "states": states} | ({"seconds": seconds} if timed else {})


def state_bytes(edge: int) -> int:
    """Return the size of one float32 state."""
    return case_of(8, edge).state_bytes


def labels() -> dict[str, str]:
    """Return what each way is called."""
    return WAYS | peers.PEERS


def table(curves: dict[str, list[dict[str, float]]], key: str, heading: str) -> str:
    """Lay the curves out: states, and seconds, of each way at each depth or size."""
    places = sorted({int(point[key]) for points in curves.values() for point in points})
    rows = [[heading, *[f"{place}" for place in places]]]
    for name, points in curves.items():
        cells = {
            int(point[key]): f"{point['states']:.2f}" + (f", {point['seconds']:.3g} s" if "seconds" in point else "")
            for point in points
        }
        rows.append([labels()[name], *[cells.get(place, "") for place in places]])
    return markdown(rows)


def draw(curves: dict[str, list[dict[str, float]]], title: str, path: Path) -> None:
    """Draw peak memory and time of a step against depth."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    page, axes = pyplot.subplots(1, 2, figsize=(10, 5), constrained_layout=True)
    panels = (("states", "peak memory of a step / states"), ("seconds", "time of a step / s"))
    for panel, (quantity, label) in zip(axes, panels, strict=True):
        for name, points in curves.items():
            depths, values = zip(
                *[(point["depth"], point[quantity]) for point in points if quantity in point], strict=True
            )
            style, width = ("o-", 2.5) if name in CONSTANT else ("s--" if name in peers.PEERS else ".-", 1.2)
            panel.plot(depths, values, style, color=COLOURS[name], label=labels()[name], linewidth=width)
        ticks = sorted({point["depth"] for points in curves.values() for point in points if quantity in point})
        panel.set(xlabel="layers", ylabel=label, xscale="log", yscale="log")
        panel.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
        panel.minorticks_off()
        low, high = panel.get_ylim()
        round_numbers = [mark * 10**power for power in range(-3, 4) for mark in (1, 2, 5)]
        shown = [number for number in round_numbers if low <= number <= high]
        panel.set_yticks(shown, [f"{number:g}" for number in shown])
        panel.grid(alpha=0.3)
    page.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    page.suptitle(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.savefig(path, dpi=130)
    pyplot.close(page)


def extend(curves: dict[str, list[dict[str, float]]], names: Sequence[str], depth: int, edge: int, device: str) -> None:
    """Add a point to the curve of each way that goes as far."""
    for name in names:
        if name in CONSTANT or depth <= STORED_DEPTHS[-1]:
            curves.setdefault(name, []).append(measure_point(name, depth, edge, device))


def main() -> None:
    """Run the benchmark, or one of its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run")
    parser.add_argument("--quick", action="store_true", help="tiny states and two depths: does it run at all?")
    parser.add_argument("--depths", type=int, nargs="+", default=list(DEPTHS), help="numbers of layers")
    parser.add_argument("--ways", nargs="+", choices=list(labels()), help="some ways only")
    parser.add_argument("--picture", type=Path, default=Path("docs/memory.png"), help="where the picture goes")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file")
    parser.add_argument("--figure", nargs=4, metavar=("bytes|seconds", "WAY", "DEPTH", "EDGE"), help="one figure only")
    arguments = parser.parse_args()
    if arguments.figure:
        quantity, name, depth, edge = arguments.figure
        print(measure(quantity, name, int(depth), int(edge), torch.device(arguments.device)))
        return
    if peers.missing():
        progress(peers.missing())
    names = arguments.ways or [*CONSTANT, *STORING, *peers.installed()]
    larger = ON_CUDA if arguments.device == "cuda" else 1
    edge, depths = (48, (8, 16)) if arguments.quick else (EDGE * larger, arguments.depths)
    if arguments.quick:
        names = ["ours", "plain"]
    state = state_bytes(edge) / 2**20
    network = f"{CHANNELS} channels x {edge} x {edge}, rank {RANK}, one coarsening"
    curves: dict[str, list[dict[str, float]]] = {}
    sizes: dict[str, list[dict[str, float]]] = {}
    content = {"state_mib": state, "network": network, "curves": curves, "sizes": sizes}
    points = [(curves, depth, edge) for depth in depths]
    points += [(sizes, SIZES_DEPTH, size * larger) for size in ([] if arguments.quick else EDGES)]
    for found, depth_now, edge_now in points:
        extend(found, names, depth_now, edge_now, arguments.device)
        write_results(arguments.results, "memory", arguments.device, content)
    title = f"One training step, {network} ({state:.1f} MiB a state), {device_name(arguments.device)}"
    draw(curves, title, arguments.picture)
    print(table(curves, "depth", "layers"))
    if sizes:
        print("", table(sizes, "edge", f"edge, {SIZES_DEPTH} layers"), sep="\n")


if __name__ == "__main__":
    main()
