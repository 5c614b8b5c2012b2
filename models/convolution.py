"""K through PyTorch's convolutions, channels-last: the better form where channels are few or the rank is high.

B batch, N space, C channels, r rank, g groups. Hidden tensors are [B, *N, r], with rows beyond.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from models import boundary as beyond
from models.kernels import add_convolution, cells_at_once, convolution_weight_gradient, convolve, exchanges, for_cells
from models.pieces import cut_grid
from models.symmetric import Pair, SymmetricOperator, at_least_single


class Convolution(SymmetricOperator):
    """K as a convolution; K^T is one too, with the kernel turned round.

    A 1-D state is an image of one row, because channels-last convolutions start at two dimensions.
    """

    row_axis = 1

    def _image(self, x_BNC: Tensor) -> Tensor:
        x_BNC = x_BNC.unsqueeze(1) if self.space == 1 else x_BNC
        if torch.compiler.is_exporting() and x_BNC.shape[-1] == 1:  # moving it would need to know the other sizes
            return x_BNC.squeeze(-1).unsqueeze(1)
        return x_BNC.movedim(-1, 1)

    def _state(self, x_BCN: Tensor) -> Tensor:
        x_BNC = x_BCN.movedim(1, -1)
        return x_BNC.squeeze(1) if self.space == 1 else x_BNC

    def _taps_last(self, kernel: Tensor) -> Tensor:
        """Return a kernel [*taps, p, q] as a weight [p, q, *taps]."""
        return (kernel.unsqueeze(0) if self.space == 1 else kernel).movedim((-2, -1), (0, 1))

    def _taps_first(self, weight: Tensor) -> Tensor:
        kernel = weight.movedim((0, 1), (-2, -1))
        return kernel.squeeze(0) if self.space == 1 else kernel

    def _packed(self, weight: Tensor) -> Tensor:
        """Lay a weight out as convolutions take it, once for all pieces."""
        return weight.contiguous(memory_format=torch.channels_last if weight.dim() == 4 else torch.channels_last_3d)

    def _turned(self, kernel: Tensor) -> Tensor:
        """Return the weight of K^T: [C, r / g, *taps]."""
        turned = kernel.flip(tuple(range(self.space))).unflatten(-2, (self.groups, -1))  # [*taps, g, r/g, C/g]
        return self._taps_last(turned.transpose(-1, -2).flatten(-3, -2))

    def _padding(self, first: int, others: int) -> list[int]:
        padding = [first] + [others] * (self.space - 1)
        return [0, *padding] if self.space == 1 else padding

    @property
    def _axes(self) -> range:
        return range(1, self.space + 1)

    def _haloed(self, pair: Pair, samples: slice, rows: slice) -> tuple[Tensor, int, int]:
        """Load some rows of a state and those that the kernel reaches; return how many lack at either end, being zero.

        A convolution pads both ends alike, which makes some rows too many where unlike numbers lack.
        """
        if self.boundary != "zeros":
            return beyond.pad(pair.load(samples), self._axes, self.reach, self.boundary), 0, 0
        start, stop, total = rows.start - self.reach, rows.stop + self.reach, pair.state.shape[1]
        found = pair.load((samples, slice(max(start, 0), min(stop, total))))
        return found, max(-start, 0), max(stop - total, 0)

    def _cut(self, pair: Pair, overhang: int = 0) -> list[tuple[slice, slice]]:
        """Cut a state and rows beyond it into pieces; a volume that is padded is worked on sample by sample."""
        batch, *sizes, channels = pair.state.shape
        if self.boundary != "zeros":
            return [(slice(at, at + 1), slice(0, sizes[0])) for at in range(batch)]
        pieces = cut_grid(batch, sizes, channels * pair.state.element_size(), pair.state.device.type)
        starts, stops = {0: -overhang}, {sizes[0]: sizes[0] + overhang}
        return [
            (samples, slice(starts.get(rows.start, rows.start), stops.get(rows.stop, rows.stop)))
            for samples, rows in pieces
        ]

    def _whole(self, pair: Pair) -> bool:
        """Tell whether a state is worked on in one call; what cuDNN makes beside one grows with what it is given."""
        here = pair.state.device.type == "cpu"
        return self.boundary == "zeros" and here and not pair.arithmetic.converts

    def convolved(self, x_BNC: Tensor, kernel: Tensor, overhang: int = 0, cells: int = 1) -> Tensor:
        """Convolve C -> r in one call, some `cells` at once, and some rows beyond either end of the first axis."""
        if self.boundary != "zeros":
            x_BNC = beyond.pad(x_BNC, self._axes, self.reach, self.boundary)
        padding = self._padding(self.overhang + overhang, self.overhang)
        weight = for_cells(self._taps_last(kernel), cells)
        return self._state(convolve(self._image(x_BNC), weight, padding, self.groups, cells))

    def hidden(self, pair: Pair, kernel: Tensor) -> Tensor:
        """Convolve C -> r, at once or piece by piece."""
        cells = 1
        if self.groups == 1 and self.space > 1:  # the axis of a line is cut into pieces
            cells = cells_at_once(pair.state.shape[-2], kernel.shape[-2], kernel.dtype, kernel.device.type)
        if self._whole(pair):
            return self.convolved(pair.load(...), kernel, self.overhang, cells)
        weight, pieces = self._packed(for_cells(self._taps_last(kernel), cells)), self._cut(pair, self.overhang)
        if len(pieces) == 1:
            return self._hidden_piece(pair, *pieces[0], weight, cells)
        batch, first, *others, _ = pair.state.shape
        z = kernel.new_empty(batch, first + 2 * self.overhang, *others, kernel.shape[-2])
        for samples, rows in pieces:
            here = samples, slice(rows.start + self.overhang, rows.stop + self.overhang)
            z[here] = self._hidden_piece(pair, samples, rows, weight, cells)
        return z

    def _hidden_piece(self, pair: Pair, samples: slice, rows: slice, weight: Tensor, cells: int) -> Tensor:
        x, *lacking = self._haloed(pair, samples, rows)
        padding = self._padding(max(lacking), self.overhang)
        z = self._state(convolve(self._image(x), weight, padding, self.groups, cells))
        before, after = (max(lacking) - rows_lacking for rows_lacking in lacking)
        return z[:, before : z.shape[1] - after]

    def transpose(self, u: Tensor, kernel: Tensor) -> Tensor:
        """Return K^T z: convolve r -> C with the kernel turned round."""
        reach = self.reach if self.boundary == "zeros" else 2 * self.reach
        force = self._state(convolve(self._image(u), self._turned(kernel), self._padding(reach, reach), self.groups))
        return force if self.boundary == "zeros" else beyond.fold(force, self._axes, self.reach, self.boundary)

    def advance(self, pair: Pair, u: Tensor, kernel: Tensor) -> None:
        """Convolve r -> C piece by piece into the increment, and add that to the state while it is in the cache."""
        if self.boundary != "zeros":
            for samples, _ in self._cut(pair):
                pair.advance(samples, self.transpose(u[samples], kernel))
            return
        weight, padding = self._packed(self._turned(kernel)), self._padding(0, self.reach)
        for where in self._cut(pair):
            samples, rows = where
            image = self._image(u[samples, rows.start : rows.stop + 2 * self.reach])
            if pair.arithmetic.converts:
                pair.advance(where, self._state(convolve(image, weight, padding, self.groups)))
            else:
                add_convolution(self._image(pair.increment[where]), image, weight, padding, self.groups)
                pair.follow(where)

    def weight_gradient(self, pair: Pair, u: Tensor, kernel: Tensor) -> Tensor:
        """Correlate the state with a hidden tensor."""
        slab, sizes = pair.slab is not None, (pair.state.shape[-1], kernel.shape[-2])
        # Padding by more than the reach, for the rows beyond a slab, takes oneDNN three times as long.
        if self.boundary == "zeros" and self.groups == 1 and (slab or exchanges(*sizes, u.dtype, u.device.type)):
            return self._exchanged_weight_gradient(pair, u, kernel)
        first, shape = self.overhang, self._taps_last(kernel).shape
        more = first * slab  # of the rows beyond, those of a whole volume are zero
        if self._whole(pair):
            parts = iter([(pair.load(...), u if slab else self.own(u), self.reach + more)])
        else:
            parts = (
                _as_padded(u[at, rows.start + first : rows.stop + first], *self._haloed(pair, at, rows))
                for at, rows in self._cut(pair, more)
            )
        return self._taps_first(self._summed(parts, shape, self.overhang))

    def _exchanged_weight_gradient(self, pair: Pair, u: Tensor, kernel: Tensor) -> Tensor:
        """Correlate a hidden tensor, as the input of K^T, with the state; pieces of the state need no halo."""
        pieces = [(slice(None), slice(0, pair.state.shape[1]))] if self._whole(pair) else self._cut(pair)
        parts = ((u[at, rows.start : rows.stop + 2 * self.reach], pair.load((at, rows)), 0) for at, rows in pieces)
        total = self._summed(parts, self._taps_last(kernel.transpose(-1, -2)).shape, self.reach)
        return self._taps_first(total.transpose(0, 1)).flip(tuple(range(self.space)))

    def _summed(self, parts: Iterator[tuple[Tensor, Tensor, int]], shape: torch.Size, others: int) -> Tensor:
        """Correlate inputs, padded along the first axis and the `others`, with outcomes; add up in float32 at least."""
        total: Tensor | None = None
        for x, z, first in parts:
            padding = self._padding(first, others)
            found = convolution_weight_gradient(self._image(x), self._image(z), shape, padding, self.groups)
            found = found.to(at_least_single(found.dtype))
            total = found if total is None else total.add_(found)
            del x, z, found  # before the next is loaded
        assert total is not None
        return total

    def bias_gradient(self, z: Tensor) -> Tensor:
        """Sum over all axes but the last."""
        # In one go it takes thrice as long in bfloat16; samples apart, as their own rows are no block of memory.
        return torch.stack([rows.flatten(0, -2).to(at_least_single(z.dtype)).sum(0) for rows in z]).sum(0)


def _as_padded(z: Tensor, x: Tensor, before: int, after: int) -> tuple[Tensor, Tensor, int]:
    """Return x, the z that it has padded by as many rows at both ends, zero where they are too many, and how many."""
    rows = max(before, after)
    if before != after:
        z = F.pad(z, [0] * (2 * z.dim() - 4) + [rows - before, rows - after])
    return x, z, rows
