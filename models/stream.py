"""One volume through one device: its slabs take turns, and the others' states wait elsewhere (`models.shelf`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from models.shelf import FileShelf, HostShelf, Shelf
from models.slab import Slab


@dataclass(frozen=True)
class Stream:
    """How volumes pass through a device: in how many slabs of the first axis of space."""

    slabs: int
    scratch: Path | None = None  # folder of a file in which states wait; none means the memory of the host


@dataclass
class Turn:
    """A slab's place among those that take turns; its neighbours add their part when their turn comes."""

    index: int
    count: int

    def trade(self, before: Tensor | None, after: Tensor | None) -> tuple[None, None]:
        """Return nothing yet."""
        return None, None

    def over_all(self, numbers: Tensor, how: Literal["sum", "max"]) -> Tensor:
        """Return them: the chain itself adds up over the turns."""
        return numbers


@dataclass(frozen=True)
class Parts:
    """How the rows of an input are worked on: at once, as all or one `slab` of a volume, or in turns."""

    rows: Sequence[slice]  # of the first axis of space, of each part
    slab: Slab | None = None  # that these are, where other ranks have the rest of the volume
    scratch: Path | None = None  # as in `Stream`

    @property
    def in_turns(self) -> bool:
        """Whether there are several."""
        return len(self.rows) > 1

    def places(self) -> list[Slab | None]:
        """Return the place of each part among the slabs of the volume."""
        count = len(self.rows)
        return [Turn(at, count) if self.in_turns else self.slab for at in range(count)]

    def on(self, size: int) -> Sequence[slice]:
        """Return the rows of each part on a coarser or finer axis of `size` cells."""
        if not self.in_turns:
            return self.rows
        whole = self.rows[-1].stop
        return [slice(rows.start * size // whole, rows.stop * size // whole) for rows in self.rows]

    def shelf(self, device: torch.device) -> Shelf:
        """Return a place to wait for slabs that are worked on by a device."""
        if self.in_turns and self.scratch is not None:
            return FileShelf(device, self.scratch)
        return HostShelf(device) if self.in_turns and device.type != "cpu" else Shelf()


AT_ONCE = Parts([slice(None)])
