"""K by Winograd's minimal filtering against direct convolutions in double precision, and where it serves."""

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models import winograd
from models.arithmetic import FloatStates, GridStates
from models.config import NetworkConfig
from models.convolution import Convolution
from models.network import TelegraphNetwork
from models.stream import Stream
from models.symmetric import Pair
from models.unrolled import unrolled
from models.winograd import WinogradConvolution, pays


class Middle:
    """A slab with neighbours, which is not asked for anything here."""

    index, count = 1, 3


@pytest.fixture
def everywhere() -> Iterator[None]:
    """Let it serve on grids of any size."""
    with patch.object(winograd, "pays", lambda *_: True):
        yield


def refuse(*_: Any) -> Tensor:
    raise AssertionError("the direct form served")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    sizes=st.tuples(st.integers(1, 19), st.integers(1, 6), st.integers(1, 6)),
    channels=st.integers(1, 20),
    rank=st.integers(1, 18),
    batch=st.integers(1, 3),
    slab=st.sampled_from([None, Middle()]),
    at_once=st.integers(1, 5),
)
@torch.no_grad()
def test_it_is_the_direct_convolution(
    sizes: tuple[int, int, int], channels: int, rank: int, batch: int, slab: Any, at_once: int
) -> None:
    torch.manual_seed(0)
    x = torch.randn(batch, *sizes, channels)
    kernel, z = torch.randn(3, 3, 3, rank, channels), torch.randn(batch, sizes[0] + 2, *sizes[1:], rank)
    if slab is None:
        z[:, :: sizes[0] + 1] = 0
    found = []
    for form, dtype in ((WinogradConvolution, torch.float32), (Convolution, torch.float64)):
        operator = form(3, 3)
        pair = Pair(x.to(dtype, copy=True), torch.ones_like(x, dtype=dtype), FloatStates(), dtype, slab=slab)
        with (
            patch.object(winograd, "pays", lambda *_: True),
            patch.object(winograd, "blocks_at_once", lambda *_: at_once),
        ):
            hidden = operator.hidden(pair, kernel.to(dtype))
            gradient = operator.weight_gradient(pair, z.to(dtype), kernel.to(dtype))
            operator.advance(pair, z.to(dtype), kernel.to(dtype))
        found.append([hidden if slab else operator.own(hidden), gradient, pair.increment, pair.state])
        if form is WinogradConvolution and slab is None:
            assert not hidden[:, [0, -1]].any()
    for single, double in zip(*found, strict=True):
        assert single.dtype == torch.float32
        assert single.shape == double.shape
        assert (single - double).abs().max() <= 2e-5 * double.abs().max()


@pytest.mark.usefixtures("everywhere")
def test_nothing_else_serves_in_its_place() -> None:
    x, kernel = torch.randn(1, 9, 5, 4, 6), torch.randn(3, 3, 3, 2, 6)
    operator, pair = WinogradConvolution(3, 3), Pair(x, torch.zeros_like(x), FloatStates(), x.dtype)
    with torch.no_grad(), patch.multiple(Convolution, hidden=refuse, advance=refuse, weight_gradient=refuse):
        z = operator.hidden(pair, kernel)
        operator.weight_gradient(pair, z, kernel)
        operator.advance(pair, z, kernel)


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("case", ["double", "half", "exact", "differentiated"])
def test_the_direct_form_serves_elsewhere(case: str) -> None:
    dtype = torch.float64 if case == "double" else torch.float32
    arithmetic = {"half": FloatStates(torch.bfloat16), "exact": GridStates()}.get(case, FloatStates())
    x, kernel = torch.randn(1, 9, 5, 4, 6, dtype=dtype), torch.randn(3, 3, 3, 2, 6, dtype=dtype)
    pair = Pair(arithmetic.encode(x), arithmetic.encode(x), arithmetic, dtype)
    kernel = kernel.to(arithmetic.force_type(dtype))
    with torch.set_grad_enabled(case == "differentiated"):
        z, direct = (form(3, 3).hidden(pair, kernel) for form in (WinogradConvolution, Convolution))
        gradients = [form(3, 3).weight_gradient(pair, z, kernel) for form in (WinogradConvolution, Convolution)]
    assert torch.equal(z, direct)
    assert torch.equal(*gradients)


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("turns", [1, 2])
def test_a_network_trains_on_the_gradients_of_its_layers(turns: int) -> None:
    torch.manual_seed(0)
    network = TelegraphNetwork(NetworkConfig(layers="4*2 d8*2 u4", repeat=3, kept_hidden=0.1), 3, 1)
    network.stream = Stream(turns) if turns > 1 else None
    assert all(isinstance(layer.operator, WinogradConvolution) for layer in network.plan.layers)
    x = torch.randn(2, 1, 8, 6, 18).transpose(2, 4)
    twin = TelegraphNetwork(network.config, 3, 1).double()
    twin.load_state_dict(network.state_dict())
    with patch.multiple(Convolution, hidden=refuse, advance=refuse, weight_gradient=refuse):
        out = network(x)
        out.square().mean().backward()
    expected = unrolled(twin.plan, x.double(), twin.parameters_in_order())
    expected.square().mean().backward()
    assert (out - expected).abs().max() <= 1e-5 * expected.abs().max()
    for own, other in zip(network.parameters(), twin.parameters(), strict=True):
        assert own.grad is not None
        assert other.grad is not None
        assert (own.grad - other.grad).abs().max() <= 1e-5 * other.grad.abs().max()
    assert network.inversion_error is not None
    assert 0 < network.inversion_error < 1e-5


def test_it_serves_where_that_was_measured_to_pay() -> None:
    operator = WinogradConvolution(3, 3)
    for capability, known in (("AVX512", True), ("AVX2", True), ("DEFAULT", False)):
        with patch.object(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability):
            assert pays(operator, (56, 56, 56), 12, 8, 1) is known
            assert not pays(Convolution(3, 3), (56, 56, 56), 12, 8, 1)
            assert not pays(operator, (15, 56, 56), 12, 8, 1)
            assert not pays(operator, (48, 48, 48), 12, 8, 1)
            assert not pays(operator, (24, 12, 12), 768, 32, 1)
            assert [pays(operator, (24, 24, 24), 192, rank, 2) for rank in (16, 31, 32)] == [False, False, known]
