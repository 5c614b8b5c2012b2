"""The hand-written backward pass equals autograd's, and the check that says so notices when it does not."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models import chain
from models.config import NetworkConfig
from models.network import TelegraphNetwork
from tests.models.reference import telegraph

SIZES = {1: (12,), 2: (8, 12), 3: (4, 8, 4)}


def build(space: int, layers: str, *, channels: int = 2, seed: int = 0, **settings: object) -> TelegraphNetwork:
    """A double-precision network with strong forces and biases, so that every term of the gradient matters."""
    torch.manual_seed(seed)
    config = NetworkConfig(layers=layers, step=0.6, init_gain=4.0, **settings)  # type: ignore[arg-type]
    network = TelegraphNetwork(config, space, channels).double()
    with torch.no_grad():
        for bias in network.biases:
            bias.normal_(std=0.3)
    return network


def close(ours: Tensor, reference: Tensor, tolerance: float) -> None:
    scale = reference.abs().max()
    assert scale > 0
    assert (ours - reference).abs().max() <= tolerance * scale


def check_gradients(
    network: TelegraphNetwork, x_BcN: Tensor, *, both_outputs: bool = False, tolerance: float = 1e-10
) -> None:
    """Compare outputs and all gradients with plain autograd through the formula."""
    x_BcN = x_BcN.detach().requires_grad_()
    parameters = network.parameters_in_order()
    previous, newest = chain.ReversibleChain.apply(network.plan, x_BcN, *parameters)
    reference_previous, reference_newest = telegraph(network.config, x_BcN, network.kernels, network.biases)
    close(previous, reference_previous, tolerance)
    close(newest, reference_newest, tolerance)
    generator = torch.Generator().manual_seed(1)
    probe = torch.randn(2, *newest.shape, dtype=newest.dtype, generator=generator)

    def loss(older: Tensor, newer: Tensor) -> Tensor:
        value = (probe[0] * newer).sum() + newer.square().sum()
        return value + (probe[1] * older).sum() if both_outputs else value

    ours = torch.autograd.grad(loss(previous, newest), [x_BcN, *parameters])
    theirs = torch.autograd.grad(loss(reference_previous, reference_newest), [x_BcN, *parameters])
    for mine, reference in zip(ours, theirs, strict=True):
        close(mine, reference, tolerance)


@pytest.mark.parametrize("activation", ["relu", "softplus", "tanh"])
@pytest.mark.parametrize(
    ("space", "layers"),
    [(1, "3 d4*2 d5 u3 u2"), (2, "3*2 d4 u3"), (2, "3 d20 d3"), (3, "3 d4 u3"), (3, "2 u3 d2")],
)
def test_gradients_equal_plain_autograd(space: int, layers: str, activation: str) -> None:
    network = build(space, layers, repeat=4, activation=activation)
    x_BcN = torch.randn(2, 2, *SIZES[space], dtype=torch.float64)
    check_gradients(network, x_BcN)
    check_gradients(network, x_BcN, both_outputs=True)


@pytest.mark.parametrize(("space", "layers"), [(2, "3*2 d4*2 d3 u4 u3"), (3, "3 d4*2 u3")])
def test_single_precision_gradients_are_as_good_as_single_precision(space: int, layers: str) -> None:
    network = build(space, layers, channels=24, activation="softplus").float()
    check_gradients(network, torch.randn(2, 24, *SIZES[space]), tolerance=2e-5)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_gradients_of_random_architectures(data: st.DataObject) -> None:
    space = data.draw(st.integers(1, 3), label="space")
    depth = data.draw(st.integers(1, 6), label="depth")
    level, tokens = 0, []
    for _ in range(depth):
        moves = ["", "d"] if level < (2 if space < 3 else 1) else [""]
        mark = data.draw(st.sampled_from(moves + (["u"] if level else [])))
        level += {"d": 1, "u": -1, "": 0}[mark]
        tokens.append(f"{mark}{data.draw(st.integers(1, 40 if space < 3 else 6))}")
    cells = st.integers(1, 3 if space < 3 else 2)
    sizes = [4 * data.draw(cells) for _ in range(space)]
    network = build(
        space,
        " ".join(tokens),
        channels=data.draw(st.integers(1, 9), label="channels"),
        repeat=data.draw(st.integers(1, 3), label="repeat"),
        kernel=data.draw(st.sampled_from([1, 3, 5]), label="kernel"),
        activation=data.draw(st.sampled_from(["relu", "softplus", "tanh"]), label="activation"),
    )
    x_BcN = torch.randn(data.draw(st.integers(1, 2)), network.channels, *sizes, dtype=torch.float64)
    check_gradients(network, x_BcN)
    assert network.inversion_error is not None
    assert network.inversion_error < 1e-9


@pytest.mark.parametrize(("space", "layers"), [(1, "2 d2 u2"), (2, "2 d3"), (3, "2")])
def test_gradcheck(space: int, layers: str) -> None:
    network = build(space, layers, channels=1, repeat=2, activation="tanh")
    x_BcN = torch.randn(1, 1, *[4, 2, 2][:space], dtype=torch.float64, requires_grad=True)
    parameters = network.parameters_in_order()
    assert torch.autograd.gradcheck(
        lambda x, *weights: chain.ReversibleChain.apply(network.plan, x, *weights), (x_BcN, *parameters)
    )


def taylor_slopes(value: Callable[[float], Tensor], slope: Tensor) -> list[float]:
    """Orders of the first-order remainder between successive halvings of the step."""
    steps = [2.0**-power for power in range(7, 12)]
    start = value(0.0)
    remainders = torch.stack([(value(step) - start - step * slope).abs() for step in steps])
    return (remainders[:-1] / remainders[1:]).log2().tolist()


@pytest.mark.parametrize("target", ["input", "weights"])
def test_taylor_remainder_falls_quadratically(target: str) -> None:
    network = build(2, "3 d6 u4", repeat=2, activation="softplus")
    x_BcN = torch.randn(1, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    parameters = network.parameters_in_order()
    chosen = [x_BcN] if target == "input" else parameters
    directions = [torch.randn_like(tensor) * (1.0 if target == "input" else 0.1) for tensor in chosen]

    def value(step: float) -> Tensor:
        moved = [tensor + step * direction for tensor, direction in zip(chosen, directions, strict=True)]
        arguments = [*moved, *parameters] if target == "input" else [x_BcN, *moved]
        return chain.ReversibleChain.apply(network.plan, *arguments)[1].sin().sum()

    gradients = torch.autograd.grad(value(0.0), chosen)
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    with torch.no_grad():
        orders = taylor_slopes(value, torch.as_tensor(slope))
    assert orders == pytest.approx([2.0] * len(orders), abs=0.05)


def test_a_kept_graph_gives_the_same_gradients_twice() -> None:
    network = build(2, "3 d4 u3")
    x_BcN = torch.randn(1, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    loss = network(x_BcN).square().sum()
    first = torch.autograd.grad(loss, [x_BcN, *network.parameters()], retain_graph=True)
    second = torch.autograd.grad(loss, [x_BcN, *network.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


def test_second_derivatives_are_refused_not_wrong() -> None:
    network = build(2, "3")
    x_BcN = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(x_BcN).square().sum(), x_BcN, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def scaled_input(factor: float) -> Callable[..., object]:
    true = chain._finish_back
    return lambda *arguments: true(*arguments) * factor


def scaled_weights(factor: float, *, part: int) -> Callable[..., object]:
    true = chain._step_back

    def step(*arguments: object) -> tuple[Tensor, ...]:
        gradients = true(*arguments)  # type: ignore[arg-type]
        return tuple(g * factor if at == part else g for at, g in enumerate(gradients))

    return step


def seeded_in_the_wrong_slot() -> Callable[..., object]:
    true = chain._start_back
    return lambda previous, newest, g_previous, g_newest: true(previous, newest, g_newest, g_previous)


def seeded_without_the_increment() -> Callable[..., object]:
    true = chain._start_back

    def start(previous: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        state, increment = true(previous, *others)
        increment[previous.shape[0] :].zero_()
        return state, increment

    return start


def one_layer_skipped(name: str) -> Callable[..., object]:
    """Leave out the second layer that runs."""
    true, calls = getattr(chain, name), [0]

    def step(plan: object, layer: object, state: Tensor, increment: Tensor, kernel: Tensor, bias: Tensor) -> object:
        calls[0] += 1
        if calls[0] == 2:
            state.add_(increment)
            return torch.zeros_like(kernel), torch.zeros_like(bias)
        return true(plan, layer, state, increment, kernel, bias)

    return step


def bands_disordered() -> Callable[..., object]:
    true = chain.resample_in_place

    def resample(state: Tensor, how: str, spare: Tensor) -> tuple[Tensor, Tensor]:
        return true(state.flip(-1) if how == "refine" else state, how, spare)

    return resample


MUTANTS: dict[str, tuple[str, Callable[[], Callable[..., object]]]] = {
    "input gradient zeroed": ("_finish_back", lambda: scaled_input(0.0)),
    "input gradient halved": ("_finish_back", lambda: scaled_input(0.5)),
    "input gradient flipped": ("_finish_back", lambda: scaled_input(-1.0)),
    "kernel gradient zeroed": ("_step_back", lambda: scaled_weights(0.0, part=0)),
    "kernel gradient halved": ("_step_back", lambda: scaled_weights(0.5, part=0)),
    "kernel gradient flipped": ("_step_back", lambda: scaled_weights(-1.0, part=0)),
    "bias gradient zeroed": ("_step_back", lambda: scaled_weights(0.0, part=1)),
    "bias gradient halved": ("_step_back", lambda: scaled_weights(0.5, part=1)),
    "bias gradient flipped": ("_step_back", lambda: scaled_weights(-1.0, part=1)),
    "adjoint in the wrong slot": ("_start_back", seeded_in_the_wrong_slot),
    "adjoint without its increment": ("_start_back", seeded_without_the_increment),
    "layer skipped backward": ("_step_back", lambda: one_layer_skipped("_step_back")),
    "layer skipped forward": ("_step_forward", lambda: one_layer_skipped("_step_forward")),
    "bands disordered": ("resample_in_place", bands_disordered),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_check_notices_a_wrong_backward_pass(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = build(2, "3 d4 4 u3", repeat=2)
    x_BcN = torch.randn(1, 2, 4, 8, dtype=torch.float64)
    check_gradients(network, x_BcN)
    name, make = MUTANTS[mutant]
    monkeypatch.setattr(chain, name, make())
    with pytest.raises(AssertionError):
        check_gradients(network, x_BcN)
