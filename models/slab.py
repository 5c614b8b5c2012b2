"""One volume on many ranks, a slab of the first axis of space each, that meet in the thin hidden layer.

A halo of states would carry C channels across each face. Here K runs on a slab's own m rows alone, which yields the
hidden rows -reach to m + reach - 1. Those within reach of a face, on either side, are partial sums, and the neighbour
has the rest. Both trade them and add: 2 reach rows of r channels a face and product with K, C / 2r times less than a
halo for kernels of 3 cells. Exact states stay exact: the same numbers are traded in both passes.
"""

import itertools
import math
from typing import Literal, Protocol

import torch
from torch import Tensor


class Slab(Protocol):
    """A rank's place among those that share a volume, and its way to them.

    Attributes
    ----------
    index, count
        The slab's number along the first axis of space, and how many there are.
    """

    index: int
    count: int

    def trade(self, before: Tensor | None, after: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Send rows to the neighbours before and after, and return what they sent, of the same shapes.

        None stands for the neighbour that the first and the last slab lack.
        """

    def over_all(self, numbers: Tensor, how: Literal["sum", "max"]) -> Tensor:
        """Return the sum or the maximum over all slabs."""


def cut_slabs(size: int, count: int, multiple: int) -> list[slice]:
    """Cut an axis into slabs as even as cells of the coarsest grid, of `multiple` cells each, allow."""
    units = -(-size // multiple)
    bounds = [at * units // count * multiple for at in range(count + 1)]
    return [slice(start, min(stop, size)) for start, stop in itertools.pairwise(bounds)]


def largest_of_all(numbers: Tensor, slab: Slab | None) -> Tensor:
    """Return the largest numbers over all slabs, the same on all ranks; NaN where any is, or is not finite."""
    if slab is None:
        return numbers
    # The maximum of a backend may pass over NaN.
    found = slab.over_all(numbers.nan_to_num(nan=math.inf, posinf=math.inf), "max")
    return torch.where(found.isinf(), math.nan, found)
