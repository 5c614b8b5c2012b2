"""Gradients added on a grid of integers: the same bits in any order, and so on any number of ranks.

Floats round at every addition, so that a sum depends on who adds what first. Here the gradient of each micro-batch is
rounded once, to a multiple of `GRID`; integers add exactly, by gloo, NCCL or any other way. They take 8 bytes a weight,
and are sent when all micro-batches are done: little beside a step on volumes, as the networks have few weights.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

GRID = 2.0**-44
"""Spacing of the grid: half a unit in the last place of a float32 at 1e-6, and far below Adam's epsilon, 1e-8."""
LARGEST = 2.0**18
"""Largest entry that a sum may have, so that int64 holds it with room to spare."""


def grouped() -> bool:
    """Tell whether this process is one rank of a group."""
    return dist.is_available() and dist.is_initialized()


def sum_over_ranks(values: list[float], device: torch.device) -> list[float]:
    """Add each value over the ranks; `device` is where NCCL adds. Every rank takes part."""
    if not grouped():
        return values
    total = torch.tensor(values, dtype=torch.float64, device="cpu" if dist.get_backend() == "gloo" else device)
    dist.all_reduce(total)
    return total.tolist()


def share_weights(model: nn.Module) -> None:
    """Take rank 0's weights and buffers, in place; every rank takes part."""
    for tensor in (*model.parameters(), *model.buffers()):
        dist.broadcast(tensor.detach(), 0)


class GradientSum:
    """The sum of a model's gradients over micro-batches and ranks.

    Parameters
    ----------
    model
        Its parameters that require a gradient are counted; their ``grad`` is taken away by `add` and set by `finish`.
    """

    def __init__(self, model: nn.Module) -> None:
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.total: Tensor | None = None
        self.bound: Tensor | float = 0.0
        """No entry of this rank's sum is larger; nan where one is. A sum is true only while it is below `LARGEST`."""

    def add(self) -> None:
        """Take the gradient of a micro-batch."""
        if self.total is None:  # only now, as the backward pass before it needs the room
            numbers = sum(parameter.numel() for parameter in self.parameters)
            self.total = torch.zeros(numbers, dtype=torch.int64, device=self.parameters[0].device)
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        self.bound = self.bound + torch.nn.utils.get_total_norm(gradients, norm_type=float("inf"))
        for parameter, piece in zip(self.parameters, self._pieces(self.total), strict=True):
            if parameter.grad is not None:
                piece += (parameter.grad.double() / GRID).round_().long()
                parameter.grad = None

    def finish(self) -> None:
        """Set the gradient of each parameter to the sum over all ranks; every rank takes part."""
        if self.total is None:
            raise RuntimeError("nothing was added")
        if grouped():
            dist.all_reduce(self.total)
        for parameter, piece in zip(self.parameters, self._pieces(self.total), strict=True):
            parameter.grad = (piece.double() * GRID).to(parameter.dtype)
        self.total = None

    def _pieces(self, total: Tensor) -> list[Tensor]:
        parts = total.split([parameter.numel() for parameter in self.parameters])
        return [part.view(parameter.shape) for part, parameter in zip(parts, self.parameters, strict=True)]
