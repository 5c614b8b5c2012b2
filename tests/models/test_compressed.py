"""Compressed kernels: pointwise and grouped layers are dense layers whose other weights are zero."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.network import TelegraphNetwork
from tests.models.strategies import build


def dense(kernel: Tensor, groups: int, edge: int) -> Tensor:
    """The kernel [*taps, r, C] that does the same as a kernel [*taps, r, C / groups]."""
    space, rank, channels = kernel.dim() - 2, kernel.shape[-2], kernel.shape[-1] * groups
    whole = torch.zeros(*[edge] * space, rank, channels, dtype=kernel.dtype)
    middle = tuple(slice((edge - kernel.shape[0]) // 2, (edge + kernel.shape[0]) // 2) for _ in range(space))
    for group in range(groups):
        rows = slice(group * rank // groups, (group + 1) * rank // groups)
        columns = slice(group * channels // groups, (group + 1) * channels // groups)
        whole[(*middle, rows, columns)] = kernel[..., rows, :]
    return whole


def gradients(network: TelegraphNetwork, x_BcN: Tensor) -> tuple[Tensor, ...]:
    out = network(x_BcN)
    return out.detach(), *torch.autograd.grad(out.square().sum(), [x_BcN, *network.kernels, *network.biases])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    space=st.integers(1, 3),
    groups=st.integers(1, 4),
    pointwise=st.booleans(),
    rows=st.integers(1, 5),
    boundary=st.sampled_from(["zeros", "reflect", "periodic"]),
)
def test_a_compressed_layer_is_a_dense_one_with_zeros(
    space: int, groups: int, pointwise: bool, rows: int, boundary: str
) -> None:
    form = ("p" if pointwise else "") if groups == 1 else f"g{groups}"
    small = build(space, f"{groups * rows}{form}", channels=12, boundary=boundary)
    large = build(space, f"{groups * rows}", channels=12, boundary=boundary)
    with torch.no_grad():
        large.kernels[0].copy_(dense(small.kernels[0], groups, 3))
        large.biases[0].copy_(small.biases[0])
    assert small.kernels[0].numel() * groups * (3**space if form == "p" else 1) == large.kernels[0].numel()
    x_BcN = torch.randn(2, 12, *[5, 4, 3][:space], dtype=torch.float64, requires_grad=True)
    out, g_x, g_kernel, g_bias = gradients(small, x_BcN)
    expected, g_x_dense, g_kernel_dense, g_bias_dense = gradients(large, x_BcN)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(g_x, g_x_dense, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(g_bias, g_bias_dense, rtol=1e-10, atol=1e-10)
    kept = dense(torch.ones_like(small.kernels[0]), groups, 3) != 0
    placed = dense(g_kernel, groups, 3)
    torch.testing.assert_close(placed[kept], g_kernel_dense[kept], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("layers", "shapes"),
    [("6p", [(1, 1, 6, 4)]), ("6g2", [(3, 3, 6, 2)]), ("4 d8g4", [(3, 3, 4, 4), (3, 3, 8, 4)])],
)
def test_compressed_kernels_have_fewer_weights(layers: str, shapes: list[tuple[int, ...]]) -> None:
    assert [tuple(kernel.shape) for kernel in build(2, layers, channels=4).kernels] == shapes
