"""The paper's own two networks (arXiv 2407.00595): memory by formula and as measured, and time beside plain autograd.

    python -m tests.benchmarks.paper --device cuda --scale 1      # full size; one GPU of 80 GB is enough
    python -m tests.benchmarks.paper                              # 1/2 and 1/4 of every edge, on the CPU

Networks come from `pipeline/recipes/paper`; sizes are the paper's, scaled and rounded to what the layers coarsen. By
formula the authors count three inputs for the states, or one for each layer where activations are stored, and the
kernels; measured is the peak of one forward and backward pass, less the gradients of the weights, which are as large as
the kernels. Every figure comes from a process of its own, but on CUDA. Time is that of a step with its optimiser (the
paper's), in processor seconds of one thread on the CPU.
"""

import argparse
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from models.config import NetworkConfig, parse_layers
from models.network import TelegraphNetwork
from tests.benchmarks.measuring import (
    RESULTS,
    ROOT,
    figure,
    markdown,
    peak_of,
    prepare,
    progress,
    seconds_of,
    write_results,
)
from tests.benchmarks.ways import Conventional

WAYS: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours-exact-bf16": {"force_dtype": "bfloat16"},
    "ours-16-bit": {"force_dtype": "bfloat16", "state_bits": 16},
    "conventional": {},
}
LABELS = {
    "ours": "ours, float32",
    "ours-exact-bf16": "ours, exact, bf16 force",
    "ours-16-bit": "ours, exact, 16-bit states",
    "conventional": "plain autograd, PyTorch's convolutions",
}
STORING_LIMIT = 1 / 4
"""The largest scale at which plain autograd is run on a CPU: at full size it needs ten times the memory of ours."""


@dataclass(frozen=True)
class Paper:
    """A network of the paper, and the block that it takes.

    Attributes
    ----------
    channels
        Channels of the input.
    sizes
        Cells of the block at full size.
    """

    channels: int
    sizes: tuple[int, int, int]


PAPER = {"seismic": Paper(1, (248, 248, 248)), "hyperspectral": Paper(2, (368, 288, 184))}


def config_of(name: str, **changes: Any) -> NetworkConfig:
    """Read a network from its recipe, in one of our modes."""
    recipe = yaml.safe_load((ROOT / "pipeline/recipes/paper" / f"{name}.yaml").read_text())
    return NetworkConfig(**recipe["network"] | changes)


def network_of(name: str, **changes: Any) -> TelegraphNetwork:
    """Build one of the paper's networks."""
    torch.manual_seed(0)
    return TelegraphNetwork(config_of(name, **changes), 3, PAPER[name].channels)


def sizes_at(name: str, scale: float) -> tuple[int, ...]:
    """Return the block's sizes at a scale, each the nearest multiple of what the layers coarsen by."""
    level = deepest = 0
    for layer in parse_layers(config_of(name).layers):
        level += {"": 0, "coarsen": 1, "refine": -1}[layer.resample]
        deepest = max(deepest, level)
    multiple = 2**deepest
    return tuple(max(1, round(size * scale / multiple)) * multiple for size in PAPER[name].sizes)


def state_bytes(name: str, scale: float) -> int:
    """Return the bytes of one state in float32."""
    cells = torch.Size(sizes_at(name, scale)).numel()
    return 4 * cells * PAPER[name].channels * config_of(name).repeat


def kernel_bytes(name: str) -> tuple[int, int]:
    """Return the bytes of the kernels, and of kernels of full rank."""
    with torch.device("meta"):
        kernels = network_of(name).kernels
    return sum(4 * kernel.numel() for kernel in kernels), sum(
        4 * kernel.numel() // kernel.shape[-2] * kernel.shape[-1] for kernel in kernels
    )


def optimiser_of(name: str, module: torch.nn.Module) -> torch.optim.Optimizer:
    """Return the paper's optimiser."""
    if name == "seismic":
        return torch.optim.Adam(module.parameters(), lr=1e-3)
    return torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9)


def measure(quantity: str, way: str, name: str, scale: float, device: torch.device) -> float:
    """Measure the peak bytes of a first pass without the weights' gradients, or the seconds of a step."""
    prepare(device)
    network = network_of(name, **WAYS[way]).to(device)
    module: torch.nn.Module = Conventional(network) if way == "conventional" else network
    read = network.config.read_channels
    optimiser = optimiser_of(name, module)

    def task(x_BcN: torch.Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        output = module(x_BcN)[:, read] if way == "conventional" else module(x_BcN, channels=read)
        output.square().mean().backward()

    task(torch.randn(1, PAPER[name].channels, *[2 * network.multiple] * 3, device=device))  # libraries set up
    optimiser.zero_grad(set_to_none=True)
    x_BcN = torch.randn(1, PAPER[name].channels, *sizes_at(name, scale), device=device)
    if quantity == "bytes":
        return peak_of(lambda: task(x_BcN), device) - sum(4 * weight.numel() for weight in module.parameters())

    def step() -> None:
        task(x_BcN)
        optimiser.step()

    if device.type == "cpu":  # half a minute a step, and processor time: one is enough
        return seconds_of(step, device)
    step()
    return statistics.median(seconds_of(step, device) for _ in range(3))


def measure_apart(quantity: str, way: str, name: str, scale: float, device: str) -> float:
    """Measure one figure, apart from all others."""
    arguments = ["--figure", quantity, way, name, str(scale), "--device", device]

    def here() -> float:
        return measure(quantity, way, name, scale, torch.device(device))

    found = figure("tests.benchmarks.paper", arguments, here, device, memory=quantity == "bytes")
    progress(f"{name} at {scale:g}: {way} {quantity} {found:.4g}")
    return found


def measure_network(name: str, scale: float, device: str, *, times: bool) -> dict[str, Any]:
    """Measure a network at a scale, in each way that fits."""
    ways: dict[str, dict[str, float]] = {}
    for way in WAYS:
        if way == "conventional" and scale > STORING_LIMIT and device != "cuda":
            continue
        try:
            taken = {"bytes": measure_apart("bytes", way, name, scale, device)}
            if times:
                taken["seconds"] = measure_apart("seconds", way, name, scale, device)
        except torch.OutOfMemoryError:
            progress(f"{name} at {scale:g}: {LABELS[way]} does not fit")
            continue
        ways[way] = taken
    low, full = kernel_bytes(name)
    return {
        "network": name,
        "scale": scale,
        "sizes": list(sizes_at(name, scale)),
        "layers": len(parse_layers(config_of(name).layers)),
        "state_bytes": state_bytes(name, scale),
        "kernel_bytes": low,
        "full_kernel_bytes": full,
        "ways": ways,
    }


def memory_table(found: list[dict[str, Any]]) -> str:
    """Lay formulas and measured peaks out, in gigabytes (10^9) and in states."""
    heads = ["network", "block", "one state", "formula: 3 states", "stored: a state a layer", "kernels (full rank)"]
    rows = [[*heads, *[f"measured: {LABELS[way]}" for way in WAYS]]]
    for entry in found:
        state = entry["state_bytes"]
        kernels = f"{entry['kernel_bytes'] / 1e9:.3f} GB ({entry['full_kernel_bytes'] / 1e9:.2f} GB)"
        row = [entry["network"], "x".join(map(str, entry["sizes"])), f"{state / 1e9:.3f} GB"]
        row += [f"{3 * state / 1e9:.3f} GB", f"{entry['layers'] * state / 1e9:.2f} GB", kernels]
        peaks = {way: entry["ways"][way]["bytes"] for way in WAYS if way in entry["ways"]}
        rows.append(
            row + [f"{peaks[way] / 1e9:.3f} GB, {peaks[way] / state:.1f}" if way in peaks else "" for way in WAYS]
        )
    return markdown(rows)


def time_table(found: list[dict[str, Any]]) -> str:
    """Lay the time of a step out, and how many times faster than plain autograd it is where that fits."""
    rows = [["network", "block", *[LABELS[way] for way in WAYS]]]
    for entry in found:
        seconds = {way: ways["seconds"] for way, ways in entry["ways"].items() if "seconds" in ways}
        plain = seconds.get("conventional")
        cells = [f"{seconds[way]:.3g} s" if way in seconds else "" for way in WAYS]
        if plain:
            cells = [f"{cell} ({plain / seconds[way]:.2f}x)" for way, cell in zip(WAYS, cells, strict=True)]
        if seconds:
            rows.append([entry["network"], "x".join(map(str, entry["sizes"])), *cells])
    return markdown(rows)


def main() -> None:
    """Run the benchmark, or one of its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run")
    parser.add_argument("--scale", type=float, nargs="+", help="of every edge; 0.25 and 0.5 on the CPU, 1 on CUDA")
    parser.add_argument("--networks", nargs="+", choices=list(PAPER), default=list(PAPER), help="which of the two")
    parser.add_argument("--quick", action="store_true", help="a scale of 1/16 and no times: does it run at all?")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file")
    parser.add_argument("--figure", nargs=4, metavar=("bytes|seconds", "WAY", "NETWORK", "SCALE"), help="one only")
    arguments = parser.parse_args()
    if arguments.figure:
        quantity, way, name, scale = arguments.figure
        print(measure(quantity, way, name, float(scale), torch.device(arguments.device)))
        return
    scales = arguments.scale or ([1.0] if arguments.device == "cuda" else [0.25, 0.5])
    found = []
    for scale in [1 / 16] if arguments.quick else scales:
        for name in arguments.networks:
            # On the CPU half the size takes minutes a step in one thread: its memory is measured, its time is not.
            times = not arguments.quick and (arguments.device == "cuda" or scale <= STORING_LIMIT)
            found.append(measure_network(name, scale, arguments.device, times=times))
            write_results(arguments.results, "paper", arguments.device, {"networks": found})
    print(memory_table(found), time_table(found), sep="\n\n")


if __name__ == "__main__":
    main()
