"""Error of the inversion and of the gradients against depth: ours in every mode, and the reversible libraries.

    python -m tests.benchmarks.inversion [--device cpu|cuda] [--quick] [--picture docs/inversion.png]

The error of the inversion is that of the input recovered from the output, by each network's own inverse; the error of
the gradients is that of all weights' gradients together against plain autograd in float64 of the same network with the
same weights, its activations stored. Both are relative, in the 2-norm. The rows "stored activations" invert nothing:
their gradients are as good as the precision of the force allows. Ours starts as users start it; "lively" is ours with
kernels as large at every depth as they are drawn for 10 layers, whose states move far more.
"""

import argparse
import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.arithmetic import FloatStates
from models.config import NetworkConfig
from models.network import TelegraphNetwork
from models.unrolled import unrolled
from tests.benchmarks import peers
from tests.benchmarks.cases import Case, even_hourglass
from tests.benchmarks.measuring import RESULTS, device_name, markdown, progress, write_results
from tests.benchmarks.ways import READ

DEPTHS = (10, 30, 100, 300, 1000)
CHANNELS, RANK, LEVELS, EDGE = 8, 8, 2, 24

MODES: dict[str, dict[str, Any]] = {
    "float32": {},
    "float32 states, bf16 force": {"force_dtype": "bfloat16", "states": "float"},
    "exact, float32 force": {"states": "exact"},
    "exact, bf16 force": {"force_dtype": "bfloat16"},
    "exact, float16 force": {"force_dtype": "float16"},
    "exact, 16-bit states, bf16 force": {"force_dtype": "bfloat16", "state_bits": 16},
}
STORED: dict[str, dict[str, Any]] = {
    "stored activations, float32": {},
    "stored activations, bf16 force": {"force_dtype": "bfloat16", "states": "float"},
}


def case_of(depth: int, edge: int) -> Case:
    """Make the network: two dimensions, two levels of coarsening."""
    return Case("inversion", 2, CHANNELS, even_hourglass(2 * (depth // 2), RANK, LEVELS), edge)


def relative(found: Iterable[Tensor], true: Iterable[Tensor]) -> float:
    """Return |found - true| / |true| over several tensors; infinite where something is not finite."""
    wrong = right = 0.0
    for ours, reference in zip(found, true, strict=True):
        wrong += float((ours.double() - reference.double()).square().sum())
        right += float(reference.double().square().sum())
    ratio = math.sqrt(wrong / right) if right and math.isfinite(wrong) else math.inf
    return ratio if math.isfinite(ratio) else math.inf


def gradients(module: nn.Module, output: Tensor) -> list[Tensor]:
    """Return the gradients of a loss on the channels that are read with respect to all weights."""
    module.zero_grad(set_to_none=True)
    output[:, :READ].square().mean().backward()
    return [weight.grad for weight in module.parameters() if weight.grad is not None]


def double_gradients(network: TelegraphNetwork, x_BcN: Tensor) -> list[Tensor]:
    """Return the gradients of plain autograd in float64, on states that no grid rounds."""
    exact = copy.deepcopy(network).double()
    plan = replace(exact.plan, arithmetic=FloatStates())
    return gradients(exact, unrolled(plan, x_BcN.double(), exact.parameters_in_order()))


def ours(case: Case, gain: float, device: torch.device) -> dict[str, tuple[float, float]]:
    """Return the errors of inversion and gradients of each of our modes; the former is not a number where stored."""
    x_BcN, found, true = case.volume(device), {}, None
    for mode, changes in {**MODES, **STORED}.items():
        torch.manual_seed(0)
        config = NetworkConfig(layers=case.layers, init_gain=gain, **changes)
        network = TelegraphNetwork(config, case.space, case.channels).to(device)
        if true is None:
            true = double_gradients(network, x_BcN)
        if mode in STORED:
            output = unrolled(network.plan, x_BcN, network.parameters_in_order())
            found[mode] = (math.nan, relative(gradients(network, output), true))
        else:
            found[mode] = _of_mode(network, x_BcN, true)
    return found


def _of_mode(network: TelegraphNetwork, x_BcN: Tensor, true: list[Tensor]) -> tuple[float, float]:
    try:
        mine = gradients(network, network(x_BcN))
    except ArithmeticError as refusal:  # states beyond their grid: said, not silent
        progress(f"refused: {refusal}")
        return math.inf, math.inf
    error = network.inversion_error
    assert error is not None
    inversion = float(error)
    return inversion if math.isfinite(inversion) else math.inf, relative(mine, true)


def of_peers(case: Case, device: torch.device) -> dict[str, tuple[float, float]]:
    """Return the errors of inversion and gradients of each peer, with F in float32 and in bfloat16."""
    x_BcN, found = case.volume(device), {}
    both_BcN = torch.cat([x_BcN, x_BcN], dim=1)
    for name in peers.installed():
        reference = peers.build(name, case, stored=True).double().to(device)
        true = gradients(reference, reference(x_BcN.double()))
        for label, force_dtype in (("float32", None), ("bf16 force", torch.bfloat16)):
            network = peers.build(name, case, force_dtype=force_dtype).to(device)
            with torch.no_grad():
                recovered = network.inverse(network(x_BcN))
            mine = gradients(network, network(x_BcN))
            found[f"{peers.PEERS[name]}, {label}"] = relative([recovered], [both_BcN]), relative(mine, true)
    return found


def table(curves: dict[str, dict[int, tuple[float, float]]], which: int, heading: str) -> str:
    """Lay one of the two errors out, a row for each network."""
    depths = list(next(iter(curves.values())))
    rows = [[heading, *map(str, depths)]]
    for name, points in curves.items():
        values = [points[depth][which] for depth in depths]
        if not all(map(math.isnan, values)):
            rows.append([name, *[_written(name, value) for value in values]])
    return markdown(rows)


def _written(name: str, value: float) -> str:
    if math.isinf(value):  # states have left what holds them: a grid refuses them, floating point does not
        return "refused" if name.startswith("exact") else "lost"
    return "0" if value == 0 else f"{value:.1e}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON knows no others


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run")
    parser.add_argument("--quick", action="store_true", help="shallow and small: does it run at all?")
    parser.add_argument("--picture", type=Path, default=Path("docs/inversion.png"), help="where the picture goes")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    if peers.missing():
        progress(peers.missing())
    starts: dict[str, Callable[[int], float]] = {"": lambda _: 1.0, ", lively": lambda depth: math.sqrt(depth / 10)}
    if arguments.quick:
        del starts[", lively"]
    curves: dict[str, dict[int, tuple[float, float]]] = {}
    for depth in (10, 14) if arguments.quick else DEPTHS:
        case = case_of(depth, 8 if arguments.quick else EDGE)
        found: dict[str, tuple[float, float]] = {}
        for start, gain in starts.items():
            found |= {mode + start: errors for mode, errors in ours(case, gain(depth), device).items()}
        found |= of_peers(case, device)
        for name, errors in found.items():
            curves.setdefault(name, {})[depth] = errors
        progress(f"depth {depth} done")
        content = {
            name: {depth: list(map(_finite, errors)) for depth, errors in row.items()} for name, row in curves.items()
        }
        network = f"{CHANNELS} channels, rank {RANK}, {LEVELS} levels, {case.edge} x {case.edge} cells"
        write_results(arguments.results, "inversion", arguments.device, {"network": network, "curves": content})
    from tests.benchmarks.inversion_picture import draw

    draw(curves, f"{network}, {device_name(arguments.device)}", arguments.picture)
    print(table(curves, 0, "inversion error at depth"), table(curves, 1, "gradient error at depth"), sep="\n\n")


if __name__ == "__main__":
    main()
