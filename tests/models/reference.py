"""The telegraph network written a second time, from the formula, for plain autograd: slow, simple, independent.

Leapfrog in two states, channels first, PyTorch's convolutions over indexed padding, their transpose by autograd, and
coarsening as an explicit strided convolution. Exact states are rounded to their grid, and gradients pass straight
through.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.config import Layer, NetworkConfig, parse_layers

CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
ACTIVATION: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "softplus": lambda z: torch.log1p(torch.exp(-z.abs())) + z.clamp_min(0),
    "tanh": torch.tanh,
}
NUMPY_MODE = {"reflect": "reflect", "periodic": "wrap"}


def wavelet_weight(angles_dC: Tensor) -> Tensor:
    """Weight [2^d C, C, 2, ...] of the strided convolution that coarsens by angles (beyond 45 degrees)."""
    space, channels = angles_dC.shape
    whole = math.pi / 4 + angles_dC
    cosine, sine = whole.cos(), whole.sin()
    turns_dbc = torch.stack([torch.stack([cosine, sine], 1), torch.stack([sine, -cosine], 1)], 1)  # [d, band, cell, C]
    rows = []
    for band in itertools.product((0, 1), repeat=space):
        cells = []
        for cell in itertools.product((0, 1), repeat=space):
            factors = [turns_dbc[axis, band[axis], cell[axis]] for axis in range(space)]
            cells.append(torch.diag(torch.stack(factors).prod(0)))
        rows.append(torch.stack(cells, -1).view(channels, channels, *[2] * space))
    return torch.cat(rows)


def resample(x_BCN: Tensor, how: str, angles_dC: Tensor | None = None) -> Tensor:
    """Coarsen or refine by one convolution over all axes; no angles is Haar."""
    if not how:
        return x_BCN
    space = x_BCN.dim() - 2
    channels = x_BCN.shape[1] if how == "coarsen" else x_BCN.shape[1] // 2**space
    weight = wavelet_weight(torch.zeros(space, channels, dtype=x_BCN.dtype) if angles_dC is None else angles_dC)
    return (CONVOLVE if how == "coarsen" else TRANSPOSE)[space](x_BCN, weight, stride=2)


def resample_whole(x_BCN: Tensor, how: str, angles_dC: Tensor | None, spacing: float) -> Tensor:
    """Value of a resampling in whole multiples of `spacing`: three rounded shears an axis, in float32."""
    space = x_BCN.dim() - 2
    x_BCN = torch.round(x_BCN.detach() / spacing)
    for axis in range(space + 1, 1, -1) if how == "coarsen" else range(2, space + 2):
        finer = x_BCN.shape[1] // (1 if how == "coarsen" else 2)
        half: float | Tensor = math.tan(math.pi / 8)
        sine: float | Tensor = math.sin(math.pi / 4)
        if angles_dC is not None:
            angle = math.pi / 4 + angles_dC.detach()[axis - 2].repeat(finer // angles_dC.shape[1])
            angle = angle.view(-1, *[1] * space)
            half, sine = (angle / 2).tan(), angle.sin()

        def shear(x: Tensor, factor: float | Tensor) -> Tensor:
            return x.to(torch.float32).mul_(factor).round_().to(x.dtype)

        if how == "coarsen":
            even, odd = x_BCN.unflatten(axis, (-1, 2)).unbind(axis + 1)
            even = even + shear(odd, half)
            odd = odd - shear(even, sine)
            even = even + shear(odd, half)
            x_BCN = torch.cat([even, -odd], 1)
        else:
            even, odd = x_BCN[:, :finer], -x_BCN[:, finer:]
            even = even - shear(odd, half)
            odd = odd + shear(even, sine)
            even = even - shear(odd, half)
            x_BCN = torch.stack([even, odd], axis + 1).flatten(axis, axis + 1)
    return x_BCN * spacing


def straight_through(value: Tensor, differentiable: Tensor) -> Tensor:
    return differentiable + (value - differentiable).detach()


def rounded(x: Tensor, spacing: float) -> Tensor:
    return straight_through(torch.round(x.detach() / spacing) * spacing, x) if spacing else x


def hidden(x_BCN: Tensor, kernel: Tensor, layer: Layer, boundary: str) -> Tensor:
    """K x: pad by the cells that NumPy would take, convolve without padding."""
    space, reach = x_BCN.dim() - 2, kernel.shape[0] // 2
    if boundary == "zeros":
        x_BCN = F.pad(x_BCN, [reach] * (2 * space))
    else:
        for axis in range(2, space + 2):
            cells = np.pad(np.arange(x_BCN.shape[axis]), reach, mode=NUMPY_MODE[boundary])  # type: ignore[call-overload]
            x_BCN = x_BCN.index_select(axis, torch.from_numpy(cells))
    weight = kernel.permute(space, space + 1, *range(space))
    return CONVOLVE[space](x_BCN, weight, groups=layer.groups)


def telegraph(
    config: NetworkConfig,
    x_BcN: Tensor,
    kernels: Sequence[Tensor],
    biases: Sequence[Tensor],
    angles: Sequence[Tensor | None] | None = None,
) -> tuple[Tensor, Tensor]:
    """X_L and X_{L+1} of DESIGN 2.1 for kernels [*taps, r, C / groups]."""
    layers, space = parse_layers(config.layers), x_BcN.dim() - 2
    spacing = 2.0**-config.grid if config.exact else 0.0
    steps = config.step if isinstance(config.step, list) else [config.step] * len(layers)
    previous = current = rounded(torch.cat([x_BcN] * config.repeat, dim=1), spacing)
    all_angles = angles or [None] * len(layers)
    for layer, kernel, bias, turn, step in zip(layers, kernels, biases, all_angles, steps, strict=True):
        if layer.resample:
            # What is resampled are the newest state and its increment, which matters where they are rounded.
            increment = current - previous
            both = [resample(state, layer.resample, turn) for state in (current, increment)]
            if spacing:
                whole = [resample_whole(state, layer.resample, turn, spacing) for state in (current, increment)]
                both = [straight_through(value, real) for value, real in zip(whole, both, strict=True)]
            current, previous = both[0], both[0] - both[1]
        z, transposed = torch.func.vjp(
            lambda x, kernel=kernel, layer=layer: hidden(x, kernel, layer, config.boundary), current
        )
        (force,) = transposed(ACTIVATION[config.activation](z + bias.view(-1, *[1] * space)))
        previous, current = current, 2 * current - previous + rounded(-(step**2) * force, spacing)
    return previous, current
