"""Exact states: the backward pass goes along the very bits of the forward pass, at any depth, in any precision."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models import chain, convolution, leapfrog, pieces
from models.config import NetworkConfig
from models.leapfrog import ChainLayer, ChainPlan
from models.network import TelegraphNetwork
from models.products import Products
from models.shelf import Sides
from models.symmetric import Pair
from tests.models.reference import telegraph
from tests.models.strategies import build, networks

FORCES = ["float32", "bfloat16", "float16"]
SIZES = {1: (16,), 2: (4, 8), 3: (2, 4, 4)}


def step(network: TelegraphNetwork, x_BcN: Tensor) -> list[Tensor]:
    """Gradients of one training step, in order of the input and the parameters."""
    x_BcN = x_BcN.clone().requires_grad_()
    return list(torch.autograd.grad(network(x_BcN).square().mean(), [x_BcN, *network.parameters()]))


def error_of(network: TelegraphNetwork) -> float:
    assert network.inversion_error is not None
    return float(network.inversion_error)


def exact(layers: str, space: int = 2, **settings: object) -> TelegraphNetwork:
    options: dict[str, object] = {"states": "exact", "init_gain": 1.0, "dtype": torch.float32, "step": 0.2}
    return build(space, layers, **options | settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("force", FORCES)
@pytest.mark.parametrize("space", [1, 2, 3])
def test_depth_1000_is_run_back_without_any_error(space: int, force: str) -> None:
    network = exact("2*1000", space, force_dtype=force)
    step(network, torch.randn(1, 2, *SIZES[space]))
    assert error_of(network) == 0


@pytest.mark.parametrize("force", FORCES)
def test_three_levels_of_learned_coarsening_at_depth_1000_are_run_back_without_any_error(force: str) -> None:
    layers = "2*100 d2*150 d2*150 d2*200 u2*150 u2*150 u2*100"
    network = exact(layers, force_dtype=force, coarsening="learned", boundary="reflect")
    step(network, torch.randn(2, 2, 8, 8))
    assert error_of(network) == 0


def test_float_states_drift_where_exact_ones_do_not() -> None:
    x_BcN = torch.randn(1, 16, 8, 8)
    drift = {}
    for states in ("float", "exact"):
        network = exact("4*200", channels=16, force_dtype="bfloat16", states=states, step=0.5, init_gain=6.0)
        step(network, x_BcN)
        drift[states] = error_of(network)
    assert drift["exact"] == 0
    assert drift["float"] > 1e-3


class Recorder:
    """Keeps what goes into each layer's step, and compares what the backward pass makes of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch | None = None) -> None:
        self.kept: list[tuple[Tensor, Tensor]] = []
        self.compared = 0
        self._forward, self._back = chain.step_forward, chain.step_back

    def forward(self, plan: ChainPlan, layer: ChainLayer, pair: Pair, *rest: Tensor) -> Tensor:
        self.kept.append((pair.state.clone(), pair.increment.clone()))
        return self._forward(plan, layer, pair, *rest)

    def back(self, plan: ChainPlan, layer: ChainLayer, sides: Sides, *rest: Any) -> tuple[Tensor, Tensor]:
        state, increment = self.kept.pop()
        assert torch.equal(sides[0].state, state)
        gradients = self._back(plan, layer, sides, *rest)
        assert torch.equal(sides[0].increment, -increment)
        self.compared += 1
        return gradients

    def watch(self, network: TelegraphNetwork, x_BcN: Tensor) -> None:
        """Take one step, with every state compared."""
        with patch.object(chain, "step_forward", self.forward), patch.object(chain, "step_back", self.back):
            step(network, x_BcN)
        assert self.compared == len(network.kernels)
        assert not self.kept


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_every_state_of_random_architectures_is_recovered_bit_for_bit(data: st.DataObject) -> None:
    network = data.draw(
        networks(
            states=("exact",),
            force_dtype=st.sampled_from(FORCES),
            state_bits=st.sampled_from([16, 32]),
            init_gain=st.sampled_from([0.5, 1.0]),
            dtype=torch.float32,
        )
    )
    sizes = [4 * data.draw(st.integers(1, 4 if network.space < 3 else 2)) for _ in range(network.space)]
    x_BcN = 0.25 * torch.randn(data.draw(st.integers(1, 3), label="batch"), network.channels, *sizes)
    with patch.dict(pieces.PIECE_BYTES, cpu=data.draw(st.sampled_from([2**9, 2**13, 2**21]), label="piece")):
        Recorder().watch(network, x_BcN)
    assert error_of(network) == 0


def summed_in_another_order() -> tuple[Callable[..., Tensor], list[bool]]:
    """The state half with its channels in reverse, which changes nothing but the order of the sums."""
    true, differed = leapfrog.hidden, []

    def hidden(layer: ChainLayer, pair: Pair, kernel: Tensor) -> Tensor:
        turned = Pair(pair.state.flip(-1), pair.increment, pair.arithmetic, pair.dtype)
        z = true(layer, turned, kernel.flip(-1))
        differed.append(not torch.equal(z, true(layer, pair, kernel)))
        return z

    return hidden, differed


def stacked_halves() -> tuple[Callable[..., Tensor], list[bool]]:
    """The state half evaluated in a batch with another half, as a doubled batch would do."""
    true, differed = leapfrog.hidden, []

    def hidden(layer: ChainLayer, pair: Pair, kernel: Tensor) -> Tensor:
        both = torch.cat([pair.state, pair.state.flip(1)])
        z = true(layer, Pair(both, torch.zeros_like(both), pair.arithmetic, pair.dtype), kernel)
        batch = pair.state.shape[0]
        z = z.narrow(1 if isinstance(layer.operator, Products) else 0, 0, batch)
        differed.append(not torch.equal(z, true(layer, pair, kernel)))
        return z

    return hidden, differed


@pytest.mark.parametrize("mutant", [summed_in_another_order, stacked_halves])
@pytest.mark.parametrize("sizes", [(24, 24), (7, 40), (48, 6)])
def test_a_force_evaluated_in_another_way_is_noticed(
    mutant: Callable[[], tuple[Callable[..., Tensor], list[bool]]], sizes: tuple[int, int]
) -> None:
    network = exact("12*10", channels=24, init_gain=3.0, step=0.5)
    x_BcN = torch.randn(1, 24, *sizes)
    Recorder().watch(network, x_BcN)
    state = network(x_BcN)
    hidden, differed = mutant()
    with patch.object(leapfrog, "hidden", hidden):
        state.square().mean().backward()
    # Whether a stacked batch has other bits is up to the backend; a sum in another order has them everywhere.
    assert any(differed) or mutant is stacked_halves
    assert (error_of(network) > 0) == any(differed)


def test_a_backend_whose_last_bits_depend_on_the_batch_is_handled_and_stacking_on_it_noticed() -> None:
    true = convolution.convolve

    def convolve(x_BCN: Tensor, weight: Tensor, padding: list[int], groups: int, cells: int = 1) -> Tensor:
        if x_BCN.shape[0] % 2:
            return true(x_BCN, weight, padding, groups, cells)
        return true(x_BCN.flip(1), weight.flip(1), padding, groups, cells)  # another order of the same sums

    network = exact("12*10", channels=24, init_gain=3.0, step=0.5)
    x_BcN = torch.randn(1, 24, 24, 24)
    with patch.object(convolution, "convolve", convolve):
        for batch in (1, 2):
            step(network, x_BcN.expand(batch, -1, -1, -1))
            assert error_of(network) == 0
        state = network(x_BcN)
        hidden, differed = stacked_halves()
        with patch.object(leapfrog, "hidden", hidden):
            state.square().mean().backward()
    assert any(differed)
    assert error_of(network) > 0


@pytest.mark.parametrize(("force", "tolerance"), [("float32", 2e-4), ("float16", 1e-2), ("bfloat16", 5e-2)])
@pytest.mark.parametrize("space", [1, 2, 3])
def test_gradients_are_those_of_double_precision_within_the_forces_own(
    space: int, force: str, tolerance: float
) -> None:
    network = exact("4*6 d8*6 u4*6", space, activation="softplus", force_dtype=force, coarsening="learned", channels=4)
    x_BcN = torch.randn(2, 4, *SIZES[space])
    found = step(network, x_BcN)
    config = replace(network.config, force_dtype="float32", states="float")
    double = [x_BcN.double().requires_grad_(), *(p.detach().double().requires_grad_() for p in network.parameters())]
    x, kernels, biases, turns = double[0], double[1:19], double[19:37], iter(double[37:])
    angles = [next(turns) if tensor is not None else None for tensor in network.parameters_in_order()[2::3]]
    true = torch.autograd.grad(telegraph(config, x, kernels, biases, angles)[1].square().mean(), double)
    for mine, reference in zip(found, true, strict=True):
        assert (mine - reference).norm() <= tolerance * reference.norm()


def test_gradients_of_exact_and_of_float_states_agree() -> None:
    settings = {"activation": "softplus", "coarsening": "learned", "init_gain": 2.0}
    gradients = [step(exact("4*4 d8*4 u4*4", states=s, **settings), _sample()) for s in ("exact", "float")]
    for one, other in zip(*gradients, strict=True):
        assert 0 < (one - other).norm() <= 1e-4 * other.norm()


def _sample() -> Tensor:
    return torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("bits", [16, 32])
def test_states_of_so_many_bits_are_kept_and_rounded_to_the_grid(bits: int) -> None:
    network = exact("4*3", state_bits=bits)
    assert network.plan.arithmetic.encode(_sample()).element_size() == bits // 8
    state = network(_sample()) * 2.0**network.config.grid
    assert torch.equal(state, state.round())


def test_exact_is_the_default_wherever_the_force_is_not_in_single_precision() -> None:
    assert not NetworkConfig().exact
    assert NetworkConfig(force_dtype="bfloat16").exact
    assert NetworkConfig(force_dtype="float16").exact
    assert not NetworkConfig(force_dtype="bfloat16", states="float").exact
    assert NetworkConfig(states="exact").exact
