"""Nothing passes in silence: drift, states that leave their grid, weights that are no numbers."""

import re
import warnings
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from models import chain
from models.arithmetic import GridStates
from models.network import TelegraphNetwork
from models.watch import Extremes, GridOverflowError, check_layers
from tests.models.strategies import build


def grid_network(layers: str = "3*2 d4 u3", space: int = 2, **settings: object) -> TelegraphNetwork:
    options: dict[str, object] = {"states": "exact", "init_gain": 1.0, "dtype": torch.float32}
    return build(space, layers, **options | settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {},
            "the input reaches 800, but states are kept exactly only up to 768; set network.grid_bits to 16 or less "
            "(it is 20)",
        ),
        (
            {"state_bits": 16},
            "the input reaches 800, but states are kept exactly only up to 12; set network.grid_bits to 6 or less "
            "(it is 10), network.state_bits to 32",
        ),
    ],
)
def test_an_input_beyond_the_grid_is_refused(settings: dict[str, object], message: str) -> None:
    network = grid_network(**settings)  # type: ignore[arg-type]
    with pytest.raises(GridOverflowError, match=f"^{re.escape(message)}$"):
        network(torch.full((1, 2, 8, 8), -800.0))


def test_an_input_of_nan_is_refused() -> None:
    x_BcN = torch.zeros(1, 2, 8, 8)
    x_BcN[0, 1, 2, 3] = torch.nan
    with pytest.raises(GridOverflowError, match=r"^the input has numbers that are NaN, which exact states cannot hold"):
        grid_network()(x_BcN)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("bits", [16, 32])
def test_a_state_that_leaves_the_grid_is_refused_by_the_name_of_its_layer(bits: int, grad: bool) -> None:
    network = grid_network(state_bits=bits, activation="tanh")
    reach = network.plan.arithmetic.reach  # type: ignore[attr-defined]
    with torch.no_grad():
        network.kernels[2].mul_(0).add_(0.3 * reach)
    with (
        torch.set_grad_enabled(grad),
        pytest.raises(GridOverflowError, match=r"^layer 3 of 4 (takes the state to|pushes the state by) ") as caught,
    ):
        network(torch.rand(1, 2, 8, 8))
    assert f"only up to {3 / 8 * reach:g}; set network.grid_bits to" in str(caught.value)
    assert str(caught.value).endswith(", or train more gently (a smaller rate or network.init_gain)")


@pytest.mark.parametrize("force", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("weight", ["kernels", "biases"])
def test_weights_that_are_nan_do_not_pass(weight: str, bits: int, force: str) -> None:
    network = grid_network(state_bits=bits, force_dtype=force)
    with torch.no_grad():
        getattr(network, weight)[1].view(-1)[0] = torch.nan
    with pytest.raises(
        GridOverflowError,
        match=r"^layer 2 of 4 has a force that is NaN: its weights are, or overflowed; go back to an earlier "
        r"checkpoint and train more gently \(a smaller rate\)$",
    ):
        network(torch.randn(1, 2, 8, 8))


@pytest.mark.parametrize("bits", [16, 32])
def test_a_force_of_a_whole_turn_round_the_grid_does_not_pass(bits: int) -> None:
    """Such a force changes no bit of the state, so only the force itself can tell."""
    network = grid_network("1", state_bits=bits, activation="tanh", kernel=1, step=1.0)
    with torch.no_grad():
        network.kernels[0].fill_(2 * network.plan.arithmetic.reach)  # type: ignore[attr-defined]
        network.biases[0].fill_(0.0)
    with pytest.raises(GridOverflowError, match=r"^layer 1 of 1 pushes the state by "):
        network(torch.ones(1, 2, 4, 4))


def seen(state: float, force: float, grid: GridStates) -> Extremes:
    states = [torch.tensor(int(number / grid.spacing), dtype=torch.int32) for number in (-state, 0.0)]
    return Extremes(states, [torch.tensor(force / grid.loaded_unit), torch.tensor(0.0)])


def test_the_first_layer_that_went_too_far_is_named() -> None:
    grid = GridStates()
    check_layers(grid, [])
    check_layers(grid, [seen(768.0, 1024.0, grid)])
    with pytest.raises(GridOverflowError, match=r"^layer 2 of 3 takes the state to 769, but states are kept exactly "):
        check_layers(grid, [seen(700.0, 1.0, grid), seen(769.0, 1.0, grid), seen(900.0, 1.0, grid)])
    with pytest.raises(GridOverflowError, match=r"^layer 1 of 1 pushes the state by 1025, but"):
        check_layers(grid, [seen(5.0, 1025.0, grid)])


def test_drift_is_warned_of_once_with_the_switch_named() -> None:
    network = build(
        2, "4*200", channels=16, force_dtype="bfloat16", states="float", step=0.5, init_gain=6.0, dtype=torch.float32
    )
    network.watch.warn_of_drift()
    x_BcN = torch.randn(1, 16, 8, 8)
    for turn in range(2):
        network(x_BcN).square().mean().backward()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            network.watch.warn_of_drift()
        assert len(caught) == (1 if turn == 0 else 0)
        if turn == 0:
            text = str(caught[0].message)
            assert text.startswith("the backward pass recovered its input with a relative error of ")
            assert text.endswith(", above 0.001: its gradients are those of other states; set network.states to exact")


def test_exact_states_that_come_back_otherwise_are_warned_of_however_little_it_is() -> None:
    network, true = grid_network(), chain.step_back

    def other(*arguments: object) -> tuple[Tensor, Tensor]:
        arguments[2][0].increment.view(-1)[0] += 1  # type: ignore[attr-defined]
        return true(*arguments)  # type: ignore[arg-type]

    with patch.object(chain, "step_back", other):
        network(torch.randn(1, 2, 8, 8)).square().mean().backward()
    assert 0 < float(network.inversion_error) < 1e-5
    with pytest.warns(RuntimeWarning, match="above 0: .* this device gave a force other bits the second time"):
        network.watch.warn_of_drift()


def test_no_drift_is_not_warned_of() -> None:
    network = grid_network()
    network(torch.randn(1, 2, 8, 8)).square().mean().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network.watch.warn_of_drift()
