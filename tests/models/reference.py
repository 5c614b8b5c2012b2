"""The telegraph network written a second time, from the formula, for plain autograd: slow, simple, independent.

Leapfrog in two states, channels first, PyTorch's convolutions, the Haar transform as an explicit strided convolution.
"""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from models.config import NetworkConfig, parse_layers

CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
ACTIVATION: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "softplus": lambda z: torch.log1p(torch.exp(-z.abs())) + z.clamp_min(0),
    "tanh": torch.tanh,
}


def haar_weight(space: int, channels: int, dtype: torch.dtype) -> Tensor:
    """Weight [2^d C, C, 2, ...] of the strided convolution that is the Haar transform."""
    weight = torch.zeros(2**space, channels, channels, *[2] * space, dtype=dtype)
    for band, bits in enumerate(itertools.product((0, 1), repeat=space)):
        for cell in itertools.product((0, 1), repeat=space):
            sign = (-1) ** sum(bit * at for bit, at in zip(bits, cell, strict=True))
            weight[(band, slice(None), slice(None), *cell)] = (
                sign * 2 ** (-space / 2) * torch.eye(channels, dtype=dtype)
            )
    return weight.flatten(0, 1)


def resample(x_BCN: Tensor, how: str) -> Tensor:
    space = x_BCN.dim() - 2
    if how == "coarsen":
        return CONVOLVE[space](x_BCN, haar_weight(space, x_BCN.shape[1], x_BCN.dtype), stride=2)
    if how == "refine":
        return TRANSPOSE[space](x_BCN, haar_weight(space, x_BCN.shape[1] // 2**space, x_BCN.dtype), stride=2)
    return x_BCN


def telegraph(
    config: NetworkConfig, x_BcN: Tensor, kernels: Sequence[Tensor], biases: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """X_L and X_{L+1} of DESIGN 2.1 for kernels [*taps, r, C]."""
    space = x_BcN.dim() - 2
    previous = current = torch.cat([x_BcN] * config.repeat, dim=1)
    for layer, kernel, bias in zip(parse_layers(config.layers), kernels, biases, strict=True):
        previous, current = resample(previous, layer.resample), resample(current, layer.resample)
        weight = kernel.permute(space, space + 1, *range(space))
        hidden = CONVOLVE[space](current, weight, bias, padding=config.kernel // 2)
        force = TRANSPOSE[space](ACTIVATION[config.activation](hidden), weight, padding=config.kernel // 2)
        previous, current = current, 2 * current - previous - config.step**2 * force
    return previous, current
