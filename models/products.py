"""K as one matrix product and shifts of thin planes: the better form where channels are many and the rank is low.

B batch, N space, C channels, r rank, T = edge^d taps, M = B * cells. K x sums over the taps (shift by the tap) after
(contraction C -> r at a point): the state is read once, by one product [T r x C] [C x M], and all work between
neighbours is on thin planes. Hidden tensors are [r, B, *N], with rows beyond as `overhang` says.
"""

import itertools
from types import EllipsisType

import torch
from torch import Tensor
from torch.nn import functional as F

from models import boundary as beyond
from models.kernels import add_product, multiply
from models.pieces import cut_cells
from models.symmetric import Pair, SymmetricOperator, at_least_single


class Products(SymmetricOperator):
    """K by multiplying first and shifting after; K^T shifts first and multiplies after."""

    row_axis = 2

    @property
    def _axes(self) -> range:
        return range(-self.space, 0)

    def _windows(self, sizes: torch.Size) -> list[tuple[EllipsisType | slice, ...]]:
        """Return, for each tap, the part of a padded plane that lies opposite to it: cell m - tap."""
        starts = range(self.edge - 1, -1, -1)
        return [
            (..., *(slice(start, start + size) for start, size in zip(corner, sizes, strict=True)))
            for corner in itertools.product(starts, repeat=self.space)
        ]

    def hidden(self, pair: Pair, kernel: Tensor) -> Tensor:
        """Multiply, then add up the planes of the taps where they land."""
        batch, *sizes, channels = pair.state.shape
        weight_PC, flat = kernel.reshape(-1, channels), pair.flat()
        if pair.arithmetic.converts:
            planes = weight_PC.new_empty(weight_PC.shape[0], flat.state.shape[0])
            for where in _cut(flat, kernel):
                planes[:, where] = multiply(weight_PC, flat.load(where))
        else:
            planes = multiply(weight_PC, flat.load(...))
        planes = planes.view(*[self.edge] * self.space, kernel.shape[-2], batch, *sizes)
        first, *others = self._axes
        planes = self._gather_beyond(planes, first) if self.overhang else self._gather(planes, first)
        for axis in others:
            planes = self._gather(planes, axis)
        return planes

    def _gather_beyond(self, planes: Tensor, axis: int) -> Tensor:
        size, reach = planes.shape[axis], self.reach
        shape = list(planes.shape[1:])
        shape[axis] = size + 2 * reach
        total = planes.new_zeros(shape)
        for tap in range(self.edge):
            total.narrow(axis, 2 * reach - tap, size).add_(planes[tap])
        return total

    def _gather(self, planes: Tensor, axis: int) -> Tensor:
        """Add up the planes of the taps along one axis: cell n takes tap t of cell n + t - reach."""
        reach, size = self.reach, planes.shape[axis]
        if self.boundary != "zeros":
            padded = beyond.pad(planes, [axis], reach, self.boundary)
            total = padded[0].narrow(axis, 0, size).clone()
            for tap in range(1, self.edge):
                total.add_(padded[tap].narrow(axis, tap, size))
            return total
        total = planes[reach].clone()
        for tap in range(1, min(reach, size - 1) + 1):
            total.narrow(axis, 0, size - tap).add_(planes[reach + tap].narrow(axis, tap, size - tap))
            total.narrow(axis, tap, size - tap).add_(planes[reach - tap].narrow(axis, 0, size - tap))
        return total

    def align(self, bias: Tensor) -> Tensor:
        """Put the rank first."""
        return bias.view(-1, *[1] * (self.space + 1))

    def spread(self, z: Tensor, pair: Pair) -> Tensor:
        """Shift the planes to every tap: [T r, M]."""
        sizes, ends = pair.state.shape[1:-1], [self.reach] * (2 * self.space - 2)
        if self.boundary != "zeros":
            sizes, ends = torch.Size(size + 2 * self.reach for size in sizes), [2 * self.reach] * (2 * self.space)
        padded = F.pad(z, ends)
        planes = torch.stack([padded[window] for window in self._windows(sizes)])
        if self.boundary != "zeros":
            planes = beyond.fold(planes, self._axes, self.reach, self.boundary)
        return planes.flatten(2).flatten(0, 1)

    def advance(self, pair: Pair, u: Tensor, kernel: Tensor) -> None:
        """Multiply the shifted planes by the kernel into the increment, piece by piece."""
        flat, weight_CP = pair.flat(), kernel.reshape(u.shape[0], -1).T
        for where in _cut(flat, kernel):
            if pair.arithmetic.converts:
                flat.advance(where, multiply(u[:, where].T, weight_CP))
            else:
                add_product(flat.increment[where], u[:, where].T, weight_CP)
                flat.follow(where)

    def weight_gradient(self, pair: Pair, u: Tensor, kernel: Tensor) -> Tensor:
        """Multiply the shifted planes by the state."""
        flat = pair.flat()
        if not pair.arithmetic.converts:
            return multiply(u, flat.load(...).T).view(kernel.shape)
        total = u.new_zeros(u.shape[0], flat.state.shape[1], dtype=at_least_single(u.dtype))
        summed = total.dtype if u.dtype == torch.float16 else u.dtype  # float16 ends at 65504, which sums pass
        for where in _cut(flat, kernel):
            total += multiply(u[:, where].to(summed), flat.load(where).to(summed).T)
        return total.view(kernel.shape)

    def bias_gradient(self, z: Tensor) -> Tensor:
        """Sum over all axes but the first."""
        return z.flatten(1).sum(1, dtype=at_least_single(z.dtype))


def _cut(flat: Pair, kernel: Tensor) -> list[slice]:
    cells, channels = flat.state.shape
    sizes = channels * flat.state.element_size(), kernel.numel() * kernel.element_size()
    return cut_cells(cells, *sizes, kernel.device.type)
