"""What the names of dimensions mean: which span the map, and which list measurements of the same place."""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from datasets.errors import InputError

NOT_HORIZONTAL = frozenset({"depth", "time", "twt", "layer", "band", "date"})
_MOST_ENTRIES = 1024


def entry_dims(sizes: Mapping[Any, int]) -> list[str]:
    """Dimensions whose entries are quantities of their own, such as bands and dates; none in a seismic cube.

    At most 1024 entries are told apart: the longest dimensions are left out until they are no more.
    """
    dims = [] if {"inline", "crossline"} & set(sizes) else [str(dim) for dim in sizes if dim in NOT_HORIZONTAL]
    while math.prod(sizes[dim] for dim in dims) > _MOST_ENTRIES:
        dims.remove(max(dims, key=lambda dim: sizes[dim]))
    return dims


def refuse_unknown(option: str, named: Iterable[str], dims: Sequence[Hashable], way_out: str = "") -> None:
    """Raise `InputError` where a setting names dimensions that the data lack."""
    if unknown := [dim for dim in named if dim not in dims]:
        raise InputError(f"{option} names {unknown}, but the data have the dimensions {list(dims)}{way_out}")
