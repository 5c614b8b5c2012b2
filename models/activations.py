"""Pointwise activations s and their derivatives s', by name."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from models.config import Activation


@dataclass(frozen=True)
class Pointwise:
    """An activation s(z), the same in the memory of z, and s'(z) w in that of w; for ReLU s'(0) = 0, as in PyTorch."""

    value: Callable[[Tensor], Tensor]
    push: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor, Tensor], Tensor]


def _relu_pull(w: Tensor, z: Tensor) -> Tensor:
    result: Tensor = torch.ops.aten.threshold_backward.grad_input(w, z, 0, grad_input=w)
    return result


def _tanh_pull(w: Tensor, z: Tensor) -> Tensor:
    return w.addcmul_(w, torch.tanh(z).square_(), value=-1)


def _softplus_pull(w: Tensor, z: Tensor) -> Tensor:
    return w.mul_(torch.sigmoid(z))


def _softplus(z: Tensor) -> Tensor:
    # PyTorch turns linear at 20 by default, 2e-9 off its own slope; from 40 on the difference is below float64's reach.
    return F.softplus(z, threshold=40.0)


ACTIVATIONS: dict[Activation, Pointwise] = {
    "relu": Pointwise(F.relu, torch.relu_, _relu_pull),
    "softplus": Pointwise(_softplus, lambda z: z.copy_(_softplus(z)), _softplus_pull),
    "tanh": Pointwise(torch.tanh, torch.tanh_, _tanh_pull),
}
