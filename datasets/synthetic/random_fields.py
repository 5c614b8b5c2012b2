"""Random fields that are functions of position: any block can be computed by itself, and always comes out alike.

Independent standard normal numbers sit on an infinite lattice, drawn in fixed tiles, each from a counter-based
generator (Philox) keyed by the seed and the tile's place. Letters: X, Y, Z points along the three axes.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import product

import numpy as np

_TILE = 32
_OFFSET = 2**31  # generators take no negative keys; lattice points may be negative
_SPLINE_VARIANCE = 151 / 315  # mean over a cell of the sum of the squared cubic B-spline weights


def white_noise(key: Sequence[int], start: Sequence[int], stop: Sequence[int]) -> np.ndarray:
    """Draw the numbers on the lattice from `start` up to `stop`: float32 [X, Y, Z].

    Fields with different keys, of a seed and a stream, are independent.
    """
    block = np.empty([b - a for a, b in zip(start, stop, strict=True)], np.float32)
    tiles = [range(a // _TILE, (b - 1) // _TILE + 1) for a, b in zip(start, stop, strict=True)]
    for place in product(*tiles):
        into, outof = [], []
        for first, a, b in zip((n * _TILE for n in place), start, stop, strict=True):
            low, high = max(a, first), min(b, first + _TILE)
            into.append(slice(low - a, high - a))
            outof.append(slice(low - first, high - first))
        block[tuple(into)] = _draw_tile(tuple(key), place)[tuple(outof)]
    return block


@lru_cache(maxsize=256)  # 32 MiB: neighbouring blocks ask for the same tiles
def _draw_tile(key: tuple[int, ...], place: tuple[int, ...]) -> np.ndarray:
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([*key, *(n + _OFFSET for n in place)])))
    tile = rng.standard_normal((_TILE,) * 3, dtype=np.float32)
    tile.flags.writeable = False
    return tile


def smooth_noise(key: Sequence[int], axes: Sequence[np.ndarray], lengths: Sequence[float]) -> np.ndarray:
    """Evaluate smooth noise of mean 0 and a standard deviation of about 1 on a grid: float32 [X, Y, Z].

    Cubic B-splines through white noise on a lattice of spacing `lengths`: two continuous derivatives, and nothing much
    shorter than two lattice cells. `axes` are the grid's coordinates, ascending, in the units of `lengths`.
    """
    scaled = [np.asarray(points, float) / length for points, length in zip(axes, lengths, strict=True)]
    cells = [np.floor(points).astype(np.int64) for points in scaled]
    field = white_noise(key, [int(cell[0]) - 1 for cell in cells], [int(cell[-1]) + 3 for cell in cells])
    for axis, (points, cell) in enumerate(zip(scaled, cells, strict=True)):
        t = (points - cell).astype(np.float32)
        spline = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3)
        across = [-1 if other == axis else 1 for other in range(3)]
        # A sum of terms in one order, not a matrix product, whose last bits would depend on the size of the block.
        terms = [weight.reshape(across) * field.take(cell - cell[0] + k, axis) for k, weight in enumerate(spline)]
        field = sum(terms[1:], terms[0]) * np.float32(1 / (6 * np.sqrt(_SPLINE_VARIANCE)))
    return field
