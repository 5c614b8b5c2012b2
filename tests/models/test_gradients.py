"""The hand-written backward pass equals autograd's, and the check that says so notices when it does not."""

from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from models import boundary, chain, leapfrog, pieces
from models.chain import Channels, run
from models.network import TelegraphNetwork
from models.shelf import Shelf
from models.symmetric import Pair
from tests.models.reference import telegraph
from tests.models.strategies import build, inputs, networks

SIZES = {1: (12,), 2: (8, 12), 3: (4, 8, 4)}


def reference(network: TelegraphNetwork, x_BcN: Tensor) -> Tensor:
    angles = network.parameters_in_order()[2::3]
    return telegraph(network.config, x_BcN, list(network.kernels), list(network.biases), angles)[1]


def close(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    scale = theirs.abs().max()
    assert scale > 0
    assert (ours - theirs).abs().max() <= tolerance * scale


def check_gradients(
    network: TelegraphNetwork,
    x_BcN: Tensor,
    channels: Channels | None = None,
    *,
    tolerance: float = 1e-10,
    dead: bool = False,
) -> None:
    """Compare output and all gradients with plain autograd; drawn networks with `dead` layers do not count."""
    x_BcN = x_BcN.detach().requires_grad_()
    parameters = network.parameters_in_order()
    ours = run(network.plan, x_BcN, parameters, channels)
    theirs = reference(network, x_BcN)
    if channels is not None:
        theirs = theirs[:, channels]
    close(ours, theirs, tolerance)
    probe = torch.randn(ours.shape, dtype=ours.dtype, generator=torch.Generator().manual_seed(1))
    wanted = [x_BcN, *network.parameters()]
    found = torch.autograd.grad((probe * ours).sum() + ours.square().sum(), wanted)
    expected = torch.autograd.grad((probe * theirs).sum() + theirs.square().sum(), wanted, materialize_grads=True)
    angles = {id(angle) for angle in network.angles.values()}
    for tensor, mine, true in zip(wanted, found, expected, strict=True):
        # Exact states are turned in rounded shears, and the gradient of an angle is read from their outcome.
        rounded = network.config.exact and id(tensor) in angles
        assume(not dead or true.any())
        close(mine, true, max(tolerance, 1e-5) if rounded else tolerance)


@pytest.mark.parametrize("activation", ["relu", "softplus", "tanh"])
@pytest.mark.parametrize(
    ("space", "layers"),
    [(1, "3 d4*2 d5 u3 u2"), (2, "3*2 d4g2 u3p"), (2, "3 d20 d3"), (3, "3 d4 u4g4"), (3, "2 u3 d2")],
)
def test_gradients_equal_plain_autograd(space: int, layers: str, activation: str) -> None:
    network = build(space, layers, repeat=4, activation=activation, coarsening="learned")
    check_gradients(network, torch.randn(2, 2, *SIZES[space], dtype=torch.float64))


@pytest.mark.parametrize("channels", [slice(2), [7, 0, 3], None])
def test_gradients_of_the_channels_that_are_read(channels: Channels | None) -> None:
    network = build(2, "3 d4 u3", repeat=4)
    check_gradients(network, torch.randn(2, 2, 8, 4, dtype=torch.float64), channels)


@pytest.mark.parametrize(("space", "layers"), [(2, "3*2 d4*2 d3 u4 u3"), (3, "3 d4*2 u3")])
def test_single_precision_gradients_are_as_good_as_single_precision(space: int, layers: str) -> None:
    network = build(space, layers, channels=24, activation="softplus", dtype=torch.float32)
    check_gradients(network, torch.randn(2, 24, *SIZES[space]), tolerance=2e-5)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_gradients_of_random_architectures(data: st.DataObject) -> None:
    network = data.draw(networks(states=("float", "exact")))
    x_BcN = data.draw(inputs(network))
    with patch.dict(pieces.PIECE_BYTES, cpu=data.draw(st.sampled_from([2**9, 2**12, 2**21]), label="piece")):
        check_gradients(network, x_BcN, dead=True)
    assert network.inversion_error is not None
    assert network.inversion_error <= (0 if network.config.exact else 1e-9)


@pytest.mark.parametrize(("space", "layers"), [(1, "2 d2 u2"), (2, "2g2 d3"), (3, "2p")])
def test_gradients_equal_central_differences(space: int, layers: str) -> None:
    network = build(space, layers, channels=1, repeat=2, activation="tanh", boundary="periodic", coarsening="learned")
    x_BcN = torch.randn(1, 1, *[4, 2, 2][:space], dtype=torch.float64, requires_grad=True)
    wanted = [x_BcN, *network.parameters()]
    gradients = torch.autograd.grad(network(x_BcN).sin().sum(), wanted)
    with torch.no_grad():
        for tensor, gradient in zip(wanted, gradients, strict=True):
            flat = tensor.view(-1)
            for at in range(flat.numel()):
                before, ends = flat[at].item(), []
                for shift in (1e-5, -1e-5):
                    flat[at] = before + shift
                    ends.append(network(x_BcN).sin().sum())
                flat[at] = before
                assert gradient.reshape(-1)[at].item() == pytest.approx(((ends[0] - ends[1]) / 2e-5).item(), abs=1e-7)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_backward_pass_is_the_adjoint_of_the_linearised_network(data: st.DataObject) -> None:
    network = data.draw(networks())
    x_BcN = data.draw(inputs(network)).requires_grad_()
    direction = torch.randn_like(x_BcN)
    out, pushed = torch.func.jvp(lambda x: reference(network, x), (x_BcN.detach(),), (direction,))
    probe = torch.randn_like(out)
    (pulled,) = torch.autograd.grad(network(x_BcN), x_BcN, probe)
    scale = pushed.norm() * probe.norm()
    assert abs((pushed * probe).sum() - (direction * pulled).sum()) <= 1e-12 * scale


def taylor_slopes(value: Callable[[float], Tensor], slope: Tensor) -> list[float]:
    """Orders of the first-order remainder between successive halvings of the step."""
    steps = [2.0**-power for power in range(11, 16)]
    start = value(0.0)
    remainders = torch.stack([(value(step) - start - step * slope).abs() for step in steps])
    return (remainders[:-1] / remainders[1:]).log2().tolist()


@pytest.mark.parametrize("boundary", ["zeros", "reflect"])
@pytest.mark.parametrize("target", ["input", "weights"])
def test_taylor_remainder_falls_quadratically(target: str, boundary: str) -> None:
    network = build(2, "3 d6 u4", repeat=2, activation="softplus", coarsening="learned", boundary=boundary)
    x_BcN = torch.randn(1, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    chosen = [x_BcN] if target == "input" else list(network.parameters())
    gradients = torch.autograd.grad(network(x_BcN).square().sum(), chosen)
    directions = [torch.randn_like(tensor) * (1.0 if target == "input" else 0.1) for tensor in chosen]
    starts = [tensor.detach().clone() for tensor in chosen]

    @torch.no_grad()
    def value(step: float) -> Tensor:
        for tensor, start, direction in zip(chosen, starts, directions, strict=True):
            tensor.copy_(start + step * direction)
        return run(network.plan, x_BcN, network.parameters_in_order()).square().sum()

    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    orders = taylor_slopes(value, torch.as_tensor(slope))
    assert orders == pytest.approx([2.0] * len(orders), abs=0.05)


@pytest.mark.parametrize("states", ["float", "exact"])
def test_a_second_backward_pass_is_refused_in_one_sentence(states: str) -> None:
    network = build(2, "3 d4 u3", states=states)
    x_BcN = torch.randn(1, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    loss = network(x_BcN).square().sum()
    torch.autograd.grad(loss, [x_BcN, *network.parameters()], retain_graph=True)
    with pytest.raises(
        RuntimeError,
        match=r"^the backward pass of a telegraph network runs its states back in place, so it can be taken once for "
        r"each forward pass; call the network again before a second backward$",
    ):
        torch.autograd.grad(loss, [x_BcN, *network.parameters()])


def test_second_derivatives_are_refused_in_one_sentence() -> None:
    network = build(2, "3")
    x_BcN = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    with pytest.raises(
        RuntimeError,
        match=r"^second derivatives of a telegraph network are not available: its backward pass is written by hand; "
        r"call backward or autograd.grad without create_graph$",
    ):
        torch.autograd.grad(network(x_BcN).square().sum(), x_BcN, create_graph=True)


def scaled_input(factor: float) -> Callable[..., object]:
    true = chain._run_back

    def back(plan: object, shelf: Shelf, *rest: object) -> object:
        gradients = true(plan, shelf, *rest)  # type: ignore[arg-type]
        for _, adjoint in shelf.each():
            adjoint.increment.mul_(factor)
        return gradients

    return back


def scaled_weights(factor: float, *, part: int) -> Callable[..., object]:
    true = chain.step_back

    def step(*arguments: object) -> list[Tensor]:
        gradients = true(*arguments)  # type: ignore[arg-type]
        return [g * factor if at == part else g for at, g in enumerate(gradients)]  # type: ignore[operator,misc]

    return step


def scaled_angles(factor: float) -> Callable[..., object]:
    true = leapfrog.angle_gradient
    return lambda *arguments: true(*arguments) * factor


def spoilt_start(spoil: Callable[[Pair], object]) -> Callable[..., object]:
    true = chain._start_adjoint

    def start(*arguments: object) -> Pair:
        adjoint = true(*arguments)  # type: ignore[arg-type]
        spoil(adjoint)
        return adjoint

    return start


def one_layer_skipped(name: str) -> Callable[..., object]:
    """Leave out the second layer that runs."""
    true, calls = getattr(chain, name), [0]

    def step(plan: object, layer: object, *rest: object) -> object:
        calls[0] += 1
        if calls[0] != 2:
            return true(plan, layer, *rest)
        where, kernel, *_ = rest
        for pair in [where] if isinstance(where, Pair) else where:  # type: ignore[attr-defined]
            pair.state.add_(pair.increment)
        return [torch.zeros_like(kernel), torch.zeros(kernel.shape[-2])]  # type: ignore[attr-defined,call-overload]

    return step


def bands_disordered(name: str, how: str) -> Callable[..., object]:
    true = getattr(leapfrog, name)

    def turn(state: Tensor, *rest: object) -> Tensor:
        return true(state.flip(-1).contiguous() if how in rest else state, *rest)

    return turn


def edges_dropped() -> Callable[..., object]:
    def fold(y: Tensor, axes: object, reach: int, boundary: object) -> Tensor:
        for axis in axes:  # type: ignore[attr-defined]
            y = y.narrow(axis, reach, y.shape[axis] - 2 * reach)
        return y.clone(memory_format=torch.preserve_format)

    return fold


SCALES = {"zeroed": 0.0, "halved": 0.5, "flipped": -1.0}
MUTANTS: dict[str, tuple[object, str, Callable[[], Callable[..., object]]]] = {
    **{f"input gradient {n}": (chain, "_run_back", lambda f=f: scaled_input(f)) for n, f in SCALES.items()},
    **{
        f"{name} gradient {n}": (chain, "step_back", lambda f=f, part=part: scaled_weights(f, part=part))
        for part, name in enumerate(("kernel", "bias"))
        for n, f in SCALES.items()
    },
    **{f"angle gradient {n}": (leapfrog, "angle_gradient", lambda f=f: scaled_angles(f)) for n, f in SCALES.items()},
    "adjoint without its state": (chain, "_start_adjoint", lambda: spoilt_start(lambda a: a.state.zero_())),
    "adjoint without its increment": (chain, "_start_adjoint", lambda: spoilt_start(lambda a: a.increment.zero_())),
    "adjoint's increment flipped": (chain, "_start_adjoint", lambda: spoilt_start(lambda a: a.increment.neg_())),
    "adjoint in the wrong channels": (
        chain,
        "_start_adjoint",
        lambda: spoilt_start(lambda a: [half.copy_(half.roll(1, -1)) for half in (a.state, a.increment)]),
    ),
    "layer skipped backward": (chain, "step_back", lambda: one_layer_skipped("step_back")),
    "layer skipped forward": (chain, "step_forward", lambda: one_layer_skipped("step_forward")),
    "bands disordered forward": (
        leapfrog,
        "resample_in_place",
        lambda: bands_disordered("resample_in_place", "refine"),
    ),
    "bands disordered backward": (leapfrog, "turn_axis", lambda: bands_disordered("turn_axis", "refine")),
    "boundary dropped from the transpose": (boundary, "fold", edges_dropped),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_check_notices_a_wrong_backward_pass(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = build(2, "3 d4p 4g2 u3", repeat=2, boundary="reflect", coarsening="learned")
    x_BcN = torch.randn(1, 2, 4, 8, dtype=torch.float64)
    check_gradients(network, x_BcN)
    module, name, make = MUTANTS[mutant]
    monkeypatch.setattr(module, name, make())  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        check_gradients(network, x_BcN)
