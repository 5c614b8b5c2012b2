"""A mergeable summary of values: moments, extremes, and a histogram fine enough to take percentiles from.

Sketches of parts of an array, merged in any order, are the same. Whole numbers of 8 and 16 bits are counted exactly,
other values by the leading 16 bits of their distance from a centre as a float32 (sign, exponent, 7 bits of the
mantissa): a percentile is wrong by at most 0.4% of its distance from the centre.

E entries (such as bands) that are measured each by itself, P cells of an entry.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

ERROR = 2.0**-8  # that is, of floats
_BINS = 2**16
_CELLS = 2**18  # measured at a time, so that the float64 copies stay small


@dataclass(frozen=True)
class Sketch:
    """Summary of the cells of E entries."""

    count: np.ndarray  # of the cells, int64 [E]
    mean: np.ndarray  # float64 [E]
    squares: np.ndarray  # sum of the squared distances from the mean, float64 [E]
    low: np.ndarray  # smallest value, float64 [E]; inf without cells
    high: np.ndarray  # largest value, float64 [E]; -inf without cells
    at_low: np.ndarray  # cells of exactly that value, int64 [E]
    at_high: np.ndarray
    keys: np.ndarray  # occupied bins in ascending order, each `entry * 65536 + bin`, int64 [occupied]
    counts: np.ndarray  # their cells, int64 [occupied]

    @property
    def deviation(self) -> np.ndarray:
        """Standard deviation, float64 [E]; 0 without cells."""
        return np.sqrt(self.squares / np.maximum(self.count, 1))


def is_exact(dtype: np.dtype) -> bool:
    """Whether values of this type are counted one by one."""
    return dtype.kind in "iu" and dtype.itemsize <= 2


def sketch(values_EP: Sequence[np.ndarray], keep_EP: Sequence[np.ndarray] | None, centre_E: np.ndarray) -> Sketch:
    """Summarise the finite numbers of every entry, none or any; where it is said which to keep, only those count.

    The bins are finest around the centres, which are not used for types that are counted exactly.
    """
    keep = [None] * len(values_EP) if keep_EP is None else keep_EP
    *moments, bins, counts = zip(*map(_one, values_EP, keep, centre_E.tolist()), strict=True)
    keys = np.concatenate([own + entry * _BINS for entry, own in enumerate(bins)])
    return Sketch(*map(np.asarray, (*moments, keys, np.concatenate(counts))))


def _one(values: np.ndarray, keep: np.ndarray | None, centre: float) -> tuple:
    count, mean, squares = 0, np.float64(0), np.float64(0)
    low, high, at_low, at_high = np.inf, -np.inf, 0, 0
    bins = np.zeros(_BINS, np.int64)
    for start in range(0, values.size, _CELLS):
        here = slice(start, start + _CELLS)
        part = values[here] if keep is None else values[here][keep[here]]
        if part.dtype.kind == "f":
            part = part[np.isfinite(part)]
        if not part.size:
            continue
        wide = part.astype(np.float64)
        total = count + part.size
        with np.errstate(over="ignore", invalid="ignore"):  # values near the end of float64 have no finite square
            own = wide.mean()
            spread, step = wide - own, own - mean
            squares += np.dot(spread, spread) + step * step * (count * part.size / total)
            mean += step * part.size / total
        count = total
        least, most = part.min(), part.max()
        low, at_low = _extreme(np.minimum, low, at_low, float(least), (part == least).sum())
        high, at_high = _extreme(np.maximum, high, at_high, float(most), (part == most).sum())
        key = part.astype(np.int64) - np.iinfo(part.dtype).min if is_exact(part.dtype) else _float_bins(wide - centre)
        bins += np.bincount(key, minlength=_BINS)
    occupied = np.flatnonzero(bins)
    return count, mean, squares, low, high, at_low, at_high, occupied, bins[occupied]


def _extreme(choose: np.ufunc, value: Any, cells: Any, other: Any, other_cells: Any) -> tuple[Any, Any]:
    """Choose of two values, or of each of two arrays, and add up the cells that have it."""
    best = choose(value, other)
    return best, cells * (value == best) + other_cells * (other == best)


def _float_bins(distance: np.ndarray) -> np.ndarray:
    """Turn distances into bins in the same order: the leading bits, those of negatives turned over."""
    limit = np.finfo(np.float32).max
    bits = np.clip(distance, -limit, limit).astype(np.float32).view(np.uint32)
    return (np.where(bits >> 31, ~bits, bits | np.uint32(2**31)) >> np.uint32(16)).astype(np.int64)


def merge(a: Sketch, b: Sketch) -> Sketch:
    """Summarise the cells of two sketches together, entry by entry."""
    count = a.count + b.count
    share = b.count / np.maximum(count, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = a.mean + (b.mean - a.mean) * share
        squares = a.squares + b.squares + (b.mean - a.mean) ** 2 * (a.count * share)
    low, at_low = _extreme(np.minimum, a.low, a.at_low, b.low, b.at_low)
    high, at_high = _extreme(np.maximum, a.high, a.at_high, b.high, b.at_high)
    keys, place = np.unique(np.concatenate([a.keys, b.keys]), return_inverse=True)
    counts = np.zeros(keys.size, np.int64)
    np.add.at(counts, place, np.concatenate([a.counts, b.counts]))
    return Sketch(count, mean, squares, low, high, at_low, at_high, keys, counts)


def distribution(whole: Sketch, entry: int, dtype: np.dtype, centre: float) -> tuple[np.ndarray, np.ndarray]:
    """Values of an entry's occupied bins, ascending within its extremes, and their cells: float64, int64 [occupied].

    Type and centre are those that were summarised with.
    """
    own = slice(*np.searchsorted(whole.keys, [entry * _BINS, (entry + 1) * _BINS]))
    bins, counts = whole.keys[own] % _BINS, whole.counts[own]
    if is_exact(dtype):
        return (bins + np.iinfo(dtype).min).astype(np.float64), counts
    middle = (bins.astype(np.uint32) << np.uint32(16)) + np.uint32(2**15)
    bits = np.where(middle >> 31, middle & np.uint32(2**31 - 1), ~middle)
    values = bits.astype(np.uint32).view(np.float32).astype(np.float64) + centre
    return np.clip(values, whole.low[entry], whole.high[entry]), counts


def percentiles(values: np.ndarray, counts: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Take percentiles (0 to 100) of a distribution: the value of the cell at that rank; NaN without cells."""
    if not counts.size:
        return np.full(len(shares), np.nan)
    reached = np.cumsum(counts)
    ranks = np.asarray(shares) / 100 * (reached[-1] - 1)
    return values[np.searchsorted(reached, ranks, side="right").clip(max=values.size - 1)]


def to_arrays(whole: Sketch) -> dict[str, np.ndarray]:
    """Take a sketch apart for `numpy.savez`."""
    return dict(vars(whole))


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Sketch:
    """Put a sketch together again."""
    return Sketch(**{name: arrays[name] for name in Sketch.__dataclass_fields__})
