"""What every form of the symmetric operator K^T s(K x) can do, and the pair of states it works on.

B batch, N space (d axes), C channels, r rank. States are channels-last, [B, *N, C]; a kernel is [*taps, r, C / groups].
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from models.arithmetic import Arithmetic
from models.config import Boundary
from models.slab import Slab
from models.watch import Extremes


@dataclass
class Pair:
    """A state and its last increment, as an arithmetic keeps them, both stepped in place.

    Attributes
    ----------
    state, increment
        X_j and D_j, [B, *N, C].
    arithmetic, dtype
        How they are kept, and floating point of the network's input.
    extremes
        Where given, receives those of each piece of the force and of the new state.
    slab
        Where given, these are the rows of one slab, and others have the rest of the volume.
    """

    state: Tensor
    increment: Tensor
    arithmetic: Arithmetic
    dtype: torch.dtype
    extremes: Extremes | None = None
    slab: Slab | None = None

    def load(self, where: Any) -> Tensor:
        """Return a piece of the state for the force."""
        return self.arithmetic.load(self.state[where], self.dtype)

    def advance(self, where: Any, force: Tensor) -> None:
        """Step a piece: add the force to the increment and the increment to the state."""
        if self.extremes is not None:
            self.extremes.forces += force.aminmax()
        self.arithmetic.add(self.increment[where], force)
        self.follow(where)

    def follow(self, where: Any) -> None:
        """Add a piece's increment, which has had its force, to its state."""
        state = self.state[where].add_(self.increment[where])
        if self.extremes is not None:
            self.extremes.states += state.aminmax()

    def flat(self) -> "Pair":
        """View both as lists of cells, [B * cells, C]."""
        cells = (-1, self.state.shape[-1])
        return replace(self, state=self.state.view(cells), increment=self.increment.view(cells))


@dataclass(frozen=True)
class SymmetricOperator(ABC):
    """K as a convolution C -> r, and K^T with the same weights.

    Hidden tensors have a layout of the form's own.

    Attributes
    ----------
    row_axis
        Axis of hidden tensors along which slabs are cut.
    space, edge
        Number of space axes d, and odd edge length of the kernel in cells.
    boundary, groups
        What lies beyond the edge of the volume, and the groups of channels that are convolved apart.
    """

    row_axis: ClassVar[int]
    space: int
    edge: int
    boundary: Boundary = "zeros"
    groups: int = 1

    @property
    def reach(self) -> int:
        """Cells that the kernel reaches to each side."""
        return self.edge // 2

    @property
    def overhang(self) -> int:
        """Rows that a hidden tensor has at either end beyond those of its pair, as K^T reads them."""
        return self.reach if self.boundary == "zeros" else 0

    @abstractmethod
    def hidden(self, pair: Pair, kernel: Tensor) -> Tensor:
        """Return K x in the form's own layout."""

    def align(self, bias: Tensor) -> Tensor:
        """Give a bias [r] the shape that broadcasts against hidden tensors: its own where they have the rank last."""
        return bias

    def spread(self, z: Tensor, pair: Pair) -> Tensor:
        """Prepare a hidden tensor once for `advance` and `weight_gradient`, where the form needs that."""
        return z

    def join(self, z: Tensor, pair: Pair) -> Tensor:
        """Add to the rows of K x about a slab's faces, in place, what its neighbours have of them."""
        width = 2 * self.overhang
        if pair.slab is None or not width:
            return z
        before = z.narrow(self.row_axis, 0, width) if pair.slab.index else None
        after = z.narrow(self.row_axis, -width, width) if pair.slab.index < pair.slab.count - 1 else None
        for own, theirs in zip((before, after), pair.slab.trade(before, after), strict=True):
            if own is not None and theirs is not None:
                own.add_(theirs)
        return z

    def shut(self, z: Tensor, pair: Pair) -> Tensor:
        """Zero the rows of a hidden tensor that lie beyond the volume, in place."""
        width, slab = self.overhang, pair.slab
        if width:
            if slab is None or slab.index == 0:
                z.narrow(self.row_axis, 0, width).zero_()
            if slab is None or slab.index == slab.count - 1:
                z.narrow(self.row_axis, -width, width).zero_()
        return z

    def own(self, z: Tensor) -> Tensor:
        """Return the rows of a hidden tensor that are its slab's, or volume's, own."""
        width = self.overhang
        return z.narrow(self.row_axis, width, z.shape[self.row_axis] - 2 * width)

    @abstractmethod
    def advance(self, pair: Pair, u: Tensor, kernel: Tensor) -> None:
        """Step a pair by the force K^T z, for u = spread(z)."""

    @abstractmethod
    def weight_gradient(self, pair: Pair, u: Tensor, kernel: Tensor) -> Tensor:
        """Return the gradient of <K x, z> with respect to the kernel, for u = spread(z); at least in float32."""

    @abstractmethod
    def bias_gradient(self, z: Tensor) -> Tensor:
        """Sum a hidden tensor over batch and space, at least in float32: [r]."""


def at_least_single(dtype: torch.dtype) -> torch.dtype:
    """Return the precision in which gradients of a force in `dtype` are summed."""
    return torch.promote_types(dtype, torch.float32)
