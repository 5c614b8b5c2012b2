"""What surrounds a step does not change it: autocast, compilation, a second run."""

import contextlib
import copy
import shutil
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from models.conditions import conditions
from models.network import TelegraphNetwork
from tests.models.strategies import build

LAYERS = "4 d8p 8g4 u4"
MODES = [("float", "float32"), ("exact", "float32"), ("exact", "bfloat16"), ("exact", "float16")]


def make(states: str = "float", force: str = "float32") -> tuple[TelegraphNetwork, Tensor]:
    network = build(
        2, LAYERS, channels=4, dtype=torch.float32, init_gain=1.0,
        states=states, force_dtype=force, coarsening="learned", boundary="reflect",
    )  # fmt: skip
    return network, torch.randn(2, 4, 8, 12)


def step(network: TelegraphNetwork, x_BcN: Tensor) -> list[Tensor]:
    x_BcN = x_BcN.clone().requires_grad_()
    out = network(x_BcN)
    return [out.detach(), *torch.autograd.grad(out.float().square().mean(), [x_BcN, *network.parameters()])]


@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("states", "force"), MODES)
def test_autocast_changes_no_bit(states: str, force: str, autocast: torch.dtype) -> None:
    network, x_BcN = make(states, force)
    plain = step(network, x_BcN)
    with torch.autocast("cpu", autocast):
        inside = step(network, x_BcN)
        with torch.no_grad():
            evaluated = network(x_BcN)
    assert inside[0].dtype == torch.float32
    assert all(torch.equal(one, two) for one, two in zip(plain, inside, strict=True))
    assert torch.equal(evaluated, plain[0])


@pytest.mark.parametrize(("states", "force"), MODES)
def test_two_runs_have_the_same_bits(states: str, force: str) -> None:
    runs = [step(*make(states, force)) for _ in range(2)]
    assert all(torch.equal(one, two) for one, two in zip(*runs, strict=True))


@pytest.mark.filterwarnings("ignore:User provided device_type")
@pytest.mark.parametrize("precision", ["tf32", "ieee"])
def test_cudnn_is_on_and_exact_meanwhile_and_as_it_was_afterwards(precision: str) -> None:
    """The flags can be seen where there is no GPU; torch.backends.cudnn.flags() would switch cuDNN off and TF32 on."""
    cudnn = torch.backends.cudnn

    def flags() -> tuple[bool, bool, bool, str]:
        return cudnn.enabled, cudnn.deterministic, cudnn.benchmark, cudnn.conv.fp32_precision

    _, *before = flags()
    cudnn.deterministic, cudnn.benchmark, cudnn.conv.fp32_precision = False, True, precision
    try:
        with contextlib.suppress(ZeroDivisionError), conditions(torch.device("cuda")):
            assert flags() == (True, True, False, "ieee")
            assert not torch.is_grad_enabled()
            raise ZeroDivisionError
        assert flags() == (True, False, True, precision)
        with conditions(torch.device("cpu")):
            assert flags() == (True, False, True, precision), "threads may share them"
    finally:
        cudnn.deterministic, cudnn.benchmark, cudnn.conv.fp32_precision = before


@pytest.mark.parametrize("switch", ["none", "precision", "allow_tf32", "fp32_precision"])
def test_products_are_exact_meanwhile_and_as_they_were_afterwards(switch: str) -> None:
    """In a process of its own, as the older switches cannot be read any more once the newest was used."""
    program = f"""
import torch
from models.conditions import conditions
cublas, switch = torch.backends.cuda.matmul, {switch!r}
if switch == "precision":
    torch.set_float32_matmul_precision("medium")
elif switch != "none":
    setattr(cublas, switch, True if switch == "allow_tf32" else "tf32")
def read(how):
    try:
        return how()
    except RuntimeError:
        return "cannot be read"
def state():
    ways = (torch.get_float32_matmul_precision, lambda: cublas.allow_tf32, lambda: cublas.fp32_precision)
    return [{{"none": "ieee"}}.get(found, found) for found in map(read, ways)]
before = state()
assert (before[2] == "tf32") == (switch != "none"), before
with conditions(torch.device("cuda")):
    assert state() == ["highest", False, "ieee"], state()
assert state() == before, (before, state())
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_run_under_deterministic_algorithms_is_not_refused() -> None:
    network, x_BcN = make("exact")
    plain = step(network, x_BcN)
    torch.use_deterministic_algorithms(True)
    try:
        strict = step(network, x_BcN)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(one, two) for one, two in zip(plain, strict, strict=True))


def trained(network: TelegraphNetwork, x_BcN: Tensor, backend: str | None) -> tuple[list[Tensor], Tensor]:
    """Weights and loss after two steps, whose loss and gradients are compiled where a backend is named."""
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)

    def loss_of(x: Tensor) -> Tensor:
        loss = (network(2 * x) - x).square().mean()
        loss.backward()
        return loss.detach()

    run = loss_of if backend is None else torch.compile(loss_of, backend=backend)
    for _ in range(2):
        optimiser.zero_grad()
        loss = run(x_BcN)
        optimiser.step()
    return [parameter.detach().clone() for parameter in network.parameters()], loss


@pytest.mark.parametrize(
    ("states", "force", "backend"),
    [
        ("exact", "bfloat16", "eager"),
        pytest.param("float", "float32", "aot_eager", marks=pytest.mark.slow),
        pytest.param("float", "float32", "inductor", marks=pytest.mark.slow),  # needs a C++ compiler
        pytest.param("exact", "bfloat16", "inductor", marks=pytest.mark.slow),
    ],
)
def test_a_compiled_training_step_does_the_same(states: str, force: str, backend: str) -> None:
    if backend == "inductor" and not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("torch.compile writes C++, and no compiler is at hand")
    network, x_BcN = make(states, force)
    twin = copy.deepcopy(network)
    expected, loss = trained(network, x_BcN, None)
    torch.compiler.reset()
    found, compiled_loss = trained(twin, x_BcN, backend)
    torch.testing.assert_close(compiled_loss, loss, rtol=1e-5, atol=1e-7)
    assert twin.inversion_error is not None
    assert not any(torch.equal(weight, start) for weight, start in zip(found, make()[0].parameters(), strict=True))
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
