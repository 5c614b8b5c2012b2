"""Orthogonal Haar transform over the space axes: coarsen and refine (DESIGN 2.2).

B batch, N space, C channels last. The 2^d bands come out band-major, the mean band first, so that the first C channels
of a coarse state are the block means times 2^(d/2).
"""

import math

import torch
from torch import Tensor

from models.config import Resample


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
        x_BNC = torch.cat([even + odd, even - odd], dim=-1)
    return x_BNC * math.sqrt(0.5) ** space


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
        x_BNC = torch.stack([low + high, low - high], dim=axis + 1).flatten(axis, axis + 1)
    return x_BNC * math.sqrt(0.5) ** space


def resample_in_place(x_BNC: Tensor, how: Resample, spare: Tensor) -> tuple[Tensor, Tensor]:
    """Coarsen or refine a contiguous state by butterflies that go to and fro between its memory and a spare one.

    Large fresh tensors cost the operating system's time for every page, so one spare serves all resamplings of a chain.

    Parameters
    ----------
    x_BNC
        State, overwritten.
    how
        ``"coarsen"`` or ``"refine"``; with ``""`` both tensors are returned as they are.
    spare
        Any contiguous tensor of the state's number of elements, overwritten.

    Returns
    -------
    tuple of Tensor
        The resampled state and the new spare.
    """
    space = x_BNC.dim() - 2
    if how == "coarsen":
        for axis in range(space, 0, -1):
            even, odd = x_BNC.unflatten(axis, (-1, 2)).unbind(axis + 1)
            bands = _butterfly(even, odd, even.dim() - 1, spare, halved=axis == 2)
            x_BNC, spare = bands.flatten(-2), x_BNC
    elif how == "refine":
        for axis in range(1, space + 1):
            low, high = x_BNC.chunk(2, dim=-1)
            pairs = _butterfly(low, high, axis + 1, spare, halved=axis == 2)
            x_BNC, spare = pairs.flatten(axis, axis + 1), x_BNC
    # Two axes together have had their factor 2^(-d/2) by halving; the odd one has not.
    if how and space != 2:
        x_BNC.mul_(math.sqrt(0.5))
    return x_BNC, spare


def _butterfly(a: Tensor, b: Tensor, axis: int, spare: Tensor, *, halved: bool) -> Tensor:
    """Write a + b and a - b, both halved where asked, along a new axis of two in the spare memory."""
    both = spare.view(*a.shape[:axis], 2, *a.shape[axis:])
    total, difference = both.unbind(axis)
    if halved:
        torch.lerp(a, b, 0.5, out=total)
        torch.sub(total, b, out=difference)
    else:
        torch.add(a, b, out=total)
        torch.sub(a, b, out=difference)
    return both
