"""The reversible chain: all layers as one autograd function that stores no activations (DESIGN 2.1 to 2.3).

B batch, C channels, N space, L layers. Inside, states are channels-last [B, *N, C] and the leapfrog runs on the newest
state and its last increment,

    D_{j+1} = D_j - a K^T s(K X_j + b),    X_{j+1} = X_j + D_{j+1},    D_1 = X_1 - X_0 = 0,

which is X_{j+1} = 2 X_j - X_{j-1} - a K^T s(K X_j + b) without a copy of X_{j-1}. The backward pass is the same
leapfrog run back on the doubled batch S_j = [X_j ; l_{j+1}], l_j the gradient with respect to X_j.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.activations import Pointwise
from models.config import Resample
from models.symmetric import Convolution, SymmetricOperator
from models.wavelet import coarsen, refine, resample_in_place

_RESAMPLE: dict[Resample, Callable[[Tensor], Tensor]] = {"coarsen": coarsen, "refine": refine}
_UNDO: dict[Resample, Resample] = {"": "", "coarsen": "refine", "refine": "coarsen"}


@dataclass
class InversionRecord:
    """Where the backward pass leaves the relative error of the input it recovered: a 0-d tensor, read when wanted."""

    error: Tensor | None = None


@dataclass(frozen=True)
class ChainLayer:
    """Static part of a layer: the form of its operator, and the resampling before it."""

    operator: SymmetricOperator
    resample: Resample


@dataclass(frozen=True)
class ChainPlan:
    """Static part of a chain; its weights travel beside it.

    Attributes
    ----------
    layers
        The layers in order.
    activation
        Pointwise s.
    weight
        a = h^2, the weight of the force.
    repeat
        How often the input's channels are repeated to make the state's.
    force_dtype
        Precision of the force; none means that of the states.
    record
        Receives the inversion error of each backward pass.
    """

    layers: tuple[ChainLayer, ...]
    activation: Pointwise
    weight: float
    repeat: int = 1
    force_dtype: torch.dtype | None = None
    record: InversionRecord = field(default_factory=InversionRecord)


def _spare(plan: ChainPlan, state: Tensor) -> Tensor:
    """Return memory for the resamplings of a chain; none is needed where it has none."""
    needed = any(layer.resample for layer in plan.layers)
    return torch.empty_like(state) if needed else state.new_empty(0)


def repeated(x_BcN: Tensor, repeat: int) -> Tensor:
    """Bring the input into the state's layout, its channels repeated as a block: [B, *N, repeat c]."""
    x_BNc = x_BcN.movedim(1, -1)
    copies = x_BNc.unsqueeze(-2).expand(*x_BNc.shape[:-1], repeat, x_BNc.shape[-1])
    return copies.reshape(*x_BNc.shape[:-1], -1) if repeat > 1 else x_BNc.contiguous()


def _force_input(plan: ChainPlan, *tensors: Tensor) -> list[Tensor]:
    return [tensor if plan.force_dtype is None else tensor.to(plan.force_dtype) for tensor in tensors]


def _step_forward(
    plan: ChainPlan, layer: ChainLayer, x: Tensor, increment: Tensor, kernel: Tensor, bias: Tensor
) -> None:
    """Take one leapfrog step in place."""
    operator = layer.operator
    x_force, kernel, bias = _force_input(plan, x, kernel, bias)
    z = operator.hidden(x_force, kernel) + operator.align(bias)
    operator.add_transpose(increment, operator.spread(plan.activation.value(z) * -plan.weight), kernel)
    x.add_(increment)


def _step_back(
    plan: ChainPlan, layer: ChainLayer, state: Tensor, increment: Tensor, kernel: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Step the doubled batch back in place, from S_j to S_{j-1}; return the gradients of kernel and bias."""
    operator = layer.operator
    state_force, kernel_force, bias_force = _force_input(plan, state, kernel, bias)
    z, w = operator.hidden(state_force, kernel_force).chunk(2, dim=operator.batch_axis)
    z = z + operator.align(bias_force)
    pushed = plan.activation.slope(z) * w
    # The factor -a belongs to both gradients and to the force: applied once, to the thin hidden tensor.
    both = torch.cat([plan.activation.value(z), pushed], dim=operator.batch_axis).mul_(-plan.weight)
    u = operator.spread(both)
    kernel_gradient = operator.weight_gradient(state_force, u, kernel_force).to(kernel.dtype)
    bias_gradient = operator.bias_gradient(both.chunk(2, dim=operator.batch_axis)[1]).to(bias.dtype)
    operator.add_transpose(increment, u, kernel_force)
    state.add_(increment)
    return kernel_gradient, bias_gradient


def _run_forward(plan: ChainPlan, x_BcN: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Run all layers in place on one copy of the input; returns X_L and X_{L+1}, channels-last."""
    x = repeated(x_BcN, plan.repeat)
    if x.data_ptr() == x_BcN.data_ptr():
        x = x.clone()
    increment = torch.zeros_like(x)
    spare = _spare(plan, x)
    for layer, kernel, bias in zip(plan.layers, parameters[::2], parameters[1::2], strict=True):
        x, spare = resample_in_place(x, layer.resample, spare)
        increment, spare = resample_in_place(increment, layer.resample, spare)
        _step_forward(plan, layer, x, increment, kernel, bias)
    return torch.sub(x, increment, out=increment), x


class ReversibleChain(torch.autograd.Function):
    """All layers at once: ``apply(plan, x, kernel_1, bias_1, kernel_2, ...)`` gives X_L and X_{L+1}, [B, C, *N].

    Stored for the backward pass are x, the two outputs and the parameters, at any depth. Parameters are inputs and
    their gradients are returned, so that data-parallel wrappers see them.
    """

    @staticmethod
    def forward(ctx: Any, plan: ChainPlan, x_BcN: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        previous, newest = (state.movedim(-1, 1) for state in _run_forward(plan, x_BcN, parameters))
        ctx.plan = plan
        ctx.save_for_backward(x_BcN, previous, newest, *parameters)
        ctx.set_materialize_grads(False)
        return previous, newest

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_previous: Tensor | None, g_newest: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: D102
        plan: ChainPlan = ctx.plan
        x_BcN, previous, newest, *parameters = ctx.saved_tensors
        state, increment = _start_back(previous, newest, g_previous, g_newest)
        del previous, newest, g_previous, g_newest
        spare = _spare(plan, state)
        gradients: list[Tensor] = []
        for layer, kernel, bias in zip(reversed(plan.layers), parameters[-2::-2], parameters[::-2], strict=True):
            kernel_gradient, bias_gradient = _step_back(plan, layer, state, increment, kernel, bias)
            gradients += [bias_gradient, kernel_gradient]
            state, spare = resample_in_place(state, _UNDO[layer.resample], spare)
            increment, spare = resample_in_place(increment, _UNDO[layer.resample], spare)
        g_x_BcN = _finish_back(plan, x_BcN, state, increment)
        return None, g_x_BcN if ctx.needs_input_grad[1] else None, *reversed(gradients)


def _start_back(
    previous: Tensor, newest: Tensor, g_previous: Tensor | None, g_newest: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Stack S_L = [X_L ; g_{L+1}] and its increment S_L - S_{L+1}, where S_{L+1} = [X_{L+1} ; -g_L]."""
    batch, channels, *sizes = newest.shape
    state = newest.new_empty(2 * batch, *sizes, channels)
    increment = torch.empty_like(state)
    state[:batch].copy_(previous.movedim(1, -1))
    torch.sub(state[:batch], newest.movedim(1, -1), out=increment[:batch])
    for half in (state[batch:], increment[batch:]):
        if g_newest is None:
            half.zero_()
        else:
            half.copy_(g_newest.movedim(1, -1))
    if g_previous is not None:
        increment[batch:].add_(g_previous.movedim(1, -1))
    return state, increment


def _finish_back(plan: ChainPlan, x_BcN: Tensor, state: Tensor, increment: Tensor) -> Tensor:
    """Record the inversion error from S_0 = [X_0 ; l_1] and return the gradient of x, l_1 - l_2 summed over repeats."""
    batch, channels = x_BcN.shape[:2]
    copies = (plan.repeat, channels)
    x_BNc = x_BcN.movedim(1, -1)
    recovered = state[:batch].unflatten(-1, copies).sub_(x_BNc.unsqueeze(-2))
    scale = torch.linalg.vector_norm(x_BNc) * plan.repeat**0.5
    plan.record.error = torch.linalg.vector_norm(recovered) / scale.clamp_min(torch.finfo(scale.dtype).tiny)
    return increment[batch:].unflatten(-1, copies).sum(-2).movedim(-1, 1)


def run(plan: ChainPlan, x_BcN: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Run all layers in place where no gradient is wanted; returns X_{L+1}, [B, C, *N]."""
    return _run_forward(plan, x_BcN, parameters)[1].movedim(-1, 1)


def unrolled(plan: ChainPlan, x_BcN: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Run the same layers out of place, for `torch.export` and for a comparison with plain autograd.

    Parameters
    ----------
    plan
        Static part of the chain.
    x_BcN
        Input [B, c, *N].
    parameters
        Kernel and bias of each layer in turn.

    Returns
    -------
    tuple of Tensor
        X_L and X_{L+1}, [B, C, *N].
    """
    x = repeated(x_BcN, plan.repeat)
    increment = torch.zeros_like(x)
    for layer, kernel, bias in zip(plan.layers, parameters[::2], parameters[1::2], strict=True):
        x, increment = unrolled_step(plan, layer, x, increment, kernel, bias)
    return (x - increment).movedim(-1, 1), x.movedim(-1, 1)


def unrolled_step(
    plan: ChainPlan, layer: ChainLayer, x: Tensor, increment: Tensor, kernel: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Take one layer's resampling and leapfrog step out of place, by convolutions, whose graphs stay small."""
    if layer.resample:
        x, increment = _RESAMPLE[layer.resample](x), _RESAMPLE[layer.resample](increment)
    operator = Convolution(layer.operator.space, layer.operator.edge)
    x_force, kernel, bias = _force_input(plan, x, kernel, bias)
    z = operator.hidden(x_force, kernel) + operator.align(bias)
    force = operator.transpose(plan.activation.value(z), kernel, x.shape)
    increment = increment - plan.weight * force.to(x.dtype)
    return x + increment, increment
