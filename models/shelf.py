"""Slabs of one volume that take turns on a device, and where they wait.

A layer reads the hidden rows of each slab in turn, by K on the slab's own rows alone (`models.slab`). With those of the
next slab there too, the two add up what each has of the rows about their face, and the first is stepped and goes away:
two slabs are on the device at once, and each state travels there and back once a layer and pass.
"""

import errno
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.symmetric import Pair, SymmetricOperator

Sides = list[Pair]
"""What a slab has in a pass: its states and, on the way back, their adjoint."""
Key = tuple[int, int, int]
"""Number of a slab, of a pair that it has, and 0 for its state or 1 for its increment."""
_ON_DEVICE = 2
"""Slabs that are there at once."""


class Shelf:
    """Where slabs wait for their turn; here they stay in the memory that they are in."""

    def __init__(self) -> None:
        self._slabs: list[Sides] = []

    def add(self, pair: Pair) -> None:
        """Put a new slab behind the others."""
        self._slabs.append([pair])
        self._leave(len(self._slabs) - 1)

    @property
    def rows(self) -> int:
        """Rows of all slabs together, on the grid that their states are on."""
        return sum(sides[0].state.shape[1] for sides in self._slabs)

    def each(self) -> Iterator[Sides]:
        """Yield each slab in turn; what is done to its pairs, and added to them, is kept."""
        for at, sides in enumerate(self._slabs):
            self._fetch(at)
            yield sides
            self._leave(at)

    def turns(
        self, operator: SymmetricOperator, read: Callable[[Sides], list[Tensor]]
    ) -> Iterator[tuple[Sides, list[Tensor]]]:
        """Yield each slab and the hidden tensors that `read` finds in it, when its neighbours have added their part.

        Whoever takes the tensors should pop them, lest they live on until the next turn.
        """
        self._fetch(0)
        thin = read(self._slabs[0])
        for after in range(1, len(self._slabs)):
            self._fetch(after)
            thin_after = read(self._slabs[after])
            _meet(operator, thin, thin_after)
            yield self._slabs[after - 1], thin
            self._leave(after - 1)
            thin = thin_after
            del thin_after
        yield self._slabs[-1], thin
        self._leave(len(self._slabs) - 1)

    def _fetch(self, at: int) -> None:
        for side, pair in enumerate(self._slabs[at]):
            pair.state = self._back(pair.state, (at, side, 0))
            pair.increment = self._back(pair.increment, (at, side, 1))

    def _leave(self, at: int) -> None:
        for side, pair in enumerate(self._slabs[at]):
            pair.state = self._away(pair.state, (at, side, 0))
            pair.increment = self._away(pair.increment, (at, side, 1))

    def _away(self, tensor: Tensor, key: Key) -> Tensor:
        return tensor

    def _back(self, tensor: Tensor, key: Key) -> Tensor:
        return tensor


class HostShelf(Shelf):
    """Slabs of a device wait in the host's memory, in pages that it copies from and to at full speed.

    The device's own queue keeps copies and work in order; the host never looks at what waits.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device, self._places = device, dict[Key, Tensor]()

    def _away(self, tensor: Tensor, key: Key) -> Tensor:
        if key not in self._places:
            pinned = self._device.type == "cuda"
            self._places[key] = torch.empty(tensor.numel(), dtype=tensor.dtype, pin_memory=pinned)
        return self._places[key].view(tensor.shape).copy_(tensor, non_blocking=True)

    def _back(self, tensor: Tensor, key: Key) -> Tensor:
        return tensor.to(self._device, copy=True, non_blocking=True)


class FileShelf(Shelf):
    """Slabs wait in a file without a name, which goes with the process however that ends.

    `OSError` where there is no such folder, and, with its name, where it has no room left or the disk fails.
    """

    def __init__(self, device: torch.device, folder: Path) -> None:
        super().__init__()
        self._device, self._folder, self._end = device, folder, 0
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._places: dict[Key, int] = {}
        # Fresh memory costs a fault a page, and what is freed need not go back to the system: buffers are used again.
        self._spare: dict[tuple[int, int], list[Tensor]] = {}
        self._most: dict[tuple[int, int], int] = {}

    def add(self, pair: Pair) -> None:
        """Put a new slab behind the others; its memory is not kept for the next."""
        super().add(pair)
        self._spare.clear()

    def _away(self, tensor: Tensor, key: Key) -> Tensor:
        if key not in self._places:
            self._places[key], self._end = self._end, self._end + tensor.nbytes
        on_host = tensor.cpu()
        self._pass(os.pwritev, on_host, key)
        self._most[key[1:]] = max(self._most.get(key[1:], 0), tensor.nbytes)
        kept = self._spare.setdefault(key[1:], [])
        if len(kept) < _ON_DEVICE:
            kept.append(on_host.new_empty(0, dtype=torch.uint8).set_(on_host.untyped_storage()))
        return torch.empty_like(tensor, device="meta")

    def _back(self, tensor: Tensor, key: Key) -> Tensor:
        kept = self._spare.get(key[1:])
        spare = kept.pop() if kept else torch.empty(0, dtype=torch.uint8)
        if spare.numel() < tensor.nbytes:
            spare = torch.empty(self._most[key[1:]], dtype=torch.uint8)
        found = spare[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        self._pass(os.preadv, found, key)
        return found.to(self._device)

    def _pass(self, how: Callable[[int, list[Any], int], int], tensor: Tensor, key: Key) -> None:
        """Read or write a whole tensor, of which one call takes 2 GiB at most."""
        buffer: Any = tensor.view(-1).view(torch.uint8).numpy()
        left, at = memoryview(buffer), self._places[key]
        try:
            while left:
                done = how(self._file.fileno(), [left], at)
                if not done:
                    raise OSError(errno.EIO, "the scratch file was cut short")
                left, at = left[done:], at + done
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._folder)) from error


def _meet(operator: SymmetricOperator, before: list[Tensor], after: list[Tensor]) -> None:
    """Add up what two slabs in sequence have of the hidden rows about their face, in place."""
    width = 2 * operator.overhang
    for mine, theirs in zip(before, after, strict=True):
        end, start = mine.narrow(operator.row_axis, -width, width), theirs.narrow(operator.row_axis, 0, width)
        start.copy_(end.add_(start))
