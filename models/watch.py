"""What a chain tells about itself: the error of its inversion, and whether its states stay on the grid."""

import math
import warnings
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.arithmetic import GridStates
from models.slab import Slab, largest_of_all

DRIFT = 1e-3
"""Relative error of the recovered input above which gradients are no longer to be trusted."""


class GridOverflowError(ArithmeticError):
    """A state has left the grid that keeps it exact: the message names the layer and the way out."""


@dataclass
class Watch:
    """Where the passes of a chain leave what they saw.

    The `error`, a 0-d tensor, is the relative one of the input that the last backward pass recovered. There should be
    none where states are `exact`; it is `warned` of once.
    """

    error: Tensor | None = None
    warned: bool = False
    exact: bool = False

    def warn_of_drift(self) -> None:
        """Warn, once, where the last backward pass went along states that are not those of the forward pass."""
        most = 0 if self.exact else DRIFT
        if self.warned or self.error is None or float(self.error) <= most:
            return
        self.warned = True
        warnings.warn(
            f"the backward pass recovered its input with a relative error of {float(self.error):.1e}, above {most}: "
            "its gradients are those of other states; "
            + ("this device gave a force other bits the second time" if self.exact else "set network.states to exact"),
            RuntimeWarning,
            stacklevel=2,
        )


@dataclass
class Extremes:
    """The smallest and the largest numbers of one layer, piece by piece, as 0-d tensors that are read when wanted.

    Of the resampled and the new state they are whole numbers, of the force not rounded yet; NaN where one is.
    """

    states: list[Tensor] = field(default_factory=list)
    forces: list[Tensor] = field(default_factory=list)


def check_input(grid: GridStates, x: Tensor, slab: Slab | None = None) -> None:
    """Refuse an input, in all its slabs, that the grid does not hold with room to grow.

    `GridOverflowError` with the largest value, and what to set.
    """
    largest = float(largest_of_all(x.abs().max(), slab)) if x.numel() else 0.0
    if math.isnan(largest):
        raise GridOverflowError("the input has numbers that are NaN, which exact states cannot hold; replace them")
    if largest > grid.limit:
        raise GridOverflowError(
            f"the input reaches {largest:.4g}, but states are kept exactly only up to {grid.limit:.4g}; "
            f"{_way_out(grid)}"
        )


def check_layers(grid: GridStates, extremes: list[Extremes], slab: Slab | None = None) -> None:
    """Refuse states and forces so large that the next state could wrap around unnoticed, and forces that are NaN.

    `GridOverflowError` with the first layer that went too far; `extremes` has what was seen in each.
    """
    if not extremes:
        return
    states = _largest([seen.states for seen in extremes], slab) * grid.spacing
    forces = _largest([seen.forces for seen in extremes], slab) * grid.loaded_unit
    beyond = (~((states <= grid.limit) & (forces <= grid.reach / 2))).nonzero()
    if not len(beyond):
        return
    at = int(beyond[0])
    layer, state, force = f"layer {at + 1} of {len(extremes)}", float(states[at]), float(forces[at])
    if math.isnan(force):
        raise GridOverflowError(
            f"{layer} has a force that is NaN: its weights are, or overflowed; go back to an earlier checkpoint and "
            "train more gently (a smaller rate)"
        )
    what = f"pushes the state by {force:.4g}" if force > grid.reach / 2 else f"takes the state to {state:.4g}"
    raise GridOverflowError(
        f"{layer} {what}, but states are kept exactly only up to {grid.limit:.4g}; {_way_out(grid)}, or train more "
        "gently (a smaller rate or network.init_gain)"
    )


def _largest(values: list[list[Tensor]], slab: Slab | None) -> Tensor:
    """Return the largest magnitude of each layer over all slabs, read from the device at once; NaN where one is."""
    widest = max(len(of_layer) for of_layer in values)
    table = torch.stack([torch.stack(of_layer + of_layer[:1] * (widest - len(of_layer))) for of_layer in values])
    return largest_of_all(torch.maximum(table.amax(1).double(), -table.amin(1).double()), slab).cpu()


def _way_out(grid: GridStates) -> str:
    fewer = max(grid.grid_bits - 4, 1)
    return f"set network.grid_bits to {fewer} or less (it is {grid.grid_bits})" + (
        ", network.state_bits to 32" if grid.state_bits == 16 else ""
    )
