"""The reversible chain: all layers as one autograd function that stores no states.

B batch, C channels, K channels that are read, N space, L layers. Inside, states are channels-last [B, *N, C] and the
leapfrog runs on the newest state and its last increment,

    D_{j+1} = D_j - a_j K^T s(K X_j + b),    X_{j+1} = X_j + D_{j+1},    D_1 = X_1 - X_0 = 0,

which is X_{j+1} = 2 X_j - X_{j-1} - a_j K^T s(K X_j + b) without a copy of X_{j-1}. The backward pass is the same
leapfrog run back, for the states in their own memory and for the adjoint l_j, the gradient with respect to X_j. The
states are evaluated as in the forward pass, never stacked on the adjoint: that returns the same bits.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from models.arithmetic import FloatStates, GridStates
from models.conditions import conditions
from models.leapfrog import (
    ChainLayer,
    ChainPlan,
    add_bias,
    read_back,
    read_forward,
    resample_back,
    step_back,
    step_forward,
)
from models.pieces import cut_grid
from models.shelf import Shelf
from models.slab import Slab, largest_of_all
from models.stream import AT_ONCE, Parts
from models.symmetric import Pair
from models.watch import Extremes, check_input, check_layers

Channels = list[int] | slice


def repeated(x_BcN: Tensor, repeat: int) -> Tensor:
    """Bring the input into the state's layout, its channels repeated as a block: [B, *N, repeat c]."""
    x_BNc = x_BcN.movedim(1, -1)
    copies = x_BNc.unsqueeze(-2).expand(*x_BNc.shape[:-1], repeat, x_BNc.shape[-1])
    return copies.reshape(*x_BNc.shape[:-1], -1) if repeat > 1 else x_BNc.contiguous()


def with_weights(plan: ChainPlan, parameters: Sequence[Any]) -> list[tuple[ChainLayer, Tensor, Tensor, Tensor | None]]:
    """Return each layer with its parameters: kernel, bias, and the angles of a learned resampling or none."""
    return list(zip(plan.layers, parameters[::3], parameters[1::3], parameters[2::3], strict=True))


def _run_forward(
    plan: ChainPlan, x_BcN: Tensor, parameters: Sequence[Any], parts: Parts, kept: list[Tensor] | None = None
) -> Shelf:
    """Run all layers in place on one copy of the input; returns X_{L+1} and D_{L+1}, and appends what is kept."""
    grid = plan.arithmetic if isinstance(plan.arithmetic, GridStates) else None
    if grid is not None:
        check_input(grid, x_BcN, parts.slab)
    device = parameters[0].device
    shelf = parts.shelf(device)
    for rows, place in zip(parts.rows, parts.places(), strict=True):
        mine = x_BcN[:, :, rows].to(device)
        x = repeated(mine, plan.repeat)
        if grid is not None or x.data_ptr() == x_BcN[:, :, rows].data_ptr():
            x = plan.arithmetic.encode(x)
        x = x.contiguous()
        shelf.add(Pair(x, torch.zeros_like(x), plan.arithmetic, x_BcN.dtype, slab=place))
        del mine, x
    extremes: list[Extremes] = []
    for layer, kernel, bias, angles in with_weights(plan, parameters):
        kernel = kernel.to(plan.arithmetic.force_type(x_BcN.dtype))
        extremes.append(Extremes())
        read = partial(read_forward, layer, kernel, angles, extremes[-1] if grid is not None else None)
        for (pair,), thin in shelf.turns(layer.operator, read):
            add_bias(layer, thin[0], bias)
            if layer.keeps and kept is not None:
                kept.append(thin[0].clone())
            step_forward(plan, layer, pair, kernel, thin)
            pair.extremes = None
    if grid is not None:
        check_layers(grid, extremes, parts.slab)
    return shelf


def _read(x_BcN: Tensor, shelf: Shelf, parts: Parts, channels: Channels | None) -> Tensor:
    out_BNK, size = torch.empty(0), shelf.rows
    for rows, (pair,) in zip(parts.on(size), shelf.each(), strict=True):
        chosen = pair.state if channels is None else pair.state[..., channels]
        found = pair.arithmetic.decode(chosen, pair.dtype)
        if not parts.in_turns:
            out_BNK = found
            continue
        if not rows.start:
            out_BNK = found.new_empty(found.shape[0], size, *found.shape[2:], device=x_BcN.device)
        out_BNK[:, rows] = found
    return out_BNK.movedim(-1, 1)


class ReversibleChain(torch.autograd.Function):
    """All layers at once: ``apply(plan, channels, parts, x, kernel_1, bias_1, angles_1, ...)`` gives [B, K, *N].

    Kept for the backward pass are x, the last state, its increment, the parameters, and where x is worked on at once
    the hidden layers that the plan keeps. Parameters are inputs, so that data-parallel wrappers see their gradients.
    """

    @staticmethod
    def forward(
        ctx: Any,
        plan: ChainPlan,
        channels: Channels | None,
        parts: Parts,
        x_BcN: Tensor,
        *parameters: Any,
    ) -> Tensor:
        with conditions(parameters[0].device):
            ctx.kept = [] if any(ctx.needs_input_grad) and not parts.in_turns else None
            ctx.shelf = _run_forward(plan, x_BcN, parameters, parts, ctx.kept)
            out = _read(x_BcN, ctx.shelf, parts, channels)
        ctx.plan, ctx.channels, ctx.parts = plan, channels, parts
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
        plan, parts, shelf = ctx.plan, ctx.parts, ctx.shelf
        if shelf is None:
            raise RuntimeError(
                "the backward pass of a telegraph network runs its states back in place, so it can be taken once for "
                "each forward pass; call the network again before a second backward"
            )
        kept, ctx.shelf, ctx.kept = ctx.kept, None, None
        x_BcN, *parameters = ctx.saved_tensors
        device = parameters[0].device
        with conditions(device):
            power = _power(plan, g_BKN, parts.slab)
            for rows, sides in zip(parts.on(g_BKN.shape[2]), shelf.each(), strict=True):
                sides.append(_start_adjoint(sides[0], g_BKN[:, :, rows], ctx.channels, power))
            gradients = _run_back(plan, shelf, x_BcN.dtype, parameters, kept)
            g_x_BcN = torch.empty_like(x_BcN) if ctx.needs_input_grad[3] else None
            plan.watch.error = _finish_back(plan, shelf, x_BcN, parts, device, g_x_BcN)
            if power != 1:
                for gradient in (g_x_BcN, *gradients):
                    if gradient is not None:
                        gradient.div_(power)
        typed = (None if g is None else g.to(p.dtype) for g, p in zip(gradients, parameters, strict=True))
        return None, None, None, g_x_BcN, *typed


def _power(plan: ChainPlan, g_BKN: Tensor, slab: Slab | None) -> float:
    """Return the power of two that brings a gradient near 1 for a force in float16, which ends at 6e-8; else 1."""
    if plan.arithmetic.force_dtype is not torch.float16:
        return 1.0
    largest = float(largest_of_all(g_BKN.abs().max(), slab))
    return 2.0 ** -math.floor(math.log2(largest)) if 0 < largest < math.inf else 1.0


def _start_adjoint(pair: Pair, g_BKN: Tensor, channels: Channels | None, power: float) -> Pair:
    """Turn the states of a slab round; return l_{L+1} = g times a power of two, and its increment, which is g too."""
    pair.state.sub_(pair.increment)
    pair.increment.neg_()
    state = torch.zeros(pair.state.shape, dtype=pair.dtype, device=pair.state.device)
    g_BNK = g_BKN.movedim(1, -1).to(state.device)
    state[..., slice(None) if channels is None else channels] = g_BNK if power == 1 else g_BNK * power
    return Pair(state, state.clone(), FloatStates(pair.arithmetic.force_dtype), pair.dtype, slab=pair.slab)


def _run_back(
    plan: ChainPlan, shelf: Shelf, dtype: torch.dtype, parameters: Sequence[Any], kept: list[Tensor] | None
) -> list[Tensor | None]:
    """Step all layers back and use up what was kept; returns the gradients of the parameters in their order."""
    gradients: list[Tensor | None] = []
    for layer, kernel, bias, angles in reversed(with_weights(plan, parameters)):
        kernel = kernel.to(plan.arithmetic.force_type(dtype))
        found: list[Any] = []
        for sides, thin in shelf.turns(layer.operator, partial(read_back, layer, kernel, kept)):
            if kept is None or not layer.keeps:
                add_bias(layer, thin[0], bias)
            of_part = step_back(plan, layer, sides, kernel, thin)
            of_part.append(resample_back(layer.resample, sides, angles))
            found = [a if b is None else b.add_(a) for a, b in zip(of_part, found, strict=True)] if found else of_part
            del of_part
        gradients[:0] = found
    return gradients


def _finish_back(
    plan: ChainPlan, shelf: Shelf, x_BcN: Tensor, parts: Parts, device: torch.device, g_x_BcN: Tensor | None
) -> Tensor:
    """Write the gradient of the input; return the relative error of the recovered X_0, 0 where it has the same bits."""
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    wrong, scale = sums
    for rows, (pair, adjoint) in zip(parts.rows, shelf.each(), strict=True):
        x_BNc = x_BcN[:, :, rows].movedim(1, -1)
        cells = 4 * pair.state.shape[-1] * pair.state.element_size()  # a piece is held four times over
        for where in cut_grid(x_BNc.shape[0], x_BNc.shape[1:-1], cells, device.type):
            mine = x_BNc[where].to(device)
            true = plan.arithmetic.encode(mine).unsqueeze(-2)
            difference = pair.state[where].unflatten(-1, (plan.repeat, -1)) - true
            # By rows first: what is summed in float64 is copied to it.
            wrong += plan.arithmetic.decode(difference, pair.dtype).square().sum((-2, -1)).sum(dtype=torch.float64)
            scale += mine.square().sum((-2, -1)).sum(dtype=torch.float64) * plan.repeat
        if g_x_BcN is not None:
            # S_0 holds l_1 and the increment l_1 - l_2, the gradient of x, summed over its repeats.
            g_x_BcN[:, :, rows] = adjoint.increment.unflatten(-1, (plan.repeat, -1)).sum(-2).movedim(-1, 1)
        del pair, adjoint
    wrong, scale = sums if parts.slab is None else parts.slab.over_all(sums, "sum")
    return wrong.sqrt() / scale.sqrt().clamp_min(torch.finfo(torch.float32).tiny)


@torch.compiler.disable
def run(
    plan: ChainPlan,
    x_BcN: Tensor,
    parameters: Sequence[Any],
    channels: Channels | None = None,
    parts: Parts = AT_ONCE,
) -> Tensor:
    """Run all layers, with a backward pass where gradients are enabled; returns what is read of X_{L+1}, [B, K, *N].

    Parameters
    ----------
    plan, x_BcN
        Static part of the chain, and its input [B, c, *N], in turns possibly on another device than the parameters.
    parameters
        Kernel, bias and angles (or none) of each layer in turn.
    channels, parts
        What is read, as in `TelegraphNetwork.forward`, and how the rows are worked on; of the gradients of the
        parameters, a slab whose others are on other ranks gets its part of a sum.
    """
    if torch.is_grad_enabled():
        return ReversibleChain.apply(plan, channels, parts, x_BcN, *parameters)
    with conditions(parameters[0].device):
        return _read(x_BcN, _run_forward(plan, x_BcN, parameters, parts), parts, channels)
