"""A segmenter in the form that `torch.export` turns into one program for every size of volume.

B batch, C channels, K classes, N space, L space of the output.
"""

import numpy as np
import torch
from torch import Tensor, nn

from models.chain import unrolled
from models.segmenter import Segmenter
from pipeline.description import ModelDescription

_MOST_CELLS = 2**31


class Exportable(nn.Module):
    """Raw data [B, C, *N] to class probabilities [B, K, *L], without branches on the sizes.

    Written plainly, "padded to a multiple" makes the exporter guard dozens of facts about the traced size, and the
    program refuses most others. Here the number of coarse cells is read from data, so every later size is a multiple
    of it by construction and nothing is left to guard.

    Parameters
    ----------
    segmenter
        The network, on the CPU; its weights are frozen.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter.requires_grad_(False).eval()

    def forward(self, raw_BCN: Tensor) -> Tensor:
        """Compute class probabilities."""
        network = self.segmenter.network
        sizes = tuple(raw_BCN.shape[2:])
        x_BCN = self.segmenter.normalise(raw_BCN)
        for axis, size in enumerate(sizes, start=2):
            x_BCN = _pad(x_BCN, axis, size, network.multiple, network.config.padding)
        state_BCN = unrolled(network.plan, x_BCN, network.parameters_in_order())[1]
        return self.segmenter.readout(state_BCN, sizes).softmax(dim=1)


def _pad(x: Tensor, axis: int, size: int, multiple: int, padding: str) -> Tensor:
    """Extend an axis at its far end to the next multiple, as `TelegraphNetwork.pad` does."""
    if isinstance(size, int):  # fixed by the statistics
        coarse = -(-size // multiple)
    else:
        coarse = ((torch.ones(size, dtype=torch.int64).sum() + (multiple - 1)) // multiple).item()
        torch._check(coarse >= 1)
        torch._check(coarse <= _MOST_CELLS // multiple)
    goal = coarse * multiple
    torch._check(size <= goal)
    cells = torch.arange(goal)
    if padding == "refuse":
        torch._check(size == goal)
        return x.index_select(axis, cells)
    if padding == "reflect":
        turned = cells.remainder(torch.sym_max(2 * size - 2, 1))
        return x.index_select(axis, torch.minimum(turned, 2 * size - 2 - turned))
    extended = x.index_select(axis, cells.clamp(max=size - 1))
    if padding == "zeros":
        inside = (cells < size).to(x.dtype)
        extended = extended * inside.view(-1, *[1] * (x.dim() - axis - 1))
    return extended


def example_batch(description: ModelDescription, extra: int = 0) -> np.ndarray:
    """Make an input that a model accepts, small, with different sizes on every axis, and with a no-data cell.

    Parameters
    ----------
    description
        What the model expects.
    extra
        Coarse cells by which every axis is longer: another input that the program was not traced with.

    Returns
    -------
    numpy.ndarray
        float32 [2, C, *N]; a batch of two, because the exporter takes a batch of one for a constant.
    """
    d = description
    sizes = []
    for axis, fixed in enumerate(d.sizes):
        size = (2 + axis + extra) * d.multiple
        if d.padding != "refuse" and d.multiple > 1:
            size -= 1
        while size <= d.read_slice.get(axis, -1):
            size += d.multiple
        sizes.append(fixed or max(size, 3))
    batch = np.random.default_rng(0).normal(size=(2, d.channels, *sizes)).astype(np.float32)
    batch[(0, 0, *[0] * len(sizes))] = np.nan
    return batch
