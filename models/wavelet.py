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
