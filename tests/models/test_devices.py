"""What must hold on every device that there is: exact states, true gradients, memory that is flat in depth.

On a GPU, without Ray and what the other tests need: python -m pytest --noconftest -n0 tests/models/test_devices.py
"""

from pathlib import Path

import pytest
import torch

from models.network import TelegraphNetwork
from models.stream import Stream
from tests.models.strategies import build

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
LAYERS = {12: "8*2 d16*2 u8*2", 64: "8*2 d8*2 u8*2", 512: "4*3"}
SIZES = {1: (96,), 2: (40, 24), 3: (16, 8, 24)}
PLACES = [("cpu", 12), *(pytest.param("cuda", channels, marks=NEEDS_GPU) for channels in LAYERS)]


def network_on(device: str, space: int, channels: int, **settings: object) -> TelegraphNetwork:
    network = build(space, LAYERS[channels], channels=channels, dtype=torch.float32, init_gain=2.0, **settings)
    return network.to(device)


def volume(space: int, channels: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, channels, *SIZES[space], generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(("device", "channels"), PLACES)
@pytest.mark.parametrize("force", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("space", SIZES)
def test_exact_states_come_back_bit_for_bit(space: int, channels: int, force: str, device: str) -> None:
    network = network_on(device, space, channels, states="exact", force_dtype=force)
    network(volume(space, channels).to(device)).square().mean().backward()
    assert network.inversion_error == 0


@pytest.mark.parametrize(("device", "channels"), PLACES)
@pytest.mark.parametrize(("states", "force", "tolerance"), [
    ("float", "float32", 1e-5), ("exact", "float32", 1e-4), ("exact", "bfloat16", 5e-2), ("exact", "float16", 2e-2),
])  # fmt: skip
@pytest.mark.parametrize("space", SIZES)
def test_gradients_are_those_of_double_precision(
    space: int, channels: int, states: str, force: str, tolerance: float, device: str
) -> None:
    """With float32 in TF32, as PyTorch sets it for convolutions, they would be off by some 5e-3."""
    x_BcN, settings = volume(space, channels), {"activation": "tanh"}
    network = network_on(device, space, channels, states=states, force_dtype=force, **settings)
    true = network_on("cpu", space, channels, **settings).double()
    network(x_BcN.to(device)).square().mean().backward()
    true(x_BcN.double()).square().mean().backward()
    for mine, theirs in zip(network.parameters(), true.parameters(), strict=True):
        difference = (mine.grad.cpu().double() - theirs.grad).norm()
        assert difference <= tolerance * theirs.grad.norm()


@pytest.mark.parametrize(("device", "channels"), PLACES)
@pytest.mark.parametrize("scratch", [False, True])
@pytest.mark.parametrize("force", ["float32", "bfloat16"])
@pytest.mark.parametrize("space", SIZES)
def test_slabs_in_turns_are_exact_and_have_the_gradients_of_the_whole(
    space: int, force: str, scratch: bool, channels: int, device: str, tmp_path: Path
) -> None:
    """Input and output lie on the host meanwhile."""
    found = []
    for by in (None, Stream(4, tmp_path if scratch else None)):
        network = network_on(device, space, channels, states="exact", force_dtype=force, activation="tanh")
        network.stream = by
        output = network(volume(space, channels).to("cpu" if by else device))
        output.square().mean().backward()
        assert output.device.type == ("cpu" if by else device)
        assert network.inversion_error == 0
        found.append([parameter.grad for parameter in network.parameters()])
    for mine, whole in zip(*found, strict=True):
        assert (mine - whole).norm() <= {"float32": 1e-4, "bfloat16": 5e-2}[force] * whole.norm()


@NEEDS_GPU
def test_a_gpu_holds_two_slabs_of_a_volume_whose_slabs_take_turns() -> None:
    network = build(3, "8*8", channels=64, dtype=torch.float32, init_gain=1.0).to("cuda")
    x_BcN, peaks = torch.randn(1, 64, 96, 96, 96), []
    for network.stream in (None, Stream(12), Stream(12)):  # the first of two sets libraries up
        x_here = x_BcN.to("cuda") if network.stream is None else x_BcN
        network.zero_grad(set_to_none=True)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        network(x_here, channels=slice(4)).square().mean().backward()
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[2] <= 0.3 * peaks[0]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
@pytest.mark.parametrize("states", ["float", "exact"])
def test_two_runs_have_the_same_bits(states: str, device: str) -> None:
    found = []
    for _ in range(2):
        network = network_on(device, 3, 12, states=states)
        network(volume(3, 12).to(device)).square().mean().backward()
        found.append([parameter.grad for parameter in network.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


@NEEDS_GPU
@pytest.mark.parametrize("force", ["float32", "bfloat16"])
def test_the_allocators_peak_is_at_most_six_states_and_flat_in_depth(force: str) -> None:
    peaks = []
    for depth in (8, 64):
        network = build(3, f"8*{depth}", channels=64, dtype=torch.float32, init_gain=1.0, force_dtype=force).to("cuda")
        for edge in (16, 112):  # the first sets libraries up
            x_BcN = torch.randn(1, 64, edge, edge, edge, device="cuda")
            network.zero_grad(set_to_none=True)
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            network(x_BcN, channels=slice(4)).square().mean().backward()
            peak = torch.cuda.max_memory_allocated() - before
        peaks.append(peak / (4 * x_BcN.numel()))
    assert max(peaks) <= 6
    assert peaks[1] <= 1.02 * peaks[0]
