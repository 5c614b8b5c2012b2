"""Map a volume in one piece, or block by block amid a halo where it does not fit: the same cells, the same values."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import ceil, floor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.blocks import plan_map

Read = Callable[[tuple[slice, ...] | None], np.ndarray]
"""From a part of the space (none means all of it) to raw data, float32 [C, *N]; NaN = no data."""


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

    def place(self, cells: Sequence[slice]) -> tuple[Any, ...]:
        """Return where cells of the input, beginning on the output's grid, lie on it: a slice for each axis it has."""
        kept = (part for axis, part in enumerate(cells) if axis not in self.gone)
        return tuple(slice(floor(part.start / self.factor), ceil(part.stop / self.factor)) for part in kept)


def read_from(raw: np.ndarray) -> Read:
    """Read from an array in memory, [C, *N]."""
    return lambda cells: raw if cells is None else raw[(slice(None), *cells)]


@torch.no_grad()
def map_cells(
    module: Callable[[Tensor], Tensor],
    read: Read,
    shape: Sequence[int],
    grid: OutputGrid,
    *,
    device: torch.device | str = "cpu",
    tiling: Tiling | None = None,
    wanted: np.ndarray | None = None,
) -> np.ndarray:
    """Run a network over a volume.

    Parameters
    ----------
    module
        Raw data [1, C, *N] -> [1, ..., *L], with any axes between.
    read
        Reads raw data.
    shape
        Cells of the volume along its space axes.
    grid
        How L lies on N.
    device
        Where the network runs.
    tiling
        Blocks; none maps the volume in one piece.
    wanted
        bool [*L]: blocks without any wanted cell are neither read nor mapped, and hold zeros. None wants all.

    Returns
    -------
    numpy.ndarray
        [..., *L].
    """

    def run(cells: tuple[slice, ...] | None) -> Tensor:
        return module(torch.from_numpy(np.ascontiguousarray(read(cells)))[None].to(device))[0]

    if tiling is None:
        return run(None).cpu().numpy()
    whole = [slice(0, size) for size in shape]
    block = [
        size if axis in grid.gone else edge for axis, (size, edge) in enumerate(zip(shape, tiling.block, strict=True))
    ]
    windows = plan_map(shape, block, tiling.halo, grid.multiple)
    if wanted is not None:
        windows = [window for window in windows if wanted[grid.place(window.block)].any()] or windows[:1]
    out: np.ndarray | None = None
    for window in windows:
        mapped = run(window.seen)[(Ellipsis, *grid.place(window.core))].cpu().numpy()
        place = grid.place(window.block)
        if out is None:
            leading = mapped.shape[: mapped.ndim - len(place)]
            out = np.zeros((*leading, *(part.stop for part in grid.place(whole))), mapped.dtype)
        out[(Ellipsis, *place)] = mapped
    assert out is not None
    return out
