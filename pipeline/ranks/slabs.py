"""Ranks that share the work: which samples a rank sees, which slab of each, and how it reaches the others."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from datasets.samples.blocks import Window
from pipeline.ranks.gradient_sum import sum_over_ranks

T = TypeVar("T")
_PATIENCE = timedelta(minutes=30)  # as Ray gives the whole group; NCCL alone would give 10


class RankSlab:
    """A `models.slab.Slab` whose neighbours are the ranks before and after, among those that share a sample."""

    def __init__(self, rank: int, count: int, together: dist.ProcessGroup) -> None:
        self.index, self.count = rank % count, count
        self._rank, self._together = rank, together

    def trade(self, before: Tensor | None, after: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Send rows to both neighbours and receive theirs, all at once."""
        found: dict[int, Tensor] = {}
        messages: list[dist.P2POp] = []
        for rows, other in ((before, self._rank - 1), (after, self._rank + 1)):
            if rows is not None:
                found[other] = torch.empty(rows.shape, dtype=rows.dtype, device=rows.device)
                messages.append(dist.P2POp(dist.isend, rows.contiguous(), other))
                messages.append(dist.P2POp(dist.irecv, found[other], other))
        for message in dist.batch_isend_irecv(messages):
            message.wait()
        return found.get(self._rank - 1), found.get(self._rank + 1)

    def over_all(self, numbers: Tensor, how: Literal["sum", "max"]) -> Tensor:
        """Return the sum or the maximum over all slabs."""
        total = numbers.clone()
        dist.all_reduce(total, dist.ReduceOp.SUM if how == "sum" else dist.ReduceOp.MAX, group=self._together)
        return total

    def rows(self, model: Any, size: int) -> slice:
        """Return this rank's rows of a first axis of `size` cells, for a `Segmenter`."""
        return model.slabs(size, self.count)[self.index]

    def share(self, model: Any, window: Window) -> Window:
        """Return this rank's part of a block."""
        first, *others = window.sizes
        return window.part([self.rows(model, first), *(slice(0, size) for size in others)])


@dataclass(frozen=True)
class Place:
    """Which part of the work is a rank's: of the samples those of its group, and of each of these a slab.

    Attributes
    ----------
    group, groups
        Number of its group, and of all groups.
    slab
        None where the group is this rank alone.
    """

    group: int = 0
    groups: int = 1
    slab: RankSlab | None = None

    @property
    def alone(self) -> bool:
        """Whether no other rank has a part."""
        return self.groups == 1 and self.slab is None


ALONE = Place()


def take_place(rank: int, world: int, slabs: int) -> Place:
    """Find a rank's part where every `slabs` ranks in sequence share their samples; every rank takes part."""
    if slabs == 1:
        return Place(rank, world)
    starts = range(0, world, slabs)
    groups = [dist.new_group(list(range(start, start + slabs)), _PATIENCE) for start in starts]
    return Place(rank // slabs, len(starts), RankSlab(rank, slabs, groups[rank // slabs]))


def chosen_by_first(choose: Callable[[], T], place: Place, device: torch.device) -> T:
    """Return what the first rank chooses; every rank takes part."""
    if place.alone:
        return choose()
    found = [choose() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(found, 0, device=device)
    return found[0]  # type: ignore[return-value]


def gathered(items: Iterator[T], device: torch.device) -> Iterator[T]:
    """Yield on the first rank what all ranks have, as it comes, and nothing on the others; every rank takes part."""
    while True:
        item = next(items, None)
        (left,) = sum_over_ranks([float(item is not None)], device)
        if not left:
            return
        found: list[T | None] = [None] * dist.get_world_size() if dist.get_rank() == 0 else []
        dist.gather_object(item, found or None)
        for one in found:
            if one is not None:
                yield one
