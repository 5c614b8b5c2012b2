"""K, its transpose and its weight gradient, in both forms."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from models.symmetric import Convolution, Products, SymmetricOperator, choose_operator

FORMS = [Convolution, Products]


def sample(space: int, channels: int, rank: int, edge: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    torch.manual_seed(space)
    sizes = (5, 4, 3)[:space]
    x_BNC = torch.randn(batch, *sizes, channels, dtype=torch.float64)
    return x_BNC, torch.randn(*[edge] * space, rank, channels, dtype=torch.float64)


def canonical(operator: SymmetricOperator, z: Tensor) -> Tensor:
    """A hidden tensor as [B, *N, r]."""
    return z.movedim(0, -1) if operator.batch_axis else z


def own(operator: SymmetricOperator, z_BNr: Tensor) -> Tensor:
    return z_BNr.movedim(-1, 0).contiguous() if operator.batch_axis else z_BNr


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("edge", [1, 3, 5])
@pytest.mark.parametrize("space", [1, 2, 3])
def test_the_transpose_passes_the_dot_product_test(form: type, space: int, edge: int) -> None:
    operator = form(space, edge)
    x_BNC, kernel = sample(space, 6, 3, edge)
    y_BNr = torch.randn(*x_BNC.shape[:-1], 3, dtype=torch.float64)
    left = (canonical(operator, operator.hidden(x_BNC, kernel)) * y_BNr).sum()
    right = (x_BNC * operator.transpose(operator.spread(own(operator, y_BNr)), kernel, x_BNC.shape)).sum()
    assert left.item() == pytest.approx(right.item(), rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("space", [1, 2, 3])
def test_the_hidden_layer_is_pytorchs_convolution(form: type, space: int) -> None:
    operator = form(space, 3)
    x_BNC, kernel = sample(space, 6, 3, 3)
    weight = kernel.permute(space, space + 1, *range(space))
    expected = getattr(F, f"conv{space}d")(x_BNC.movedim(-1, 1), weight, padding=1).movedim(1, -1)
    torch.testing.assert_close(canonical(operator, operator.hidden(x_BNC, kernel)), expected, rtol=0, atol=1e-12)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    space=st.integers(1, 3),
    channels=st.integers(1, 12),
    rank=st.integers(1, 9),
    edge=st.sampled_from([1, 3, 5]),
    batch=st.integers(1, 3),
)
def test_both_forms_agree(space: int, channels: int, rank: int, edge: int, batch: int) -> None:
    x_BNC, kernel = sample(space, channels, rank, edge, batch=2 * batch)
    z_BNr = torch.randn(*x_BNC.shape[:-1], rank, dtype=torch.float64)
    bias = torch.randn(rank, dtype=torch.float64)
    results = []
    for form in FORMS:
        operator = form(space, edge)
        z = own(operator, z_BNr)
        u = operator.spread(z)
        y_BNC = torch.ones_like(x_BNC)
        operator.add_transpose(y_BNC, u, kernel)
        results.append(
            [
                y_BNC,
                canonical(operator, operator.hidden(x_BNC, kernel) + operator.align(bias)),
                operator.transpose(u, kernel, x_BNC.shape),
                operator.weight_gradient(x_BNC, u, kernel),
                operator.bias_gradient(z),
            ]
        )
    for one, other in zip(*results, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= 1e-12 * other.abs().max()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("space", [1, 2, 3])
@torch.no_grad()
def test_the_fast_kernels_of_single_precision_agree(form: type, space: int) -> None:
    operator = form(space, 3)
    x_BNC, kernel = sample(space, 24, 16, 3)
    results = []
    for dtype in (torch.float32, torch.float64):
        x, weights = x_BNC.to(dtype), kernel.to(dtype)
        z = operator.hidden(x, weights)
        u = operator.spread(z)
        y = x.clone()
        operator.add_transpose(y, u, weights)
        results.append([z, operator.transpose(u, weights, x.shape), y, operator.weight_gradient(x, u, weights)])
    for single, double in zip(*results, strict=True):
        assert single.dtype == torch.float32
        assert (single - double).abs().max() <= 1e-5 * double.abs().max()


@pytest.mark.parametrize("form", FORMS)
def test_the_weight_gradient_exchanges_the_halves(form: type) -> None:
    operator = form(2, 3)
    x_BNC, kernel = sample(2, 4, 3, 3)
    kernel.requires_grad_()
    z_BNr = torch.randn(*x_BNC.shape[:-1], 3, dtype=torch.float64)
    hidden = canonical(operator, operator.hidden(x_BNC, kernel))
    (expected,) = torch.autograd.grad((hidden * z_BNr.flip(0)).sum(), kernel)
    found = operator.weight_gradient(x_BNC, operator.spread(own(operator, z_BNr)), kernel.detach())
    assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_many_channels_are_multiplied_and_few_are_convolved() -> None:
    assert isinstance(choose_operator(3, 3, 6144, 32), Products)
    assert isinstance(choose_operator(2, 3, 12800, 32), Products)
    assert isinstance(choose_operator(3, 3, 12, 8), Convolution)
