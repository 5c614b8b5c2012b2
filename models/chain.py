"""The reversible chain: all layers as one autograd function that stores no states (DESIGN 2.1 to 2.4).

B batch, C channels, K channels that are read, N space, L layers. Inside, states are channels-last [B, *N, C] and the
leapfrog runs on the newest state and its last increment,

    D_{j+1} = D_j - a_j K^T s(K X_j + b),    X_{j+1} = X_j + D_{j+1},    D_1 = X_1 - X_0 = 0,

which is X_{j+1} = 2 X_j - X_{j-1} - a_j K^T s(K X_j + b) without a copy of X_{j-1}. The backward pass is the same
leapfrog run back, for the states in their own memory and for the adjoint l_j, the gradient with respect to X_j. The
states are evaluated exactly as in the forward pass, never stacked on the adjoint: that returns the same bits, and lets
both be stepped in place.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.activations import Pointwise
from models.arithmetic import Arithmetic, FloatStates, GridStates
from models.config import Resample
from models.pieces import cut_grid
from models.slab import Slab, largest_of_all
from models.symmetric import Pair, SymmetricOperator
from models.watch import Extremes, Watch, check_input, check_layers
from models.wavelet import UNDO, angle_gradient, axes_in_order, resample_in_place, turn_axis

Channels = list[int] | slice


@dataclass(frozen=True)
class ChainLayer:
    """Static part of a layer: its operator, what happens to the grid before it, and the weight a = h^2 of the force.

    Where it `keeps` its hidden layer K X_j + b, the backward pass need not compute it again.
    """

    operator: SymmetricOperator
    resample: Resample
    weight: float
    keeps: bool = False


@dataclass(frozen=True)
class ChainPlan:
    """Static part of a chain, whose weights travel beside it; `watch` receives what each pass sees."""

    layers: tuple[ChainLayer, ...]
    activation: Pointwise
    repeat: int
    arithmetic: Arithmetic
    watch: Watch


def repeated(x_BcN: Tensor, repeat: int) -> Tensor:
    """Bring the input into the state's layout, its channels repeated as a block: [B, *N, repeat c]."""
    x_BNc = x_BcN.movedim(1, -1)
    copies = x_BNc.unsqueeze(-2).expand(*x_BNc.shape[:-1], repeat, x_BNc.shape[-1])
    return copies.reshape(*x_BNc.shape[:-1], -1) if repeat > 1 else x_BNc.contiguous()


def with_weights(plan: ChainPlan, parameters: Sequence[Any]) -> list[tuple[ChainLayer, Tensor, Tensor, Tensor | None]]:
    """Return each layer with its parameters: kernel, bias, and the angles of a learned resampling or none."""
    return list(zip(plan.layers, parameters[::3], parameters[1::3], parameters[2::3], strict=True))


@contextmanager
def _conditions(device: torch.device) -> Iterator[None]:
    """Set what the passes of a chain need: no autocast, kernels that return the same bits again, and no TF32."""
    cudnn: Any = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic, cudnn.conv.fp32_precision
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        if device.type != "cuda":
            yield
            return
        try:
            cudnn.benchmark, cudnn.deterministic, cudnn.conv.fp32_precision = False, True, "ieee"
            yield
        finally:
            cudnn.benchmark, cudnn.deterministic, cudnn.conv.fp32_precision = before


def _hidden(layer: ChainLayer, pair: Pair, kernel: Tensor) -> Tensor:
    """Return K x in real units, about the faces of a slab with what its neighbours have of it."""
    z, unit = layer.operator.join(layer.operator.hidden(pair, kernel), pair), pair.arithmetic.loaded_unit
    return z if unit == 1 else z.mul_(unit)


def _biased(layer: ChainLayer, pair: Pair, kernel: Tensor, bias: Tensor) -> Tensor:
    """Return K x + b; b is added to rows of cells, as few channels alone do not fill a vector."""
    z = _hidden(layer, pair, kernel)
    b = layer.operator.align(bias.to(z.dtype))
    if b.dim() > 1 or not z.is_contiguous():
        return z.add_(b)
    z.flatten(-2).add_(b.repeat(z.shape[-2]))
    return z


def _step_forward(plan: ChainPlan, layer: ChainLayer, pair: Pair, kernel: Tensor, bias: Tensor) -> Tensor:
    """Step the states in place, from j-1 and j to j and j+1; return z = K X_j + b."""
    operator, kernel = layer.operator, kernel.to(pair.arithmetic.force_type(pair.dtype))
    z = _biased(layer, pair, kernel, bias)
    force = plan.activation.value(z).mul_(-layer.weight / pair.arithmetic.loaded_unit)
    operator.advance(pair, operator.spread(operator.shut(force, pair), pair), kernel)
    return z


def _step_back(
    plan: ChainPlan, layer: ChainLayer, states: Pair, adjoint: Pair, kernel: Tensor, bias: Tensor, z: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Step states and adjoint back in place, from j and j+1 to j-1 and j; return the gradients of kernel and bias.

    With z = K X_j + b, where it is kept, and w = K l_{j+1}, the force of the adjoint is -a K^T (s'(z) w), and the
    gradient of the kernel correlates X_j with s'(z) w and l_{j+1} with s(z).
    """
    operator, unit = layer.operator, states.arithmetic.loaded_unit
    kernel = kernel.to(states.arithmetic.force_type(states.dtype))
    if z is None:
        z = _biased(layer, states, kernel, bias)
    pushed = plan.activation.slope(z).mul_(_hidden(layer, adjoint, kernel)).mul_(-layer.weight)
    bias_gradient = operator.bias_gradient(operator.own(pushed, adjoint))
    # The force of the states goes in their own units, so both products for the kernel have the same unit to undo.
    force = operator.shut(plan.activation.value(z).mul_(-layer.weight / unit), states)
    force = operator.spread(force, states)
    pushed = operator.spread(operator.shut(pushed, adjoint), adjoint)
    kernel_gradient = operator.weight_gradient(states, pushed, kernel)
    kernel_gradient = kernel_gradient.add_(operator.weight_gradient(adjoint, force, kernel)).mul_(unit)
    operator.advance(states, force, kernel)
    operator.advance(adjoint, pushed, kernel)
    return kernel_gradient, bias_gradient


def _run_forward(
    plan: ChainPlan, x_BcN: Tensor, parameters: Sequence[Any], slab: Slab | None, kept: list[Tensor] | None = None
) -> Pair:
    """Run all layers in place on one copy of the input; returns X_{L+1} and D_{L+1}, and appends what is kept."""
    grid = plan.arithmetic if isinstance(plan.arithmetic, GridStates) else None
    if grid is not None:
        check_input(grid, x_BcN, slab)
    x = repeated(x_BcN, plan.repeat)
    if grid is not None or x.data_ptr() == x_BcN.data_ptr():
        x = plan.arithmetic.encode(x)
    pair = Pair(x, torch.zeros_like(x), plan.arithmetic, x_BcN.dtype, slab=slab)
    extremes: list[Extremes] = []
    for layer, kernel, bias, angles in with_weights(plan, parameters):
        pair.state = resample_in_place(pair.state, layer.resample, angles)
        pair.increment = resample_in_place(pair.increment, layer.resample, angles)
        if grid is not None:
            pair.extremes = Extremes()
            extremes.append(pair.extremes)
            if layer.resample:
                pair.extremes.states += pair.state.aminmax()
        z = _step_forward(plan, layer, pair, kernel, bias)
        if layer.keeps and kept is not None:
            kept.append(z)
        del z
    if grid is not None:
        check_layers(grid, extremes, slab)
        pair.extremes = None
    return pair


def _read(pair: Pair, channels: Channels | None) -> Tensor:
    """Copy the channels that are read from the newest state: [B, K, *N]."""
    chosen = pair.state if channels is None else pair.state[..., channels]
    return pair.arithmetic.decode(chosen, pair.dtype).movedim(-1, 1)


class ReversibleChain(torch.autograd.Function):
    """All layers at once: ``apply(plan, channels, slab, x, kernel_1, bias_1, angles_1, ...)`` gives [B, K, *N].

    Kept for the backward pass are x, the last state, its increment, the parameters, and the hidden layers that the plan
    keeps. Parameters are inputs, so that data-parallel wrappers see their gradients.
    """

    @staticmethod
    def forward(
        ctx: Any,
        plan: ChainPlan,
        channels: Channels | None,
        slab: Slab | None,
        x_BcN: Tensor,
        *parameters: Tensor | None,
    ) -> Tensor:
        with _conditions(x_BcN.device):
            ctx.kept = [] if any(ctx.needs_input_grad) else None
            ctx.pair = _run_forward(plan, x_BcN, parameters, slab, ctx.kept)
            out = _read(ctx.pair, channels)
        ctx.plan, ctx.channels = plan, channels
        ctx.save_for_backward(x_BcN, *parameters)
        return out

    @staticmethod
    @torch.compiler.disable  # the engine calls it from within a compiled step, which would trace the loop over layers
    def backward(ctx: Any, g_BKN: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "second derivatives of a telegraph network are not available: its backward pass is written by hand; "
                "call backward or autograd.grad without create_graph"
            )
        plan, pair = ctx.plan, ctx.pair
        if pair is None:
            raise RuntimeError(
                "the backward pass of a telegraph network runs its states back in place, so it can be taken once for "
                "each forward pass; call the network again before a second backward"
            )
        kept, ctx.pair, ctx.kept = ctx.kept, None, None
        x_BcN, *parameters = ctx.saved_tensors
        with _conditions(x_BcN.device):
            pair.state.sub_(pair.increment)
            pair.increment.neg_()
            adjoint, power = _start_adjoint(pair, g_BKN, ctx.channels)
            gradients = _run_back(plan, pair, adjoint, parameters, kept)
            plan.watch.error = _inversion_error(plan, x_BcN, pair)
            g_x_BcN = None
            if ctx.needs_input_grad[3]:
                # S_0 holds l_1 and the increment l_1 - l_2, the gradient of x, summed over its repeats.
                g_x_BcN = adjoint.increment.unflatten(-1, (plan.repeat, -1)).sum(-2).movedim(-1, 1)
            if power != 1:
                for gradient in (g_x_BcN, *gradients):
                    if gradient is not None:
                        gradient.div_(power)
        typed = (None if g is None else g.to(p.dtype) for g, p in zip(gradients, parameters, strict=True))
        return None, None, None, g_x_BcN, *typed


def _start_adjoint(pair: Pair, g_BKN: Tensor, channels: Channels | None) -> tuple[Pair, float]:
    """Return l_{L+1} = g and its increment, which is g too, and the power of two by which they were multiplied.

    float16 ends at 6e-8: there the gradient is brought near 1 first.
    """
    force_dtype, power = pair.arithmetic.force_dtype, 1.0
    if force_dtype is torch.float16:
        largest = float(largest_of_all(g_BKN.abs().max(), pair.slab))
        if 0 < largest < math.inf:
            power = 2.0 ** -math.floor(math.log2(largest))
    state = torch.zeros(pair.state.shape, dtype=pair.dtype, device=pair.state.device)
    g_BNK = g_BKN.movedim(1, -1) if power == 1 else g_BKN.movedim(1, -1) * power
    if channels is None:
        state.copy_(g_BNK)
    else:
        state[..., channels] = g_BNK
    return Pair(state, state.clone(), FloatStates(force_dtype), pair.dtype, slab=pair.slab), power


def _run_back(
    plan: ChainPlan, pair: Pair, adjoint: Pair, parameters: Sequence[Any], kept: list[Tensor]
) -> list[Tensor | None]:
    """Step all layers back and use up what was kept; returns the gradients of the parameters in their order."""
    gradients: list[Tensor | None] = []
    for layer, kernel, bias, angles in reversed(with_weights(plan, parameters)):
        kernel_gradient, bias_gradient = _step_back(
            plan, layer, pair, adjoint, kernel, bias, kept.pop() if layer.keeps else None
        )
        angles_gradient = _resample_back(layer.resample, pair, adjoint, angles)
        gradients += [angles_gradient, bias_gradient, kernel_gradient]
    return gradients[::-1]


def _resample_back(how: Resample, pair: Pair, adjoint: Pair, angles_dC: Tensor | None) -> Tensor | None:
    """Undo a layer's resampling of states and adjoint, axis by axis; return the gradient of its angles."""
    if not how:
        return None
    space, gradient = pair.state.dim() - 2, None if angles_dC is None else torch.empty_like(angles_dC)
    for axis in reversed(axes_in_order(how, space)):
        if gradient is not None:
            found = angle_gradient(pair, adjoint, axis, how)
            gradient[axis - 1] = found.view(-1, gradient.shape[1]).sum(0)
        # The rounded turn took X_j and D_j, not X_{j-1}: that is what it is undone on.
        pair.state.sub_(pair.increment)
        for side in (pair, adjoint):
            side.state = turn_axis(side.state, axis, UNDO[how], angles_dC)
            side.increment = turn_axis(side.increment, axis, UNDO[how], angles_dC)
        pair.state.add_(pair.increment)
    return gradient


def _inversion_error(plan: ChainPlan, x_BcN: Tensor, pair: Pair) -> Tensor:
    """Return the relative error of the recovered input X_0, piece by piece; 0 where it has the same bits."""
    x_BNc = x_BcN.movedim(1, -1)
    sums = x_BcN.new_zeros(2, dtype=torch.float64)
    wrong, scale = sums
    cells = pair.state.shape[-1] * pair.state.element_size()
    for where in cut_grid(x_BNc.shape[0], x_BNc.shape[1:-1], cells, x_BNc.device.type):
        true = plan.arithmetic.encode(x_BNc[where]).unsqueeze(-2)
        difference = pair.state[where].unflatten(-1, (plan.repeat, -1)) - true
        wrong += plan.arithmetic.decode(difference, pair.dtype).square().sum(dtype=torch.float64)
        scale += x_BNc[where].square().sum(dtype=torch.float64) * plan.repeat  # a norm of all would copy it to float64
    wrong, scale = sums if pair.slab is None else pair.slab.over_all(sums, "sum")
    return wrong.sqrt() / scale.sqrt().clamp_min(torch.finfo(torch.float32).tiny)


@torch.compiler.disable
def run(
    plan: ChainPlan,
    x_BcN: Tensor,
    parameters: Sequence[Tensor | None],
    channels: Channels | None = None,
    slab: Slab | None = None,
) -> Tensor:
    """Run all layers, with a backward pass where gradients are enabled; returns what is read of X_{L+1}, [B, K, *N].

    Parameters
    ----------
    plan, x_BcN
        Static part of the chain, and its input [B, c, *N].
    parameters
        Kernel, bias and angles (or none) of each layer in turn.
    channels, slab
        As in `TelegraphNetwork.forward`; of the gradients of the parameters, each slab gets its part of a sum.
    """
    if torch.is_grad_enabled():
        return ReversibleChain.apply(plan, channels, slab, x_BcN, *parameters)
    with _conditions(x_BcN.device):
        return _read(_run_forward(plan, x_BcN, parameters, slab), channels)
