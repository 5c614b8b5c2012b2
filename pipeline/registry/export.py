"""A segmenter as one program for every size of volume, by `torch.export`.

B batch, C channels, K classes, N space, L space of the output.
"""

import numpy as np
import torch
from torch import Tensor, nn

from models.config import NetworkConfig
from models.segmenter import Segmenter
from models.unrolled import unrolled
from pipeline.scoring.description import ModelDescription

PROGRAM_PREFIX = "segmenter."
"""Before the names of the network's weights in a program."""
_MOST_CELLS = 2**31


def tolerance(network: NetworkConfig) -> float:
    """Return by how much the probabilities of a program may differ from the network's.

    The last bit of a sum may decide to which of two numbers, of its precision or of the exact grid, a force is rounded.
    """
    if network.state_bits == 16 or network.force_dtype != "float32":
        return 2e-2
    return 1e-4 if network.exact else 1e-5


class Exportable(nn.Module):
    """Raw data [B, C, *N] to class probabilities [B, K, *L], without branches on the sizes.

    Written plainly, "padded to a multiple" makes the exporter guard dozens of facts about the traced size, and the
    program refuses most others. Here the number of coarse cells is read from data, which leaves nothing to guard.
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
        state_BCN = unrolled(network.plan, x_BCN, network.parameters_in_order())
        readout = self.segmenter.readout
        return readout(state_BCN[:, readout.read], sizes).softmax(dim=1)


def _pad(x: Tensor, axis: int, size: int, multiple: int, padding: str) -> Tensor:
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
        period = torch.full((1,), torch.sym_max(2 * size - 2, 1))  # a tensor, because ONNX divides by no other size
        turned = cells.remainder(period)
        return x.index_select(axis, torch.minimum(turned, 2 * size - 2 - turned))
    extended = x.index_select(axis, cells.clamp(max=size - 1))
    if padding == "zeros":
        return extended * (cells < size).to(x.dtype).view(-1, *[1] * (x.dim() - axis - 1))
    return extended


def exported(segmenter: Segmenter, example_BCN: Tensor) -> torch.export.ExportedProgram:
    """Make a torch program that takes any batch and space: raw data [B, C, *N] to probabilities [B, K, *L].

    It is traced on the CPU with a batch of two or more, the weights frozen. Exact states go along as floating-point
    numbers on the same grid. Coarsening rounds once instead of shear by shear, so the program agrees with the network
    to some steps of the grid.
    """
    sizes = segmenter.mean.shape[1:]
    free = [0, *(axis for axis, size in enumerate(sizes, start=2) if size == 1)]  # statistics may fix an axis
    dynamic = {axis: torch.export.Dim.DYNAMIC for axis in free}
    return torch.export.export(Exportable(segmenter), (example_BCN,), dynamic_shapes=(dynamic,))


def example_batch(description: ModelDescription, extra: int = 0) -> np.ndarray:
    """Make a small input that a model accepts, of different sizes along the axes, with a no-data cell.

    It is float32 [2, C, *N], because the exporter takes a batch of one for a constant. Every axis is `extra` coarse
    cells longer, for an input that the program was not traced with.
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
