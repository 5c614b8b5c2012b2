"""The operator K of a layer, its transpose and its weight gradient, as convolutions or as products and shifts.

B batch, N space (d axes), C channels, r rank, T = edge^d taps, M = B * cells. States are channels-last, [B, *N, C];
a kernel is [*taps, r, C], which both forms read without a transposition where kernels are large.

Both forms share one interface: `hidden` gives K x, `spread` prepares a hidden tensor once for `transpose` and
`add_transpose` (K^T z) and for `weight_gradient`, which all read it. The layout of hidden tensors is the form's own.
"""

import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import EllipsisType

import torch
from torch import Tensor
from torch.nn import functional as F

from models.products import add_convolution, add_product, convolve, multiply


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
        """Prepare a hidden tensor for `transpose`, `add_transpose` and `weight_gradient`."""

    @abstractmethod
    def transpose(self, u: Tensor, kernel: Tensor, shape: torch.Size) -> Tensor:
        """Return K^T z as a state of `shape`, for u = spread(z)."""

    @abstractmethod
    def add_transpose(self, y_BNC: Tensor, u: Tensor, kernel: Tensor) -> None:
        """Add K^T z to the state y in place, for u = spread(z)."""

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
    K^T is itself a convolution, with the kernel turned round.
    """

    def _image(self, x_BNC: Tensor) -> Tensor:
        return (x_BNC.unsqueeze(1) if self.space == 1 else x_BNC).movedim(-1, 1)

    def _state(self, x_BCN: Tensor) -> Tensor:
        x_BNC = x_BCN.movedim(1, -1)
        return x_BNC.squeeze(1) if self.space == 1 else x_BNC

    def _taps_last(self, kernel: Tensor) -> Tensor:
        """Return a kernel [*taps, p, q] as a weight [p, q, *taps] of a convolution q -> p."""
        return (kernel.unsqueeze(0) if self.space == 1 else kernel).movedim((-2, -1), (0, 1))

    def _turned(self, kernel: Tensor) -> Tensor:
        """Return the weight of K^T: [C, r, *taps]."""
        return self._taps_last(kernel.flip(tuple(range(self.space))).transpose(-1, -2))

    @property
    def _reach(self) -> list[int]:
        reach = self.edge // 2
        return [0, reach] if self.space == 1 else [reach] * self.space

    def hidden(self, x_BNC: Tensor, kernel: Tensor) -> Tensor:
        """Convolve C -> r."""
        return self._state(convolve(self._image(x_BNC), self._taps_last(kernel), self._reach))

    def align(self, bias: Tensor) -> Tensor:
        """Leave a bias as it is: the rank is the last axis."""
        return bias

    def spread(self, z: Tensor) -> Tensor:
        """Leave a hidden tensor as it is."""
        return z

    def transpose(self, u: Tensor, kernel: Tensor, shape: torch.Size) -> Tensor:
        """Convolve r -> C with the kernel turned round."""
        return self._state(convolve(self._image(u), self._turned(kernel), self._reach))

    def add_transpose(self, y_BNC: Tensor, u: Tensor, kernel: Tensor) -> None:
        """Convolve r -> C into the state."""
        add_convolution(self._image(y_BNC), self._image(u), self._turned(kernel), self._reach)

    def weight_gradient(self, x_BNC: Tensor, u: Tensor, kernel: Tensor) -> Tensor:
        """Correlate the state with the exchanged hidden halves."""
        weight = self._taps_last(kernel)
        axes = weight.dim() - 2
        _, gradient, _ = torch.ops.aten.convolution_backward(
            self._image(torch.cat(u.chunk(2)[::-1])),
            self._image(x_BNC),
            weight.new_empty(weight.shape),  # only its shape is read
            None,
            [1] * axes,
            self._reach,
            [1] * axes,
            False,
            [0] * axes,
            1,
            [False, True, False],
        )
        gradient = gradient.movedim((0, 1), (-2, -1))
        return gradient.squeeze(0) if self.space == 1 else gradient

    def bias_gradient(self, z: Tensor) -> Tensor:
        """Sum over all axes but the last."""
        return z.flatten(0, -2).sum(0)


class Products(SymmetricOperator):
    """K as one matrix product [T r x C] [C x M], then shifts of thin hidden planes. Hidden tensors are [r, B, *N].

    The state is read once; all neighbourhood work happens on r planes. K^T shifts first and multiplies after.
    """

    batch_axis = 1

    def _windows(self, sizes: torch.Size) -> list[tuple[EllipsisType | slice, ...]]:
        """Return, for each tap, the part of a padded plane that lies opposite to it: cell m - tap."""
        starts = range(self.edge - 1, -1, -1)
        return [
            (..., *(slice(start, start + size) for start, size in zip(corner, sizes, strict=True)))
            for corner in itertools.product(starts, repeat=self.space)
        ]

    def hidden(self, x_BNC: Tensor, kernel: Tensor) -> Tensor:
        """Multiply, then add up the planes of the taps where they land, one axis after the other."""
        batch, *sizes, channels = x_BNC.shape
        planes = multiply(kernel.reshape(-1, channels), x_BNC.reshape(-1, channels))
        planes = planes.view(*[self.edge] * self.space, kernel.shape[-2], batch, *sizes)
        reach = self.edge // 2
        for axis, size in enumerate(sizes, start=-self.space):
            total = planes[reach].clone()
            for tap in range(1, min(reach, size - 1) + 1):
                total.narrow(axis, 0, size - tap).add_(planes[reach + tap].narrow(axis, tap, size - tap))
                total.narrow(axis, tap, size - tap).add_(planes[reach - tap].narrow(axis, 0, size - tap))
            planes = total
        return planes

    def align(self, bias: Tensor) -> Tensor:
        """Put the rank first."""
        return bias.view(-1, *[1] * (self.space + 1))

    def spread(self, z: Tensor) -> Tensor:
        """Shift the planes to every tap: [T r, M]."""
        padded = F.pad(z, [self.edge // 2] * (2 * self.space))
        return torch.stack([padded[window] for window in self._windows(z.shape[2:])]).flatten(2).flatten(0, 1)

    def transpose(self, u: Tensor, kernel: Tensor, shape: torch.Size) -> Tensor:
        """Multiply the shifted planes by the kernel."""
        return multiply(u.T, kernel.reshape(u.shape[0], -1).T).view(shape)

    def add_transpose(self, y_BNC: Tensor, u: Tensor, kernel: Tensor) -> None:
        """Multiply the shifted planes by the kernel into the state."""
        add_product(y_BNC.view(-1, y_BNC.shape[-1]), u.T, kernel.reshape(u.shape[0], -1).T)

    def weight_gradient(self, x_BNC: Tensor, u: Tensor, kernel: Tensor) -> Tensor:
        """Multiply the shifted planes of each half by the state of the other."""
        first, second = x_BNC.view(2, -1, x_BNC.shape[-1])
        u_first, u_second = u.chunk(2, dim=1)
        return multiply(u_second, first.T).add_(multiply(u_first, second.T)).view(kernel.shape)

    def bias_gradient(self, z: Tensor) -> Tensor:
        """Sum over all axes but the first."""
        return z.flatten(1).sum(1)


def choose_operator(space: int, edge: int, channels: int, rank: int) -> SymmetricOperator:
    """Choose the faster form for a layer from its static shape.

    Products handle T r thin planes beside the C of the state, so they pay where planes are few; convolutions win where
    they are many. Measured on CPU cores with AVX-512: products take 0.7 of the convolutions' time at T r / C = 0.36
    (2-D, 200 channels, rank 8), 1.2 at 1.4 (rank 32), 0.5 at 0.14 (3-D, 6144 channels, rank 32).

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
    if 2 * edge**space * rank <= channels:
        return Products(space, edge)
    return Convolution(space, edge)
