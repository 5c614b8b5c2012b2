"""Orthogonal transform over the space axes: coarsen and refine, with Haar's angle or a learned one.

B batch, N space, C channels last. One axis after the other, neighbours (even, odd) are turned into (low, high):

    low = cos t even + sin t odd,    high = sin t even - cos t odd,    t = 45 degrees for Haar,

which is its own inverse. The 2^d bands come out band-major, the mean band first, so that the first C channels of a
coarse state are the block means times 2^(d/2). A learned transform has an angle for each axis and channel of the finer
grid, so it stays orthogonal whatever the optimiser does.

On a grid of whole numbers the turn is factored into three rounded shears (lifting), each of which is undone exactly:
even += [tan(t/2) odd],  odd -= [sin t even],  even += [tan(t/2) odd],  (low, high) = (even, -odd).
"""

import math

import torch
from torch import Tensor

from models.config import Resample
from models.pieces import cut_cells
from models.symmetric import Pair

UNDO: dict[Resample, Resample] = {"": "", "coarsen": "refine", "refine": "coarsen"}
_HAAR = math.pi / 4


def axes_in_order(how: Resample, space: int) -> range:
    """Return the axes in the order in which they are coarsened (last first) or refined (first first)."""
    return range(space, 0, -1) if how == "coarsen" else range(1, space + 1)


def coarsen(x_BNC: Tensor, angles_dC: Tensor | None = None) -> Tensor:
    """Coarsen a state [B, *N, C], every size of N even, to [B, *N/2, 2^d C]; orthogonal, so its transpose undoes it.

    The angles, for each axis and channel, are those beyond 45 degrees, in radians; none is Haar.
    """
    for axis in axes_in_order("coarsen", x_BNC.dim() - 2):
        even, odd = x_BNC.unflatten(axis, (-1, 2)).unbind(axis + 1)
        x_BNC = torch.cat(_turned(even, odd, axis, angles_dC), dim=-1)
    return x_BNC


def refine(x_BNC: Tensor, angles_dC: Tensor | None = None) -> Tensor:
    """Undo `coarsen`: a state [B, *N, 2^d C] becomes [B, *2N, C], with the angles of the finer grid's channels."""
    for axis in axes_in_order("refine", x_BNC.dim() - 2):
        low, high = x_BNC.chunk(2, dim=-1)
        x_BNC = torch.stack(_turned(low, high, axis, angles_dC), dim=axis + 1).flatten(axis, axis + 1)
    return x_BNC


def _turned(a: Tensor, b: Tensor, axis: int, angles_dC: Tensor | None) -> tuple[Tensor, Tensor]:
    if angles_dC is None:
        return (a + b) * math.sqrt(0.5), (a - b) * math.sqrt(0.5)
    angle = _tiled(angles_dC[axis - 1], a.shape[-1])
    return angle.cos() * a + angle.sin() * b, angle.sin() * a - angle.cos() * b


def _tiled(angle_C: Tensor, channels: int) -> Tensor:
    return _HAAR + angle_C.repeat(channels // angle_C.shape[0])


def resample_in_place(x_BNC: Tensor, how: Resample, angles_dC: Tensor | None = None) -> Tensor:
    """Coarsen or refine a contiguous state, of real or whole numbers, in its own memory; ``""`` leaves it as it is."""
    if how:
        for axis in axes_in_order(how, x_BNC.dim() - 2):
            x_BNC = turn_axis(x_BNC, axis, how, angles_dC)
    return x_BNC


def turn_axis(x_BNC: Tensor, axis: int, how: Resample, angles_dC: Tensor | None) -> Tensor:
    """Coarsen or refine one axis of a contiguous state in its own memory.

    Seen as [P, 2, A, C] with neighbours in the axis of two, the coarse state is [P, A, 2, C] in the same memory with
    bands in the axis of two, so that each of the P blocks is turned by itself.
    """
    turn = _turn_real if x_BNC.dtype.is_floating_point else _turn_whole
    neighbours, bands = _halves(x_BNC, axis, how)
    source, target = (neighbours, bands) if how == "coarsen" else (bands, neighbours)
    angle = None if angles_dC is None else _tiled(angles_dC.detach()[axis - 1], source[0].shape[-1])
    block = 2 * source[0][0].numel() * x_BNC.element_size()
    for where in cut_cells(len(source[0]), block, device=x_BNC.device.type):
        first, second = turn(source[0][where], source[1][where], angle, forward=how == "coarsen")
        target[0][where] = first
        target[1][where] = second
        del first, second  # before the next two are made
    shape = list(x_BNC.shape)
    halved, doubled = (axis, -1) if how == "coarsen" else (-1, axis)
    shape[halved], shape[doubled] = shape[halved] // 2, shape[doubled] * 2
    return x_BNC.view(shape)


def _halves(x_BNC: Tensor, axis: int, how: Resample) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """View the memory of a state to be turned as (even, odd) and as (low, high), [P, A, C] each, C the finer side's."""
    inner, channels = math.prod(x_BNC.shape[axis + 1 : -1]), x_BNC.shape[-1] // (1 if how == "coarsen" else 2)
    return x_BNC.view(-1, 2, inner, channels).unbind(1), x_BNC.view(-1, inner, 2, channels).unbind(2)


def _turn_real(a: Tensor, b: Tensor, angle: Tensor | None, *, forward: bool) -> tuple[Tensor, Tensor]:
    del forward
    if angle is None:
        return (a + b).mul_(math.sqrt(0.5)), (a - b).mul_(math.sqrt(0.5))
    cosine, sine = angle.cos(), angle.sin()
    return (a * cosine).addcmul_(b, sine), (a * sine).addcmul_(b, cosine, value=-1)


def _turn_whole(a: Tensor, b: Tensor, angle: Tensor | None, *, forward: bool) -> tuple[Tensor, Tensor]:
    """Turn a pair of whole numbers by three rounded shears, or undo that by the same shears in reverse order."""
    half, sine = (math.tan(_HAAR / 2), math.sin(_HAAR)) if angle is None else ((angle / 2).tan(), angle.sin())
    sign = 1 if forward else -1
    b = b * sign  # a copy: what comes out overwrites what went in
    a = a.add(_sheared(b, half), alpha=sign)
    b.sub_(_sheared(a, sine), alpha=sign)
    a.add_(_sheared(b, half), alpha=sign)
    return a, (b.neg_() if forward else b)


def _sheared(x: Tensor, factor: float | Tensor) -> Tensor:
    return x.to(torch.float32).mul_(factor).round_().to(torch.int32).to(x.dtype)


def angle_gradient(pair: Pair, adjoint: Pair, axis: int, how: Resample) -> Tensor:
    """Return the gradient with respect to the angles of one axis: [channels of the finer side], at least float32.

    With y = (first, second) the outcome of a turn, its derivative by the angle is (-second, first). The gradient with
    respect to X_j is l_j, and -l_{j+1} with respect to X_{j-1}. `pair` holds X_{j-1} and X_{j-1} - X_j after the turn,
    `adjoint` l_j and l_j - l_{j+1}.
    """
    parts = [part for side in (pair, adjoint) for part in (side.state, side.increment)]
    x, dx, m, dm = (_halves(part, axis, UNDO[how])[how == "coarsen"] for part in parts)
    total = adjoint.state.new_zeros(x[0].shape[-1])
    block = 2 * x[0][0].numel() * adjoint.state.element_size()
    for where in cut_cells(len(x[0]), block, device=total.device.type):
        (x1, x2), (dx1, dx2) = ([half[where].to(total.dtype) for half in halves] for halves in (x, dx))
        (m1, m2), (dm1, dm2) = ([half[where] for half in halves] for halves in (m, dm))
        total += (m1 * dx2 - m2 * dx1 - dm1 * x2 + dm2 * x1).sum((0, 1))
    return total * pair.arithmetic.spacing
