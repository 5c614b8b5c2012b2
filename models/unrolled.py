"""The same layers out of place, in operations that PyTorch differentiates, exports and traces by itself.

For `torch.export`, ONNX, and comparisons with plain autograd. B batch, C channels, N space.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from models.arithmetic import Arithmetic, GridStates
from models.chain import repeated, with_weights
from models.convolution import Convolution
from models.leapfrog import ChainLayer, ChainPlan
from models.wavelet import coarsen, refine


def unrolled(plan: ChainPlan, x_BcN: Tensor, parameters: Sequence[Any]) -> Tensor:
    """Run all layers out of place, by convolutions, whose graphs stay small; states on a grid are floats here.

    Returns X_{L+1}, [B, C, *N]; the arguments are those of `chain.run`.
    """
    x = on_grid(plan.arithmetic, repeated(x_BcN, plan.repeat))
    increment = torch.zeros_like(x)
    for layer, kernel, bias, angles in with_weights(plan, parameters):
        x, increment = unrolled_step(plan, layer, x, increment, kernel, bias, angles)
    return x.movedim(-1, 1)


def unrolled_step(
    plan: ChainPlan,
    layer: ChainLayer,
    x: Tensor,
    increment: Tensor,
    kernel: Tensor,
    bias: Tensor,
    angles: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Take one layer's resampling and leapfrog step out of place."""
    if layer.resample:
        resample = coarsen if layer.resample == "coarsen" else refine
        x, increment = (on_grid(plan.arithmetic, resample(state, angles)) for state in (x, increment))
    form = layer.operator
    operator = Convolution(form.space, form.edge, form.boundary, form.groups)
    kernel, bias = (weight.to(plan.arithmetic.force_type(x.dtype)) for weight in (kernel, bias))
    z = operator.convolved(x.to(kernel.dtype), kernel) + operator.align(bias)
    force = operator.transpose(plan.activation.value(z), kernel)
    increment = increment - on_grid(plan.arithmetic, layer.weight * force.to(x.dtype))
    return x + increment, increment


def on_grid(arithmetic: Arithmetic, x: Tensor) -> Tensor:
    """Round to the grid of exact states; gradients pass the rounding straight through."""
    if not isinstance(arithmetic, GridStates):
        return x
    return x + (torch.round(x / arithmetic.spacing) * arithmetic.spacing - x).detach()
