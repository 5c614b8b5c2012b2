"""Map a volume in one piece, or block by block amid a halo where it does not fit: the same cells, the same values."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import ceil, floor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datasets.samples.blocks import Window, plan_map

Cells = tuple[slice, ...]
"""A part of the space, a slice along each axis."""
Wanted = Callable[[Cells], bool]
"""Whether anything is wanted of a block."""
Read = Callable[[Cells], np.ndarray]
"""From a part of the space to raw data, float32 [C, *N]; NaN = no data."""


@dataclass(frozen=True)
class Tiling:
    """Blocks in which a volume is mapped.

    Attributes
    ----------
    block
        Cells along each space axis that one pass of the network maps.
    halo
        Cells around them, on either side, that it sees too. From the network's reach on (`models.reach`) no seam is
        left: every cell has the value that it has in the whole volume.
    """

    block: tuple[int, ...]
    halo: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain lists."""
        return asdict(self)

    @classmethod
    def from_json(cls, text: dict[str, Any] | None) -> "Tiling | None":
        """Undo `to_json`; none stays none."""
        return None if text is None else cls(tuple(text["block"]), tuple(text["halo"]))

    def __str__(self) -> str:
        block, halo = (" x ".join(map(str, cells)) for cells in (self.block, self.halo))
        return f"blocks of {block} cells amid a halo of {halo} cells"


@dataclass(frozen=True)
class OutputGrid:
    """How the output's cells lie on the input's.

    Attributes
    ----------
    multiple
        Cells of the input in a cell of the network's coarsest grid.
    factor
        The output's grid is coarser by this.
    gone
        Space axes that the output lacks, each with the cell at which it is read; they are never cut.
    """

    multiple: int = 1
    factor: float = 1
    gone: Sequence[int] = ()

    @classmethod
    def of(cls, model: nn.Module, gone: Sequence[int]) -> "OutputGrid":
        """Read it off a network; one without coarser grids keeps the input's."""
        multiple = int(getattr(getattr(model, "network", None), "multiple", 1))
        return cls(multiple, float(getattr(model, "factor", 1)), list(gone))

    def place(self, cells: Sequence[slice]) -> Cells:
        """Return where cells of the input, beginning on the output's grid, lie on it: a slice for each axis it has."""
        kept = (part for axis, part in enumerate(cells) if axis not in self.gone)
        return tuple(slice(floor(part.start / self.factor), ceil(part.stop / self.factor)) for part in kept)

    def sizes(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the output's cells along each of its axes."""
        return tuple(part.stop for part in self.place([slice(0, size) for size in shape]))


@dataclass(frozen=True)
class Piece:
    """A part of a volume that was mapped.

    Attributes
    ----------
    cells, place
        Where it lies in the volume, and on the output's grid: a slice for each axis.
    found
        What the network says of it, [..., *place].
    raw
        What the volume holds there, [C, *N].
    """

    cells: Cells
    place: Cells
    found: np.ndarray
    raw: np.ndarray


def windows_of(shape: Sequence[int], grid: OutputGrid, tiling: Tiling | None) -> list[Window]:
    """Cover a volume with the blocks of a tiling, each amid its halo; none is one block, the whole."""
    if tiling is None:
        whole = tuple(slice(0, size) for size in shape)
        return [Window(whole, whole)]
    edges = zip(shape, tiling.block, strict=True)
    block = [size if axis in grid.gone else edge for axis, (size, edge) in enumerate(edges)]
    return plan_map(shape, block, tiling.halo, grid.multiple)


@torch.no_grad()
def map_pieces(
    module: Callable[[Tensor], Tensor],
    read: Read,
    shape: Sequence[int],
    grid: OutputGrid,
    *,
    device: torch.device | str = "cpu",
    tiling: Tiling | None = None,
    wanted: Wanted | None = None,
    rank: int = 0,
    world: int = 1,
    share: Callable[[Window], Window] | None = None,
) -> Iterator[Piece]:
    """Run a network over a volume, or over one rank's share of its blocks, without gradients, piece after piece.

    Parameters
    ----------
    module, device
        Raw data [1, C, *N] -> [1, ..., *L], with any axes between; where it runs.
    read, shape, grid
        Reads raw data; cells of the volume along its space axes; how L lies on N.
    tiling, wanted
        Blocks, or none for one piece; asked once of each before any is mapped, and what is not wanted is not read.
    rank, world
        Of the blocks that are wanted, rank r takes r, r + world, ...
    share
        Takes a rank's part of a block, which may be nothing but halo, where others map the rest meanwhile.

    Yields each block, or a share of it, also an empty one; those of all ranks are the volume, or what is wanted of it.
    """
    chosen = [window for window in windows_of(shape, grid, tiling) if wanted is None or wanted(window.block)]
    for window in chosen[rank::world]:
        yield _map_window(module, read, share(window) if share else window, grid, device)


def _map_window(
    module: Callable[[Tensor], Tensor], read: Read, window: Window, grid: OutputGrid, device: torch.device | str
) -> Piece:
    raw = read(window.seen)
    found = module(torch.from_numpy(np.ascontiguousarray(raw))[None].to(device))[0]
    core: tuple[Any, ...] = (..., *grid.place(window.core))
    return Piece(
        window.block,
        grid.place(window.block),
        np.ascontiguousarray(found[core].cpu().numpy()),
        np.ascontiguousarray(raw[(slice(None), *window.core)]),
    )
