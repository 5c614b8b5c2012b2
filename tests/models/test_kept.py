"""Hidden layers that are kept for the backward pass: which, that they change no bit, and that they are let go of."""

import weakref
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models import chain, leapfrog
from models.config import NetworkConfig
from models.network import TelegraphNetwork
from tests.benchmarks.cases import even_hourglass
from tests.models.strategies import build, networks


def costs(network: TelegraphNetwork) -> list[float]:
    """Return the numbers of each hidden layer for each number of a state."""
    kernels = zip(network.plan.layers, network.kernels, strict=True)
    return [kernel.shape[-2] / (kernel.shape[-1] * layer.operator.groups) for layer, kernel in kernels]


def kept_by(network: TelegraphNetwork) -> list[int]:
    return [at for at, layer in enumerate(network.plan.layers) if layer.keeps]


def test_the_widest_kernels_keep_first_and_of_equals_the_last() -> None:
    def kept(most: float) -> list[int]:
        # In each stage a hidden layer has 1/4, 1/16 and 1/4 of a state's numbers.
        return kept_by(build(2, "2*2 d2*3 u2*2", channels=8, kept_hidden=most))

    assert kept(0) == []
    assert kept(0.05) == []
    assert kept(2 / 16) == [3, 4]
    assert kept(3 / 16) == [2, 3, 4]
    assert kept(7 / 16) == [2, 3, 4, 6]
    assert kept(2) == list(range(7))


def test_width_is_that_of_a_kernel_with_its_taps_and_groups() -> None:
    """Beside the last layer, which goes first."""
    assert kept_by(build(2, "2*2 d2p*2", channels=8, kept_hidden=0.32)) == [1, 3], "9 x 8 weights save more than 32"
    assert kept_by(build(2, "2 2g2*2", channels=8, kept_hidden=0.5)) == [0, 2], "9 x 8 weights save more than 9 x 4"


def test_as_much_is_kept_beside_the_last_layer_at_any_depth() -> None:
    """Else the peak, where the backward pass begins, would not be flat in depth."""
    for depth in (8, 64, 512):
        network = TelegraphNetwork(NetworkConfig(layers=even_hourglass(depth, 8, 1)), 2, 64)
        kept, each = kept_by(network), costs(network)
        assert kept[-1] == depth - 1
        assert sum(each[at] for at in kept) == 0.5


def test_what_just_fits_is_kept() -> None:
    assert kept_by(build(1, "2p", channels=3, kept_hidden=2 / 3)) == [0]


def test_a_wide_kernel_that_is_too_dear_leaves_room_for_others() -> None:
    assert kept_by(build(2, "2 d8 d96", channels=8, kept_hidden=0.5)) == [0, 1]


@settings(max_examples=40, deadline=None)
@given(network=networks(), most=st.floats(0, 4))
def test_no_more_is_kept_than_is_allowed_and_no_more_fits(network: TelegraphNetwork, most: float) -> None:
    other = TelegraphNetwork(replace(network.config, kept_hidden=most), network.space, network.channels)
    kept, each = kept_by(other), costs(other)
    taken = sum(each[at] for at in kept)
    assert taken <= most + 1e-6
    assert all(taken + cost > most - 1e-6 for at, cost in enumerate(each) if at not in kept)


def gradients(kept_hidden: float, **settings: object) -> list[Tensor]:
    network = build(2, "4*3 d8*2 u4*2", channels=6, dtype=torch.float32, kept_hidden=kept_hidden, **settings)
    x_BcN = torch.randn(2, 6, 16, 12, generator=torch.Generator().manual_seed(3)).requires_grad_()
    output = network(x_BcN)
    return [output.detach(), *torch.autograd.grad(output.square().sum(), [x_BcN, *network.parameters()])]


@pytest.mark.parametrize("force", ["float32", "bfloat16", "float16"])
def test_exact_states_have_the_same_bits_whatever_is_kept(force: str) -> None:
    none, some, all_ = (gradients(kept, states="exact", force_dtype=force) for kept in (0, 0.5, 100))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(none, some, strict=True))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(none, all_, strict=True))


def test_what_is_kept_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, true = [], leapfrog.hidden

    def counted(*arguments: object) -> Tensor:
        calls.append(arguments)
        return true(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(leapfrog, "hidden", counted)
    for kept, layers in ((0, 0), (1.4, 3), (100, 7)):
        calls.clear()
        gradients(kept)
        assert len(calls) == 3 * 7 - layers, "forward, back for the states, back for the adjoint"


def test_nothing_stays_behind_after_a_backward_pass_nor_without_gradients() -> None:
    network = build(2, "4*3", channels=6, kept_hidden=100)
    x_BcN = torch.randn(1, 6, 8, 8, dtype=torch.float64)
    output = network(x_BcN)
    node = output.grad_fn
    assert len(node.kept) == 3  # type: ignore[union-attr]
    output.sum().backward()
    assert not node.kept  # type: ignore[union-attr]
    with torch.no_grad():
        assert network(x_BcN).grad_fn is None
    assert network.requires_grad_(False)(x_BcN.requires_grad_()).grad_fn.kept
    node = chain.run(network.plan, x_BcN.detach(), network.parameters_in_order()).grad_fn
    assert node is None, "nothing is kept where no gradient is wanted"


def test_what_is_kept_goes_as_the_backward_pass_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    network, true, alive, left = build(2, "4*3", channels=6, kept_hidden=100), chain.step_back, [], []

    def back(*arguments: object) -> tuple[Tensor, Tensor]:
        alive.append(weakref.ref(arguments[-1][0]))
        left.append(sum(reference() is not None for reference in alive))
        return true(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(chain, "step_back", back)
    network(torch.randn(1, 6, 8, 8, dtype=torch.float64)).sum().backward()
    assert left == [1, 1, 1], "one at a time"


def test_an_error_on_the_way_back_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    output = build(2, "4*3", channels=6, kept_hidden=100)(torch.randn(1, 6, 8, 8, dtype=torch.float64))
    monkeypatch.setattr(chain, "resample_back", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        output.sum().backward()
    assert output.grad_fn.shelf is None
    assert not output.grad_fn.kept
