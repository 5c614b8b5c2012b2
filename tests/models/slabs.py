"""A volume in slabs, one a thread: ranks without processes, so that hypothesis can try hundreds of networks."""

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import Queue
from threading import Barrier
from typing import Literal, TypeVar

import pytest
import torch
from torch import Tensor

from models.network import TelegraphNetwork
from models.watch import GridOverflowError

PATIENCE_S = 60.0


@dataclass
class Post:
    """What the threads of one volume send to each other."""

    count: int
    ways: dict[tuple[int, int], "Queue[Tensor]"] = field(init=False)
    numbers: list[Tensor] = field(init=False)
    barrier: Barrier = field(init=False)

    def __post_init__(self) -> None:
        ranks = range(self.count)
        self.ways = {(a, b): Queue() for a in ranks for b in (a - 1, a + 1)}
        self.numbers, self.barrier = [torch.empty(0)] * self.count, Barrier(self.count)


@dataclass
class ThreadSlab:
    """A slab whose neighbours are threads."""

    index: int
    count: int
    post: Post
    traded: list[int] = field(default_factory=list)

    def trade(self, before: Tensor | None, after: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        around = {self.index - 1: before, self.index + 1: after}
        for other, rows in around.items():
            if rows is not None:
                self.traded.append(rows.numel())
                self.post.ways[self.index, other].put(rows.clone())
        found = [
            None if rows is None else self.post.ways[other, self.index].get(timeout=PATIENCE_S)
            for other, rows in around.items()
        ]
        return found[0], found[1]

    def over_all(self, numbers: Tensor, how: Literal["sum", "max"]) -> Tensor:
        self.post.numbers[self.index] = numbers
        self.post.barrier.wait(PATIENCE_S)
        together = torch.stack(self.post.numbers)
        self.post.barrier.wait(PATIENCE_S)
        return together.sum(0) if how == "sum" else together.amax(0)


@dataclass
class Found:
    """What all slabs together returned: output and input gradient joined, parameter gradients added."""

    output: Tensor
    gradients: list[Tensor]
    errors: list[float]
    traded: list[int]


Part = tuple[Tensor, Sequence[Tensor], float, list[int]]
T = TypeVar("T")


def on_threads(
    network: TelegraphNetwork,
    x_BcN: Tensor,
    count: int,
    one: Callable[[TelegraphNetwork, Tensor, ThreadSlab, slice], T],
) -> list[T]:
    """Call a function for each slab at once, with a copy of the network, the slab's input, its place and its rows."""
    post, cuts = Post(count), network.slabs(x_BcN.shape[2], count)

    def call(index: int) -> T:
        cut = cuts[index]
        return one(copy.deepcopy(network), x_BcN[:, :, cut].clone(), ThreadSlab(index, count, post), cut)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(call, range(count)))


def refusals(network: TelegraphNetwork, x_BcN: Tensor, count: int) -> list[GridOverflowError]:
    """Return the error that each slab raises."""

    def one(mine: TelegraphNetwork, x: Tensor, slab: ThreadSlab, _cut: slice) -> GridOverflowError:
        with pytest.raises(GridOverflowError) as caught:
            mine(x, slab=slab)
        return caught.value

    return on_threads(network, x_BcN, count, one)


def in_slabs(network: TelegraphNetwork, x_BcN: Tensor, count: int, loss: Callable[[Tensor, slice], Tensor]) -> Found:
    """Run a network on `count` slabs at once, forward and backward; a loss is given an output and its rows."""

    def one(mine: TelegraphNetwork, x: Tensor, slab: ThreadSlab, cut: slice) -> Part:
        output = mine(x.requires_grad_(), slab=slab)
        start = int(cut.start / mine.factor)
        wanted = [x, *mine.parameters()]
        value = loss(output, slice(start, start + output.shape[2]))
        gradients = torch.autograd.grad(value, wanted, materialize_grads=True)
        assert mine.inversion_error is not None
        return output.detach(), gradients, float(mine.inversion_error), slab.traded

    parts = on_threads(network, x_BcN, count, one)
    of_input = torch.cat([gradients[0] for _, gradients, _, _ in parts], dim=2)
    of_weights = [torch.stack(of_slabs).sum(0) for of_slabs in zip(*(part[1][1:] for part in parts), strict=True)]
    output = torch.cat([part[0] for part in parts], dim=2)
    traded = [numbers for part in parts for numbers in part[3]]
    return Found(output, [of_input, *of_weights], [part[2] for part in parts], traded)
