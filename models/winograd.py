"""K along its first axis by Winograd's minimal filtering: four rows of K x from six products, not from twelve.

Three matrices of small numbers make six of each out of six rows of x, four rows of z and three taps of the kernel:

    K x = A^T [(G k) (B^T x)],    K^T z = B [(G k)^T (A z)],    d<K x, z> / dk = G^T [(A z) (B^T x)],

where each product in brackets is a convolution over the other axes. F(4, 3) of Lavin and Gray (arXiv 1509.09308), for
float32 on a CPU; it rounds twice as much as a direct convolution.
N space, P the grid of a row, C channels, r rank, b blocks of four rows.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from models.convolution import Convolution
from models.kernels import cells_at_once, convolution_weight_gradient, convolve, for_cells, onednn_serves
from models.symmetric import Pair, SymmetricOperator

_matrix = partial(torch.tensor, dtype=torch.float32, device="cpu")
_A = _matrix([[1, 0, 0, 0], [1, 1, 1, 1], [1, -1, 1, -1], [1, 2, 4, 8], [1, -2, 4, -8], [0, 0, 0, 1]])
_B_T = _matrix([
    [4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1],
])  # fmt: skip
_G = _matrix([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
_PADDING = [1, 1]
_SIX_BYTES = 4 * 2**20
"""Of B^T x of a piece: for less, calls cost more than the cache saves."""


def pays(operator: SymmetricOperator, sizes: Sequence[int], channels: int, rank: int, threads: int) -> bool:
    """Tell whether this is faster than a direct convolution, as measured on cores with AVX-512 and with AVX2.

    On small grids the calls weigh too much, thin slabs are less than what is made of them, and several threads wait for
    the memory, unless there is much to compute.
    """
    rows, *grid = sizes
    large = rows > 15 and math.prod(grid) >= 200 and math.prod(grid) * channels >= 2**15
    known = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    return isinstance(operator, WinogradConvolution) and large and known and 16 * threads <= max(16, rank)


def blocks_at_once(rows: int, row_bytes: int) -> int:
    """Return how many blocks are worked on at once, for `rows` of `row_bytes` bytes each."""
    return min(math.ceil(rows / 4), max(2, _SIX_BYTES // (6 * row_bytes)))


@dataclass(frozen=True)
class _Block:
    """Four rows of z, fewer at an end, by their place in a hidden tensor, and the rows of x that they are made of."""

    z: slice
    x: slice
    six: slice  # which of six rows these are
    final: int  # rows of x to which no later block adds


def _cut(rows: int, beyond: int) -> list[_Block]:
    """Cut the rows of K x into blocks; of a slab, those `beyond` its own too."""
    end = rows + beyond
    return [
        _Block(
            z=slice(at + 1, min(at + 4, end) + 1),
            x=slice(max(at - 1, 0), min(at + 5, rows)),
            six=slice(max(1 - at, 0), min(at + 5, rows) - at + 1),
            final=at + 3 if at + 4 < end else rows,
        )
        for at in range(-beyond, end, 4)
    ]


@dataclass(frozen=True)
class _Piece:
    """Some blocks of a sample; rows of x before `start` are final already."""

    sample: int
    start: int
    blocks: Sequence[_Block]

    def read(self, x_BNC: Tensor, room: Tensor) -> Tensor:
        """Return B^T x in `room`: [6, b, *P, C]."""
        for at, block in enumerate(self.blocks):
            torch.mm(_B_T[:, block.six], x_BNC[self.sample, block.x].flatten(1), out=room[:, at].flatten(1))
        return room[:, : len(self.blocks)]

    def widen(self, z_BNr: Tensor, room: Tensor) -> Tensor:
        """Return A z in `room`: [6, b, *P, r]."""
        for at, block in enumerate(self.blocks):
            rows = z_BNr[self.sample, block.z].flatten(1)
            torch.mm(_A[:, : len(rows)], rows, out=room[:, at].flatten(1))
        return room[:, : len(self.blocks)]

    def step(self, pair: Pair, force: Tensor) -> None:
        """Add B f, for f [6, b, *P, C], to the increment, and that to the rows of the state that are final now."""
        for at, block in enumerate(self.blocks):
            rows = pair.increment[self.sample, block.x]
            rows.view(len(rows), -1).addmm_(_B_T[:, block.six].T, force[:, at].flatten(1))
        pair.follow((self.sample, slice(self.start, self.blocks[-1].final)))


class WinogradConvolution(Convolution):
    """K over a volume, with zeros beyond and 3 x 3 x 3 taps; in the direct form where that is faster."""

    @property
    def _plane(self) -> Convolution:
        return Convolution(self.space - 1, self.edge)

    def _serves(self, pair: Pair, rank: int) -> bool:
        single = onednn_serves(pair.state) and not pair.arithmetic.converts
        return single and pays(self, pair.state.shape[1:-1], pair.state.shape[-1], rank, torch.get_num_threads())

    def _pieces(self, pair: Pair, rank: int) -> tuple[list[_Piece], Tensor, Tensor]:
        """Cut a pair into pieces, and make room for the six rows of one: [6, b, *P, C] and [6, b, *P, r]."""
        batch, rows, *grid, channels = pair.state.shape
        blocks = _cut(rows, int(pair.slab is not None))
        some = blocks_at_once(rows, math.prod(grid) * channels * pair.state.element_size())
        pieces = [
            _Piece(sample, blocks[first - 1].final if first else 0, blocks[first : first + some])
            for sample, first in itertools.product(range(batch), range(0, len(blocks), some))
        ]
        wide, thin = (pair.state.new_empty(6, some, *grid, width) for width in (channels, rank))
        return pieces, wide, thin

    def hidden(self, pair: Pair, kernel: Tensor) -> Tensor:
        (batch, rows, *grid, _), rank = pair.state.shape, kernel.shape[-2]
        if not self._serves(pair, rank):
            return super().hidden(pair, kernel)
        plane, (pieces, wide, thin) = self._plane, self._pieces(pair, rank)
        cells = cells_at_once(grid[-1], rank, kernel.dtype, "cpu")
        weights = [for_cells(plane._taps_last(k), cells) for k in torch.tensordot(_G, kernel, 1)]
        z = kernel.new_empty(batch, rows + 2, *grid, rank)
        z[:, [0, -1]] = 0  # rows beyond, which only a slab computes
        for piece in pieces:
            for x, out, weight in zip(piece.read(pair.state, wide), thin, weights, strict=True):
                out[: len(x)] = plane._state(convolve(plane._image(x), weight, _PADDING, 1, cells))
            for at, block in enumerate(piece.blocks):
                out = z[piece.sample, block.z].flatten(1)
                torch.mm(_A.T[: len(out)], thin[:, at].flatten(1), out=out)
        return z

    def advance(self, pair: Pair, u: Tensor, kernel: Tensor) -> None:
        if not self._serves(pair, u.shape[-1]):
            return super().advance(pair, u, kernel)
        plane, (pieces, wide, thin) = self._plane, self._pieces(pair, u.shape[-1])
        weights = [plane._packed(plane._turned(k)) for k in torch.tensordot(_G, kernel, 1)]
        for piece in pieces:
            force = wide[:, : len(piece.blocks)]
            for z, out, weight in zip(piece.widen(u, thin), force, weights, strict=True):
                out.copy_(plane._state(convolve(plane._image(z), weight, _PADDING)))
            piece.step(pair, force)

    def weight_gradient(self, pair: Pair, u: Tensor, kernel: Tensor) -> Tensor:
        if not self._serves(pair, u.shape[-1]):
            return super().weight_gradient(pair, u, kernel)
        plane, (pieces, wide, thin) = self._plane, self._pieces(pair, u.shape[-1])
        shape = plane._taps_last(kernel[0].mT).shape  # that of K^T, whose outcome, the wider tensor, fills vectors
        total = u.new_zeros(6, *shape)
        for piece in pieces:
            for z, x, sums in zip(piece.widen(u, thin), piece.read(pair.state, wide), total, strict=True):
                sums += convolution_weight_gradient(plane._image(z), plane._image(x), shape, _PADDING)
        turned = [plane._taps_first(taps.transpose(0, 1)) for taps in torch.tensordot(_G, total, ([0], [0]))]
        return torch.stack(turned).flip((1, 2))
