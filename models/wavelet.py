"""Orthogonal Haar transform over the space axes: coarsen and refine (DESIGN 2.2).

B batch, N space, C channels last. The 2^d bands come out band-major, the mean band first, so that the first C channels
of a coarse state are the block means times 2^(d/2).
"""

import math

import torch
from torch import Tensor


def coarsen(x_BNC: Tensor) -> Tensor:
    """Halve the grid and multiply the channels by 2^d; orthogonal, so its transpose is its inverse.

    Parameters
    ----------
    x_BNC
        State [B, *N, C], every size of N even.

    Returns
    -------
    Tensor
        State [B, *N/2, 2^d C].
    """
    space = x_BNC.dim() - 2
    for axis in range(space, 0, -1):
        even, odd = x_BNC.unflatten(axis, (-1, 2)).unbind(axis + 1)
        x_BNC = _butterfly(even, odd, even.dim() - 1, halved=axis == 2).flatten(-2)
    return _rescaled(x_BNC, space)


def refine(x_BNC: Tensor) -> Tensor:
    """Undo `coarsen`: double the grid and divide the channels by 2^d.

    Parameters
    ----------
    x_BNC
        State [B, *N, C], C divisible by 2^d.

    Returns
    -------
    Tensor
        State [B, *2N, C / 2^d].
    """
    space = x_BNC.dim() - 2
    for axis in range(1, space + 1):
        low, high = x_BNC.chunk(2, dim=-1)
        x_BNC = _butterfly(low, high, axis + 1, halved=axis == 2).flatten(axis, axis + 1)
    return _rescaled(x_BNC, space)


def _butterfly(a: Tensor, b: Tensor, axis: int, *, halved: bool) -> Tensor:
    """Return a + b and a - b, both halved where asked, along a new axis of two."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        scale = 0.5 if halved else 1.0
        return torch.stack([(a + b) * scale, (a - b) * scale], dim=axis)
    both = a.new_empty(*a.shape[:axis], 2, *a.shape[axis:])
    total, difference = both.unbind(axis)
    if halved:
        torch.lerp(a, b, 0.5, out=total)
        torch.sub(total, b, out=difference)
    else:
        torch.add(a, b, out=total)
        torch.sub(a, b, out=difference)
    return both


def _rescaled(x_BNC: Tensor, space: int) -> Tensor:
    """Apply what is missing of the factor 2^(-d/2): two axes together have had theirs."""
    if space == 2:
        return x_BNC
    # Every state that comes here was made by a butterfly, so it may be overwritten where no graph is kept.
    return x_BNC * math.sqrt(0.5) if torch.is_grad_enabled() else x_BNC.mul_(math.sqrt(0.5))
