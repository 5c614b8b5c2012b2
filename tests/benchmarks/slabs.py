"""One volume on several ranks, a slab each: what each holds, what they send, and the time of a step and of a map.

    python -m tests.benchmarks.slabs                                  # processes of this machine, joined by gloo
    python -m tests.benchmarks.slabs --device cuda --slabs 1 2 4 8    # a GPU each, joined by NCCL

Every rank is a process of its own, on one thread on the CPU, where other processes are timed than those whose memory is
measured. Peaks are those of one forward and backward pass above what is held before. Sent is what the rank in the
middle sends in such a pass; beside it stands what halos would take: a row of states a face for each K, and a row of the
hidden layer for each transpose. The loss, and the gradients that ranks add up, must be those of one rank. A map is a
forward pass without gradients.
"""

import argparse
import os
import socket
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from models.config import NetworkConfig
from models.network import TelegraphNetwork
from pipeline.ranks.slabs import RankSlab, take_place
from tests.benchmarks.measuring import (
    MEMORY,
    RESULTS,
    markdown,
    peak_of,
    prepare,
    progress,
    seconds_of,
    write_results,
)

LAYERS, CHANNELS, EDGE = "8*3 d16*3 d32*6 u16*3 u8*3", 12, 64
QUICK = ("4*2 d4*2 u4", 4, 16)
MODES: dict[str, dict[str, Any]] = {"float32": {}, "exact": {"states": "exact"}}
TOLERANCE = 1e-3


class Counting(RankSlab):
    """A slab that counts the bytes that it sends to its neighbours."""

    sent = 0

    def trade(self, before: Tensor | None, after: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Send and count."""
        self.sent += sum(rows.numel() * rows.element_size() for rows in (before, after) if rows is not None)
        return super().trade(before, after)


def network_of(mode: str, *, quick: bool) -> tuple[TelegraphNetwork, int]:
    """Build the network with the same weights every time, and the edge of its volume."""
    layers, channels, edge = QUICK if quick else (LAYERS, CHANNELS, EDGE)
    torch.manual_seed(0)
    return TelegraphNetwork(NetworkConfig(layers=layers, **MODES[mode]), 3, channels), edge


def halo_bytes(network: TelegraphNetwork, edge: int, faces: int) -> int:
    """Return what a rank with so many faces would send as halos: forward, and for states and adjoint back."""
    total, channels, cells = 0, network.channels, edge
    for layer, kernel in zip(network.plan.layers, network.kernels, strict=True):
        if layer.resample:
            channels, cells = (channels * 8, cells // 2) if layer.resample == "coarsen" else (channels // 8, cells * 2)
        hidden = kernel.shape[-2]
        total += 3 * 4 * faces * cells**2 * (channels + hidden)
    return total


def rank(number: int, count: int, port: int, mode: str, device_kind: str, quick: bool, folder: str) -> None:
    """Measure one rank; leaves its figures in the folder."""
    device = torch.device(device_kind, number) if device_kind == "cuda" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    prepare(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, f"tcp://127.0.0.1:{port}", rank=number, world_size=count)
    place, (network, edge) = take_place(number, count, count), network_of(mode, quick=quick)
    network = network.to(device)
    slab = None if place.slab is None else Counting(number, count, dist.group.WORLD)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    whole = torch.randn(1, network.channels, edge, edge, edge, generator=generator)
    x_BcN = whole[:, :, network.slabs(edge, count)[number]].to(device, copy=True)
    losses: list[float] = []

    def task() -> None:
        network.zero_grad(set_to_none=True)
        loss = network(x_BcN, slice(2), slab).square().sum() / whole[:, :2].numel()
        loss.backward()
        losses.append(float(loss.detach()))

    @torch.no_grad()
    def mapping() -> None:
        network(x_BcN, slice(2), slab)

    task()
    if slab is not None:
        slab.sent = 0
    network.zero_grad(set_to_none=True)
    peak = peak_of(task, device)
    sent = 0 if slab is None else slab.sent
    gradient = torch.cat([parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None])
    total = torch.tensor(losses[-1:], device=device)
    dist.all_reduce(gradient)
    dist.all_reduce(total)
    network.zero_grad(set_to_none=True)
    map_peak, rounds = peak_of(mapping, device), range(3 if device.type == "cuda" else 1)
    found = {
        "peak": peak,
        "sent": sent,
        "seconds": min(_wall(task, device) for _ in rounds),
        "map_peak": map_peak,
        "map_seconds": min(_wall(mapping, device) for _ in rounds),
        "loss": float(total),
        "gradient": gradient.cpu(),
    }
    torch.save(found, Path(folder) / f"{number}.pt")
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # as in tests/models/test_parallel.py


def _wall(task: Any, device: torch.device) -> float:
    dist.barrier()
    return seconds_of(task, device, wall=True)


def measure(count: int, mode: str, device: str, *, quick: bool) -> list[dict[str, Any]]:
    """Measure all ranks of a volume in `count` slabs."""
    timed = _measure(count, mode, device, quick=quick)
    if device == "cuda":
        return timed
    with patch.dict(os.environ, MEMORY):
        found = _measure(count, mode, device, quick=quick)
    seconds = ("seconds", "map_seconds")
    return [one | {name: other[name] for name in seconds} for one, other in zip(found, timed, strict=True)]


def _measure(count: int, mode: str, device: str, *, quick: bool) -> list[dict[str, Any]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(rank, (count, port, mode, device, quick, folder), nprocs=count)
        return [torch.load(Path(folder) / f"{number}.pt", weights_only=True) for number in range(count)]


def same(found: dict[str, Any], one: dict[str, Any]) -> float:
    """Return how far the gradient is from that of one rank, relatively; refuse to time what computes something else.

    Raises
    ------
    ValueError
        With the error.
    """
    error = float((found["gradient"] - one["gradient"]).norm() / one["gradient"].norm())
    if error > TOLERANCE or abs(found["loss"] - one["loss"]) > TOLERANCE * one["loss"]:
        raise ValueError(f"slabs have a loss of {found['loss']} and gradients off by {error}; one rank {one['loss']}")
    return error


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run")
    parser.add_argument("--slabs", type=int, nargs="+", help="how many; one is the first; on CUDA as many as GPUs")
    parser.add_argument("--quick", action="store_true", help="a tiny network: does it run at all?")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file")
    arguments = parser.parse_args()
    entries: list[dict[str, Any]] = []
    most = [1, 2, 4] if arguments.device == "cpu" else list(range(1, torch.cuda.device_count() + 1))
    heads = ["states", "slabs", "peak of a rank, MB", "of one rank's", "sent, MB", "as halos", "s", "error"]
    heads += ["peak of a map, MB", "s a map"]
    rows = [heads]
    for mode in MODES:
        one: dict[str, Any] = {}
        for count in [1, *sorted(set(arguments.slabs or most) - {1})]:
            ranks = measure(count, mode, arguments.device, quick=arguments.quick)
            one = one or ranks[0]
            network, edge = network_of(mode, quick=arguments.quick)
            middle = ranks[count // 2]
            entry = {
                "mode": mode,
                "slabs": count,
                "peaks": [found["peak"] for found in ranks],
                "sent": middle["sent"],
                "halo": halo_bytes(network, edge, min(count - 1, 2)),
                "seconds": max(found["seconds"] for found in ranks),
                "map_peaks": [found["map_peak"] for found in ranks],
                "map_seconds": max(found["map_seconds"] for found in ranks),
                "gradient_error": same(ranks[0], one),
            }
            entries.append(entry)
            peak = max(entry["peaks"])
            rows.append([mode, str(count), f"{peak / 1e6:.0f}", f"{peak / max(one['peak'], 1):.2f}"])
            rows[-1] += [f"{entry['sent'] / 1e6:.1f}", f"{entry['halo'] / 1e6:.1f}", f"{entry['seconds']:.2f}"]
            rows[-1] += [f"{entry['gradient_error']:.1e}", f"{max(entry['map_peaks']) / 1e6:.0f}"]
            rows[-1].append(f"{entry['map_seconds']:.2f}")
            progress(f"{mode}, {count} slabs: {peak / 1e6:.0f} MB a rank, {entry['seconds']:.2f} s")
            content = {"layers": LAYERS, "channels": CHANNELS, "edge": EDGE, "cases": entries}
            write_results(arguments.results, "slabs", arguments.device, content)
    print(markdown(rows))


if __name__ == "__main__":
    main()
