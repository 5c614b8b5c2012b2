"""The Haar transform channels first, by strided views: what the networks that are compared with ours coarsen by."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from models.config import Resample


def haar(x_BCN: Tensor, how: Resample) -> Tensor:
    """Coarsen or refine, channels first, by strided views; bands come in the order of `models.wavelet`."""
    axes: Sequence[int] = range(2, x_BCN.dim())
    for axis in reversed(axes) if how == "coarsen" else axes if how == "refine" else ():
        if how == "coarsen":
            even, odd = x_BCN.unflatten(axis, (-1, 2)).unbind(axis + 1)
            x_BCN = torch.cat([even + odd, even - odd], dim=1) * math.sqrt(0.5)
        else:
            low, high = x_BCN.chunk(2, dim=1)
            x_BCN = torch.stack([low + high, low - high], dim=axis + 1).flatten(axis, axis + 1) * math.sqrt(0.5)
    return x_BCN
