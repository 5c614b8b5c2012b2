"""Boundaries: padding is NumPy's, folding is its transpose, and each means what its name says."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.boundary import fold, pad
from models.config import Layer
from models.convolution import Convolution
from tests.models.reference import hidden
from tests.models.strategies import build

MODE = {"reflect": "reflect", "periodic": "wrap"}


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    reach=st.integers(0, 4),
    boundary=st.sampled_from(["reflect", "periodic"]),
)
def test_padding_is_numpys_and_folding_is_its_transpose(sizes: list[int], reach: int, boundary: str) -> None:
    x = torch.randn(2, *sizes, 3, dtype=torch.float64)
    axes = range(1, len(sizes) + 1)
    padded = pad(x, axes, reach, boundary)  # type: ignore[arg-type]
    widths = [(0, 0), *[(reach, reach)] * len(sizes), (0, 0)]
    np.testing.assert_array_equal(padded.numpy(), np.pad(x.numpy(), widths, mode=MODE[boundary]))  # type: ignore[call-overload]
    y = torch.randn_like(padded)
    folded = fold(y, axes, reach, boundary)  # type: ignore[arg-type]
    assert folded.shape == x.shape
    assert (padded * y).sum().item() == pytest.approx((x * folded).sum().item(), rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("layers", ["3*3", "3 40 2p", "4g2*2"])
def test_a_periodic_network_commutes_with_turning_the_volume(layers: str) -> None:
    network = build(2, layers, repeat=2, boundary="periodic")
    x_BcN = torch.randn(1, 2, 6, 8, dtype=torch.float64)
    turned = network(x_BcN.roll((2, 3), (2, 3)))
    torch.testing.assert_close(turned, network(x_BcN).roll((2, 3), (2, 3)), rtol=0, atol=1e-12)
    zeros = build(2, layers, repeat=2, boundary="zeros")
    assert not torch.allclose(zeros(x_BcN.roll((2, 3), (2, 3))), zeros(x_BcN).roll((2, 3), (2, 3)))


@pytest.mark.parametrize(("boundary", "flat"), [("reflect", True), ("periodic", True), ("zeros", False)])
def test_only_zeros_put_an_edge_into_a_constant_volume(boundary: str, flat: bool) -> None:
    plane = hidden(torch.ones(1, 2, 6, 8), torch.randn(3, 3, 5, 2), Layer(5), boundary)
    operator = Convolution(2, 3, boundary)  # type: ignore[arg-type]
    ours = operator.convolved(torch.ones(1, 6, 8, 2), torch.randn(3, 3, 5, 2))
    for z_BrN in (plane, ours.movedim(-1, 1)):
        assert torch.allclose(z_BrN, z_BrN[..., 3:4, 4:5].expand_as(z_BrN), atol=1e-5) == flat


@pytest.mark.parametrize("boundary", ["reflect", "periodic"])
def test_a_volume_thinner_than_the_kernel_is_no_trouble(boundary: str) -> None:
    network = build(2, "3 d3 u3", boundary=boundary, kernel=5)
    x_BcN = torch.randn(2, 2, 2, 2, dtype=torch.float64)
    network(x_BcN).sum().backward()
    assert network.inversion_error is not None
    assert network.inversion_error < 1e-10
