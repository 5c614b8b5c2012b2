"""The operator K of a layer, its transpose and its weight gradient, as convolutions or as products and shifts.

B batch, N space (d axes), C channels, r rank, T = kernel^d taps, M = B * cells. States are channels-last, [B, *N, C];
a kernel is [*taps, r, C], which both forms read without a transposition where kernels are large.

Both forms share one interface: `hidden` gives K x, `spread` prepares a hidden tensor once for `add_transpose`
(K^T z) and `weight_gradient`, which both read it. The layout of hidden tensors is the form's own.
"""

import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class SymmetricOperator(ABC):
    """K as a convolution C -> r with zeros outside the volume, and K^T with the same weights.

    Attributes
    ----------
    space
        Number of space axes d.
    edge
        Odd edge length of the kernel, in cells.
    """

    space: int
    edge: int

    batch_axis = 0
    """Axis of a hidden tensor along which the batch lies."""

    @abstractmethod
    def hidden(self, x_BNC: Tensor, kernel: Tensor) -> Tensor:
        """Return K x in the form's own layout."""

    @abstractmethod
    def align(self, bias: Tensor) -> Tensor:
        """Give a bias [r] the shape that broadcasts against hidden tensors."""

    @abstractmethod
    def spread(self, z: Tensor) -> Tensor:
        """Prepare a hidden tensor for `add_transpose`, `transpose` and `weight_gradient`."""

    @abstractmethod
    def transpose(self, u: Tensor, kernel: Tensor, shape: torch.Size) -> Tensor:
        """Return K^T z as a state of `shape`, for u = spread(z)."""

    @abstractmethod
    def add_transpose(self, y_BNC: Tensor, u: Tensor, kernel: Tensor, scale: float) -> None:
        """Add scale * K^T z to y in place, for u = spread(z)."""

    @abstractmethod
    def weight_gradient(self, x_BNC: Tensor, u: Tensor, kernel: Tensor) -> Tensor:
        """Return the gradient of <K x, z> with respect to the kernel, halves of the doubled batch exchanged.

        For x = [x_1 ; x_2] and u = spread([z_1 ; z_2]) it is the gradient of <K x_1, z_2> + <K x_2, z_1>.
        """

    @abstractmethod
    def bias_gradient(self, z: Tensor) -> Tensor:
        """Sum a hidden tensor over batch and space: [r]."""


class Convolution(SymmetricOperator):
    """K through PyTorch's convolutions, channels-last. Hidden tensors are [B, *N, r].

    A 1-D state is convolved as an image of one row, because channels-last convolutions start at two dimensions.
    """

    def _image(self, x_BNC: Tensor) -> Tensor:
        if self.space == 1:
            x_BNC = x_BNC.unsqueeze(1)
        return x_BNC.movedim(-1, 1)

    def _state(self, x_BCN: Tensor) -> Tensor:
        x_BNC = x_BCN.movedim(1, -1)
        return x_BNC.squeeze(1) if self.space == 1 else x_BNC

    def _weight(self, kernel: Tensor) -> Tensor:
        weight = kernel.unsqueeze(0) if self.space == 1 else kernel
        return weight.movedim((-2, -1), (0, 1))

    @property
    def _reach(self) -> list[int]:
        reach = self.edge // 2
        return [0, reach] if self.space == 1 else [reach] * self.space

    def hidden(self, x_BNC: Tensor, kernel: Tensor) -> Tensor:
        convolve = F.conv3d if self.space == 3 else F.conv2d
        return self._state(convolve(self._image(x_BNC), self._weight(kernel), padding=self._reach))

    def align(self, bias: Tensor) -> Tensor:
        return bias

    def spread(self, z: Tensor) -> Tensor:
        return z

    def transpose(self, u: Tensor, kernel: Tensor, shape: torch.Size) -> Tensor:
        convolve = F.conv_transpose3d if self.space == 3 else F.conv_transpose2d
        return self._state(convolve(self._image(u), self._weight(kernel), padding=self._reach))

    def add_transpose(self, y_BNC: Tensor, u: Tensor, kernel: Tensor, scale: float) -> None:
        y_BNC.add_(self.transpose(u, kernel, y_BNC.shape), alpha=scale)

    def weight_gradient(self, x_BNC: Tensor, u: Tensor, kernel: Tensor) -> Tensor:
        weight = self._weight(kernel)  # only its shape is read
        images = weight.dim() - 2
        _, gradient, _ = torch.ops.aten.convolution_backward(
            self._image(torch.cat(u.chunk(2)[::-1])),
            self._image(x_BNC),
            weight.new_empty(weight.shape),
            None,
            [1] * images,
            self._reach,
            [1] * images,
            False,
            [0] * images,
            1,
            [False, True, False],
        )
        gradient = gradient.movedim((0, 1), (-2, -1))
        return gradient.squeeze(0) if self.space == 1 else gradient

    def bias_gradient(self, z: Tensor) -> Tensor:
        return z.flatten(0, -2).sum(0)


class Products(SymmetricOperator):
    """K as one matrix product [T r x C] [C x M], then shifts of thin hidden planes. Hidden tensors are [r, B, *N].

    The state is read once; all neighbourhood work happens on r planes. K^T shifts first and multiplies after.
    """

    batch_axis = 1

    def _windows(self, sizes: torch.Size) -> list[tuple[slice | type(...), ...]]:  # type: ignore[valid-type]
        """Return, for each tap, the part of a padded plane that lies opposite to it: cell m - tap."""
        starts = range(self.edge - 1, -1, -1)
        return [
            (..., *(slice(start, start + size) for start, size in zip(corner, sizes, strict=True)))
            for corner in itertools.product(starts, repeat=self.space)
        ]

    def hidden(self, x_BNC: Tensor, kernel: Tensor) -> Tensor:
        batch, *_, channels = x_BNC.shape
        sizes = x_BNC.shape[1:-1]
        rank = kernel.shape[-2]
        reach = self.edge // 2
        planes = kernel.reshape(-1, channels) @ x_BNC.reshape(-1, channels).T
        planes = planes.view(-1, rank, batch, *sizes)
        padded = planes.new_zeros(rank, batch, *(size + 2 * reach for size in sizes))
        for plane, window in zip(planes, self._windows(sizes), strict=True):
            padded[window] += plane
        inner = padded[(..., *(slice(reach, reach + size) for size in sizes))]
        return inner.contiguous()

    def align(self, bias: Tensor) -> Tensor:
        return bias.view(-1, *[1] * (self.space + 1))

    def spread(self, z: Tensor) -> Tensor:
        reach = self.edge // 2
        padded = F.pad(z, [reach] * (2 * self.space))
        return torch.stack([padded[window] for window in self._windows(z.shape[2:])]).flatten(2).flatten(0, 1)

    def transpose(self, u: Tensor, kernel: Tensor, shape: torch.Size) -> Tensor:
        return (u.T @ kernel.reshape(u.shape[0], -1)).view(shape)

    def add_transpose(self, y_BNC: Tensor, u: Tensor, kernel: Tensor, scale: float) -> None:
        if u.dtype == y_BNC.dtype:
            y_BNC.view(-1, y_BNC.shape[-1]).addmm_(u.T, kernel.reshape(u.shape[0], -1), alpha=scale)
        else:
            y_BNC.add_(self.transpose(u, kernel, y_BNC.shape), alpha=scale)

    def weight_gradient(self, x_BNC: Tensor, u: Tensor, kernel: Tensor) -> Tensor:
        first, second = x_BNC.view(2, -1, x_BNC.shape[-1])
        u_first, u_second = u.chunk(2, dim=1)
        return torch.addmm(u_second @ first, u_first, second).view(kernel.shape)

    def bias_gradient(self, z: Tensor) -> Tensor:
        return z.flatten(1).sum(1)


def choose_operator(space: int, edge: int, channels: int, rank: int) -> SymmetricOperator:
    """Choose the faster form for a layer from its static shape.

    Products pay for T r hidden planes, convolutions for being slow at many channels and low rank; the bounds are
    measured (tests/benchmarks).

    Parameters
    ----------
    space
        Number of space axes.
    edge
        Edge length of the kernel.
    channels
        State channels C.
    rank
        Block rank r.

    Returns
    -------
    SymmetricOperator
        The form to use.
    """
    if channels >= {1: 1, 2: 8, 3: 64}[space] * math.sqrt(rank):
        return Products(space, edge)
    return Convolution(space, edge)
