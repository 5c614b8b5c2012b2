"""K through PyTorch's convolutions, channels-last: the better form where channels are few or the rank is high.

B batch, N space, C channels, r rank, g groups. Hidden tensors are [B, *N, r].
"""

import torch
from torch import Tensor

from models import boundary as beyond
from models.kernels import add_convolution, convolution_weight_gradient, convolve
from models.pieces import cut_grid
from models.symmetric import Pair, SymmetricOperator, at_least_single

_FEW = 32
"""Channels below which a vector of the processor holds several cells."""


class Convolution(SymmetricOperator):
    """K as a convolution; K^T is one too, with the kernel turned round.

    A 1-D state is an image of one row, because channels-last convolutions start at two dimensions.
    """

    row_axis = 1

    def _image(self, x_BNC: Tensor) -> Tensor:
        return (x_BNC.unsqueeze(1) if self.space == 1 else x_BNC).movedim(-1, 1)

    def _state(self, x_BCN: Tensor) -> Tensor:
        x_BNC = x_BCN.movedim(1, -1)
        return x_BNC.squeeze(1) if self.space == 1 else x_BNC

    def _taps_last(self, kernel: Tensor) -> Tensor:
        """Return a kernel [*taps, p, q] as a weight [p, q, *taps] of a convolution q -> p."""
        return (kernel.unsqueeze(0) if self.space == 1 else kernel).movedim((-2, -1), (0, 1))

    def _taps_first(self, weight: Tensor) -> Tensor:
        """Undo `_taps_last`."""
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
        """Return the padding of the first axis and of the others, in the axes that the convolution has."""
        padding = [first] + [others] * (self.space - 1)
        return [0, *padding] if self.space == 1 else padding

    @property
    def _axes(self) -> range:
        return range(1, self.space + 1)

    @property
    def _own_zeros(self) -> int:
        """Zeros that the convolution adds by itself at each end of an axis."""
        return self.reach if self.boundary == "zeros" else 0

    def _haloed(self, pair: Pair, samples: slice, rows: slice) -> Tensor:
        """Load some rows of a state and those that the kernel reaches, zero or padded beyond the volume."""
        if self.boundary != "zeros":
            return beyond.pad(pair.load(samples), self._axes, self.reach, self.boundary)
        total, reach = pair.state.shape[1], self.reach
        start, stop = max(rows.start - reach, 0), min(rows.stop + reach, total)
        loaded = pair.load((samples, slice(start, stop)))
        missing = (start - (rows.start - reach), rows.stop + reach - stop)
        if not any(missing):
            return loaded
        ends = [loaded.new_zeros(loaded.shape[0], rows_missing, *loaded.shape[2:]) for rows_missing in missing]
        return torch.cat([ends[0], loaded, ends[1]], dim=1)

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

    def _ended(self, u: Tensor, pair: Pair) -> Tensor:
        """Add the zeros that K^T reads beyond the first and the last row of a hidden tensor; a slab's has its own."""
        if self.overhang(pair):
            return u
        ends = u.new_zeros(u.shape[0], self.reach, *u.shape[2:])
        return torch.cat([ends, u, ends], dim=1)

    def _whole(self, pair: Pair) -> bool:
        return self.boundary == "zeros" and not pair.arithmetic.converts

    def convolved(self, x_BNC: Tensor, kernel: Tensor, overhang: int = 0) -> Tensor:
        """Convolve C -> r in one call, and some rows beyond either end of the first axis."""
        if self.boundary != "zeros":
            x_BNC = beyond.pad(x_BNC, self._axes, self.reach, self.boundary)
        padding = self._padding(self._own_zeros + overhang, self._own_zeros)
        return self._state(convolve(self._image(x_BNC), self._taps_last(kernel), padding, self.groups))

    def hidden(self, pair: Pair, kernel: Tensor) -> Tensor:
        """Convolve C -> r, piece by piece where loading the state makes a copy."""
        if self._whole(pair):
            return self.convolved(pair.load(...), kernel, self.overhang(pair))
        weight = self._packed(self._taps_last(kernel))
        parts: dict[int, list[Tensor]] = {}
        for samples, rows in self._cut(pair, self.overhang(pair)):
            image = self._image(self._haloed(pair, samples, rows))
            z = self._state(convolve(image, weight, self._padding(0, self._own_zeros), self.groups))
            parts.setdefault(samples.start, []).append(z)
        # One allocation for all; a single piece is its own result.
        rows_joined = [torch.cat(pieces, dim=1) if len(pieces) > 1 else pieces[0] for pieces in parts.values()]
        return torch.cat(rows_joined) if len(rows_joined) > 1 else rows_joined[0]

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
        weight, padding, padded = self._packed(self._turned(kernel)), self._padding(0, self.reach), self._ended(u, pair)
        for where in self._cut(pair):
            samples, rows = where
            image = self._image(padded[samples, rows.start : rows.stop + 2 * self.reach])
            if pair.arithmetic.converts:
                pair.advance(where, self._state(convolve(image, weight, padding, self.groups)))
            else:
                add_convolution(self._image(pair.increment[where]), image, weight, padding, self.groups)
                pair.follow(where)

    def weight_gradient(self, pair: Pair, u: Tensor, kernel: Tensor) -> Tensor:
        """Correlate the state with a hidden tensor."""
        if self.boundary == "zeros" and exchanges(
            self.space, pair.state.shape[-1], self.groups, u.dtype, u.device.type
        ):
            return self._exchanged_weight_gradient(pair, u, kernel)
        shape, more = self._taps_last(kernel).shape, self.overhang(pair)
        if self._whole(pair):
            padding = self._padding(self.reach + more, self.reach)
            total = convolution_weight_gradient(
                self._image(pair.load(...)), self._image(u), shape, padding, self.groups
            )
        else:
            total = u.new_zeros(shape, dtype=at_least_single(u.dtype))
            for samples, rows in self._cut(pair, more):
                image = self._image(self._haloed(pair, samples, rows))
                hidden = self._image(u[samples, rows.start + more : rows.stop + more])
                padding = self._padding(0, self._own_zeros)
                total += convolution_weight_gradient(image, hidden, shape, padding, self.groups)
        return self._taps_first(total)

    def _exchanged_weight_gradient(self, pair: Pair, u: Tensor, kernel: Tensor) -> Tensor:
        """Correlate a hidden tensor, as the input of K^T, with the state; pieces of the state need no halo."""
        shape = self._taps_last(kernel.transpose(-1, -2)).shape
        pieces = self._cut(pair) if pair.arithmetic.converts else [(slice(None), slice(0, pair.state.shape[1]))]
        first = self.reach - self.overhang(pair)
        if pair.arithmetic.converts or (self.space == 3 and pair.state.shape[-1] < _FEW):
            # oneDNN takes twice the time to pad the first axis of a volume of few channels by itself.
            first, u = 0, self._ended(u, pair)
        total = u.new_zeros(shape, dtype=at_least_single(u.dtype))
        for samples, rows in pieces:
            hidden = self._image(u[samples, rows.start : rows.stop + 2 * (self.reach - first)])
            image, padding = self._image(pair.load((samples, rows))), self._padding(first, self.reach)
            total += convolution_weight_gradient(hidden, image, shape, padding)
        return self._taps_first(total.transpose(0, 1)).flip(tuple(range(self.space)))

    def bias_gradient(self, z: Tensor) -> Tensor:
        """Sum over all axes but the last."""
        return z.flatten(0, -2).to(at_least_single(z.dtype)).sum(0)  # in one go takes thrice as long in bfloat16


def exchanges(space: int, channels: int, groups: int, dtype: torch.dtype, device: str) -> bool:
    """Tell whether the weight gradient is faster as that of K^T, whose input is the thin hidden tensor.

    Measured with oneDNN on AVX-512: with 64 channels and rank 8 in 2-D it takes 0.6 of the time, in bfloat16 0.7 to 1;
    in 3-D and float32 twice the time with 96 channels, but 0.6 with 12. On AVX2 it takes 0.4 to 0.7 of it.
    """
    avx2 = device == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
    return groups == 1 and (dtype != torch.float32 or space < 3 or channels < _FEW or avx2)
