"""Bytes that a layer's operations take beside the states: what `convolution`, `winograd` and others allocate.

Each function walks through one operation in the order of the code it stands for, on a ledger.
B batch, N space, C channels, r rank, T taps, M = B * cells.
"""

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from models.arithmetic import Arithmetic, GridStates
from models.convolution import Convolution
from models.cost import LayerShape
from models.kernels import ONEDNN_LEAST, cells_at_once, exchanges
from models.pieces import PIECE_BYTES, cells_of_piece, rows_of_piece
from models.winograd import blocks_at_once, pays

SINGLE = 4
"""Bytes of the input's and the adjoint's numbers: float32."""


@dataclass(frozen=True)
class Kept:
    """How one side of the chain, the states or the adjoint, is kept and worked on.

    A number has `stored` bytes as it is kept, and `force` bytes where the force is made of it, for which a piece may be
    converted first. A `grid` has whole numbers; a force on it in `half`, float16, takes a detour by float32, as does
    the gradient of a kernel that is `widened`.
    """

    stored: int
    force: int
    converts: bool
    grid: bool
    half: bool
    widened: bool

    @classmethod
    def of(cls, arithmetic: Arithmetic) -> "Kept":
        """Read it off an arithmetic, for an input in float32."""
        grid = isinstance(arithmetic, GridStates)
        stored = arithmetic.state_bits // 8 if isinstance(arithmetic, GridStates) else SINGLE
        force = arithmetic.force_type(torch.float32)
        half = force is torch.float16
        return cls(stored, force.itemsize, arithmetic.converts, grid, grid and half, half)

    @property
    def loading(self) -> int:
        """Bytes a number that loading takes at its fullest."""
        return self.force + (SINGLE if self.half else 0) if self.converts else 0

    @property
    def adding(self) -> int:
        """Bytes a number that adding a force takes, with the force."""
        extra = (SINGLE if self.half else 0) + SINGLE + (2 if self.stored == 2 else 0)
        return self.force + (extra if self.grid else 0)


class Ledger:
    """Allocations in the order in which they happen: bytes held `now`, and at the `peak`."""

    def __init__(self) -> None:
        self.now = 0
        self.peak = 0

    def hold(self, size: float) -> int:
        """Take bytes; returns how many, to give back later."""
        self.now += int(size)
        self.peak = max(self.peak, self.now)
        return int(size)

    def drop(self, *sizes: int) -> None:
        """Give bytes back."""
        self.now -= sum(sizes)

    def touch(self, size: float) -> None:
        """Take bytes and give them back at once."""
        self.peak = max(self.peak, self.now + int(size))

    @contextmanager
    def holding(self, size: float) -> Iterator[None]:
        """Hold bytes for as long as the context lasts."""
        held = self.hold(size)
        yield
        self.drop(held)


class LayerBytes:
    """The temporaries of one layer on a batch, or on a slab of it, booked on a ledger; `cells` is M."""

    def __init__(self, shape: LayerShape, batch: int, ledger: Ledger, threads: int = 1) -> None:
        self.shape, self.batch, self.ledger, self.threads = shape, batch, ledger, threads
        self.device = "cpu" if threads else "cuda"
        self.most = PIECE_BYTES[self.device]
        self.cells = batch * shape.cells
        self.sample, self.row = shape.channels * shape.cells, shape.channels * math.prod(shape.sizes[1:])  # numbers
        self.convolves = isinstance(shape.operator, Convolution)
        self.zeros, self.reach = shape.operator.boundary == "zeros", shape.operator.reach
        self.wide = 1 + 2 * shape.operator.overhang / shape.sizes[0]

    def thin(self, kept: Kept) -> int:
        """Return the bytes of a hidden tensor, r M, with the rows beyond its ends."""
        return int(self.shape.rank * self.cells * kept.force * self.wide)

    def spread_bytes(self, kept: Kept) -> int:
        """Return the bytes of a hidden tensor that is ready for use: T r M for products."""
        return self.thin(kept) if self.convolves else self.shape.taps * self.shape.rank * self.cells * kept.force

    def _grown(self, reach: int, axes: slice = slice(None)) -> float:
        """Return by how much a grid grows that is padded at both ends of some axes, by default all."""
        return math.prod(1 + 2 * reach / size for size in self.shape.sizes[axes])

    def _folding(self, size: int, reach: int) -> float:
        """Return the bytes at the fullest moment of folding a padded grid, whose cells alone take `size`."""
        # Folded axis by axis: the first axes are narrow already.
        wide = [size * self._grown(reach, slice(axis, None)) for axis in range(len(self.shape.sizes) + 1)]
        return max([wide[0] + wide[1]] + [wide[0] + a + b for a, b in itertools.pairwise(wide[1:])])

    def _whole(self, kept: Kept) -> bool:
        return self.zeros and not kept.converts and self.threads > 0

    def _piece(self, kept: Kept) -> int:
        channels = self.shape.channels
        if self.convolves:
            return rows_of_piece(self.batch, self.shape.sizes, channels * kept.stored, self.device) * channels
        weight = self.shape.kernel * kept.force
        return cells_of_piece(self.cells, channels * kept.stored, weight, self.device) * channels

    def _loaded_with_halo(self, kept: Kept) -> tuple[int, int]:
        """Return the bytes of what a convolution reads at once, and those at the fullest moment of making it."""
        if self.zeros:
            piece = self._piece(kept)
            numbers = max(piece, min(piece + 2 * self.reach * self.row, self.sample)) * kept.converts
            return numbers * kept.force, numbers * kept.loading
        stages = [self.sample * kept.loading] + [
            int(self.sample * kept.force * self._grown(self.reach, slice(axes)))
            for axes in range(1, len(self.shape.sizes) + 1)
        ]
        return stages[-1], max(a + b for a, b in itertools.pairwise(stages))

    def _packed(self, kept: Kept) -> int:
        shape, edge = self.shape, self.shape.operator.edge
        one = shape.operator.groups > 1 or len(shape.sizes) == 1
        dtype = torch.float32 if kept.force == SINGLE else torch.bfloat16
        cells = 1 if one else cells_at_once(shape.sizes[-1], shape.rank, dtype, self.device)
        return int(shape.kernel * kept.force * cells * (edge + cells - 1) / edge)

    def _sixes(self, kept: Kept) -> tuple[int, int, int]:
        """Return the bytes of six rows of state and of hidden tensor, made of a piece, and of six kernels, or zeros."""
        shape, threads = self.shape, self.threads
        if not threads or kept.converts or not pays(shape.operator, shape.sizes, shape.channels, shape.rank, threads):
            return 0, 0, 0
        wide = 6 * blocks_at_once(shape.sizes[0], self.row * SINGLE) * self.row * SINGLE
        return wide, wide * shape.rank // shape.channels, 2 * shape.kernel * SINGLE

    def hidden(self, kept: Kept) -> None:
        """Book what K x takes at its fullest; its result is held afterwards by who asked for it."""
        thin, ledger = self.thin(kept), self.ledger
        wide, narrow, kernels = self._sixes(kept)
        if wide:
            packed = 2 * self._packed(kept)
            ledger.touch(wide + narrow + max(kernels + packed * (packed > kernels), thin + packed + narrow / 6))
            return
        if not self.convolves:
            planes = self.spread_bytes(kept)
            if kept.converts:
                piece = self._piece(kept)
                product = piece // self.shape.channels * self.shape.taps * self.shape.rank * kept.force
                ledger.touch(planes + max(piece * kept.loading, piece * kept.force + product))
            padded = 0 if self.zeros else planes * self._grown(self.reach, slice(1))
            ledger.touch(planes + padded + planes / self.shape.operator.edge * self.wide)
            return
        if self._whole(kept):
            ledger.touch(thin + self._packed(kept))
            return
        several = self.batch * self.sample * kept.stored > self.most if self.zeros else self.batch > 1
        piece = self._piece(kept) if self.zeros else self.sample
        found = piece // self.shape.channels * self.shape.rank * kept.force * several
        loaded, making = self._loaded_with_halo(kept)
        ledger.touch(thin + self._packed(kept) + max(making, loaded + found))

    def spread(self, kept: Kept) -> None:
        """Book what spreading takes beside its argument; for convolutions nothing, they use the tensor itself."""
        if self.convolves:
            return
        planes, thin = self.spread_bytes(kept), self.thin(kept)
        if self.zeros:
            self.ledger.touch(planes + thin * self._grown(self.reach, slice(1, None)))
        else:
            self.ledger.touch(self._folding(planes, self.reach) + thin * self._grown(2 * self.reach))

    def advance(self, kept: Kept) -> None:
        """Book what a step by the force takes beside the spread tensor."""
        wide, narrow, kernels = self._sixes(kept)
        if wide:
            self.ledger.touch(2 * kernels + wide + narrow + wide / 6)
            return
        if not self.convolves or self.zeros:
            in_place = not kept.converts and self.convolves == (self.threads > 0)
            if self.convolves:
                copied = 2 * self.shape.kernel * kept.force
            else:
                piece = self._piece(kept)
                fast = kept.force == SINGLE and self.threads > 0  # by oneDNN, which wants rows
                turned = piece // self.shape.channels * (fast and piece < self.batch * self.sample)
                copied = turned * self.shape.taps * self.shape.rank * SINGLE
            self.ledger.touch(copied + (0 if in_place else self._piece(kept) * kept.adding))
            return
        self.ledger.touch(max(self._folding(self.sample * kept.force, self.reach), self.sample * kept.adding))

    def weight_gradient(self, kept: Kept) -> None:
        """Book what the gradient of the kernel takes, with its result."""
        result = self.shape.kernel * SINGLE
        wide, narrow, kernels = self._sixes(kept)
        if wide:
            self.ledger.touch(3 * result + kernels + wide + narrow)
        elif self.convolves:
            loaded, making = (0, 0) if self._whole(kept) else self._loaded_with_halo(kept)
            several = 3 if not self._whole(kept) and self.batch * self.sample * kept.stored > self.most else 2
            single = loaded // kept.force * SINGLE * kept.widened
            self.ledger.touch(several * result + max(loaded + single + self._halves(kept), making))
        else:
            single = (kept.force + SINGLE) * kept.widened
            self.ledger.touch(2 * result + self._piece(kept) * max(kept.loading, single))

    def _halves(self, kept: Kept) -> int:
        channels, rank, *_, last = self.shape.channels, self.shape.rank, *self.shape.sizes
        numbers = self._piece(kept) if self.zeros and kept.converts else self.sample
        exchanged = exchanges(channels, rank, torch.float32, self.device)
        read = numbers * rank // channels if exchanged else numbers
        small = read <= ONEDNN_LEAST * (1, 1, last)[len(self.shape.sizes) - 1]
        single = kept.force == SINGLE or kept.widened
        if not self.threads or len(self.shape.sizes) < 2 or self.batch > 1 or not single or not small:
            return 0
        return (0 if exchanged else 2 * numbers * SINGLE) + 2 * numbers * rank // channels * SINGLE

    def resample(self, kept: Kept, *, back: bool = False) -> None:
        """Book the pieces of a turn of the grid, done in place, or of its way back with the gradient of its angles."""
        if not self.shape.resample:
            return
        block = self.row if self.shape.resample == "coarsen" else 2 * self.row  # two rows of the finer grid
        blocks = max(1, self.batch * self.sample // block)
        piece = cells_of_piece(blocks, block * kept.stored, device=self.device) * block
        self.ledger.touch(piece * (7 if kept.grid else kept.stored * (2 if back and self.shape.angles else 1)))
