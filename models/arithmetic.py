"""How states are kept between layers: in floating point, or as whole numbers on a grid, which makes the chain exact.

The leapfrog's coefficients are 2 and -1, so on a grid of spacing q = 2^-k nothing is ever rounded but the force:

    D_{j+1} = D_j + round(f_j / q),    X_{j+1} = X_j + D_{j+1},

and X_j = X_{j+1} - D_{j+1}, D_j = D_{j+1} - round(f_j / q) return the same bits, whatever precision the force was
computed in, as long as it is computed in the same way twice. Whole numbers wrap around where they overflow, which is
exact too; `models.watch` says when it happens. Gradients pass the rounding straight through. After Levesque and Verlet
(1993).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from models.config import NetworkConfig

_FORCE_TYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
_FINE = 18
_STATE_TYPES = {16: torch.int16, 32: torch.int32}


@dataclass(frozen=True)
class Arithmetic(ABC):
    """How states are kept; a `force_dtype` of none is the precision of the network's input."""

    force_dtype: torch.dtype | None = None

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Return real numbers as they are kept; always a copy."""

    @abstractmethod
    def decode(self, stored: Tensor, dtype: torch.dtype) -> Tensor:
        """Return what is kept as real numbers; always a copy."""

    @property
    def spacing(self) -> float:
        """Value of one unit of what is kept."""
        return 1.0

    @property
    def loaded_unit(self) -> float:
        """Value of one unit of what `load` returns, a power of two.

        1 where the force is in float16, whose range is too small for whole numbers.
        """
        return 1.0 if self.force_dtype is torch.float16 else self.spacing

    @property
    @abstractmethod
    def converts(self) -> bool:
        """Whether `load` makes a copy."""

    def load(self, stored: Tensor, dtype: torch.dtype) -> Tensor:
        """Return a piece of a state for the force, in its precision and in multiples of `loaded_unit`."""
        return stored.to(self.force_type(dtype))

    @abstractmethod
    def add(self, target: Tensor, force: Tensor) -> None:
        """Add a force, in multiples of `loaded_unit`, to a piece of a state in place."""

    def force_type(self, dtype: torch.dtype) -> torch.dtype:
        """Return the precision of the force for an input of `dtype`."""
        return self.force_dtype or dtype


@dataclass(frozen=True)
class FloatStates(Arithmetic):
    """States in the input's floating point: recovered to rounding, which grows with depth."""

    def encode(self, x: Tensor) -> Tensor:
        return x.clone()

    def decode(self, stored: Tensor, dtype: torch.dtype) -> Tensor:
        return stored.to(dtype, copy=True)

    @property
    def converts(self) -> bool:
        return self.force_dtype is not None

    def add(self, target: Tensor, force: Tensor) -> None:
        target.add_(force)


@dataclass(frozen=True)
class GridStates(Arithmetic):
    """States as whole numbers of 32 or 16 bits times 2^-grid_bits: recovered bit for bit at any depth."""

    state_bits: int = 32
    grid_bits: int = 20

    converts = True

    @property
    def spacing(self) -> float:
        return 2.0**-self.grid_bits

    @property
    def reach(self) -> float:
        """The largest state that fits."""
        return 2.0 ** (self.state_bits - 1 - self.grid_bits)

    @property
    def limit(self) -> float:
        """The largest state that is let pass.

        With forces of at most half the reach R, the next state 2 X_j - X_{j-1} + f stays below 13/8 R, so where it
        wraps around it comes out beyond 3/8 R again, and is seen.
        """
        return 3 / 8 * self.reach

    def encode(self, x: Tensor) -> Tensor:
        return (x * 2.0**self.grid_bits).round_().to(_STATE_TYPES[self.state_bits])

    def decode(self, stored: Tensor, dtype: torch.dtype) -> Tensor:
        return stored.to(dtype).mul_(self.spacing)

    def load(self, stored: Tensor, dtype: torch.dtype) -> Tensor:
        if self.force_dtype is torch.float16:
            return self.decode(stored, torch.float32).to(torch.float16)
        return super().load(stored, dtype)

    def add(self, target: Tensor, force: Tensor) -> None:
        if self.force_dtype is torch.float16:
            force = force.to(torch.float32).mul_(2.0**self.grid_bits)
        # On a grid this fine a force in bfloat16 is made of whole numbers but for the smallest, so cutting is rounding.
        whole = force if force.dtype is torch.bfloat16 and self.grid_bits >= _FINE else force.round_()
        whole = whole.to(torch.int32)
        # By way of int32 where states have 16 bits: a force beyond their range then wraps as their sum does.
        target.add_(whole.to(target.dtype))


def choose_arithmetic(config: NetworkConfig) -> Arithmetic:
    """Return the arithmetic of a configuration."""
    force = _FORCE_TYPES[config.force_dtype]
    return GridStates(force, config.state_bits, config.grid) if config.exact else FloatStates(force)
