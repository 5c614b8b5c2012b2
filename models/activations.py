"""Pointwise activations s and their derivatives s', by name."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from models.config import Activation


@dataclass(frozen=True)
class Pointwise:
    """An activation s(z) and its slope s'(z); for ReLU the subgradient 0 at z = 0, as PyTorch takes it."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


def _relu_slope(z: Tensor) -> Tensor:
    return (z > 0).to(z.dtype)


def _tanh_slope(z: Tensor) -> Tensor:
    return 1 - torch.tanh(z).square()


def _softplus(z: Tensor) -> Tensor:
    # PyTorch turns linear at 20 by default, 2e-9 off its own slope; from 40 on the difference is below float64's reach.
    return F.softplus(z, threshold=40.0)


ACTIVATIONS: dict[Activation, Pointwise] = {
    "relu": Pointwise(F.relu, _relu_slope),
    "softplus": Pointwise(_softplus, torch.sigmoid),
    "tanh": Pointwise(torch.tanh, _tanh_slope),
}
