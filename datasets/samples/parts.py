"""Rules that divide a map into training, validation and test: pure functions of label counts and seeds.

Cells of two parts are always more than `buffer` cells apart (Chebyshev distance: the larger of those along the axes).

K classes, B blocks, W wells, M cells along the dimensions of the map; P the three parts.
"""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import maximum_filter

from datasets.config import SplitConfig

UNUSED, TRAIN, VALIDATION, TEST = 0, 1, 2, 3
PART_NAMES = ["unused", "train", "validation", "test"]
_WELL_DRAWS = 200


def split_blocks(counts_KM: np.ndarray, config: SplitConfig) -> np.ndarray:
    """Deal square blocks of the map to the three parts, uint8 [*M], then clear the buffer between them.

    Takes the labelled cells of each class in each column; columns without labels are `UNUSED`.
    """
    shape = counts_KM.shape[1:]
    per_axis = [-(-size // config.block) for size in shape]
    block_M = np.ravel_multi_index(tuple(np.indices(shape) // config.block), per_axis)
    counts_KB = np.stack([np.bincount(block_M.ravel(), class_M.ravel(), np.prod(per_axis)) for class_M in counts_KM])
    parts_B = deal(counts_KB, config.fractions, np.random.default_rng(config.seed))
    return keep_apart(np.where(counts_KM.any(0), parts_B[block_M], UNUSED), counts_KM, config.buffer)


def deal(counts_KB: np.ndarray, fractions: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """Deal blocks to parts, uint8 [B], so that each class is spread in the wanted fractions; `UNUSED` without labels.

    Iterative stratification of the labelled cells of each class in each block: the class with the fewest left is dealt
    first, while there is most freedom. Its first block goes to training, then one to each part that has none of it,
    every other to the part that still lacks most of that class, then most of all classes (after Sechidis et al. 2011,
    "On the stratification of multi-label data", where a class of three blocks can miss in validation or test).
    """
    parts_B = np.zeros(counts_KB.shape[1], np.uint8)
    shares = np.asarray(fractions, float)
    lack_PK = shares[:, None] * counts_KB.sum(1)
    left_B = counts_KB.max(0) > 0
    while left_B.any():
        left_K = counts_KB[:, left_B].sum(1)
        rarest = np.argmin(np.where(left_K > 0, left_K, np.inf))
        for block in rng.permutation(np.flatnonzero(left_B & (counts_KB[rarest] > 0))):
            missing = ~np.array([counts_KB[rarest, parts_B == part].any() for part in (TRAIN, VALIDATION, TEST)])
            order = np.lexsort((rng.random(3), lack_PK.sum(1), lack_PK[:, rarest], missing, shares > 0))
            part = TRAIN if missing[0] else int(order[-1]) + TRAIN
            parts_B[block] = part
            lack_PK[part - TRAIN] -= counts_KB[:, block]
            left_B[block] = False
    return parts_B


def split_wells(counts_KM: np.ndarray, testable_M: np.ndarray, wells_WM: np.ndarray, config: SplitConfig) -> np.ndarray:
    """Let squares around wells train and validate, and all other columns, a buffer away, test: uint8 [*M].

    A column belongs to its nearest well. Of many seeded draws of the validation wells, the first is taken that leaves
    most classes to training, then most to validation. Takes labelled cells as `split_blocks`, columns whose true
    classes are known, and the wells' cells.
    """
    shape = counts_KM.shape[1:]
    distance_M = np.full(shape, config.radius + 1)
    nearest_M = np.full(shape, -1)
    for well, position in enumerate(wells_WM):
        square = tuple(slice(max(0, cell - config.radius), cell + config.radius + 1) for cell in position)
        offsets = [np.abs(np.arange(size) - cell)[cut] for size, cell, cut in zip(shape, position, square, strict=True)]
        far = np.stack(np.meshgrid(*offsets, indexing="ij")).max(0)
        nearest_M[square] = np.where(far < distance_M[square], well, nearest_M[square])
        distance_M[square] = np.minimum(far, distance_M[square])
    has_WK = np.stack([counts_KM[:, nearest_M == well].any(1) for well in range(len(wells_WM))])

    def spread(validates_W: np.ndarray) -> tuple[int, int]:
        return has_WK[~validates_W].any(0).sum(), has_WK[validates_W].any(0).sum()

    rng = np.random.default_rng(config.seed)
    draws = [rng.permutation(len(wells_WM)) < config.validation_wells for _ in range(_WELL_DRAWS)]
    part_W = np.where(max(draws, key=spread), VALIDATION, TRAIN).astype(np.uint8)
    parts_M = np.where((nearest_M >= 0) & counts_KM.any(0), part_W[nearest_M], UNUSED)
    parts_M = keep_apart(parts_M, counts_KM, config.buffer)
    parts_M[testable_M & ~_near(parts_M != UNUSED, config.buffer)] = TEST
    return parts_M


def split_points(counts_KM: np.ndarray, config: SplitConfig) -> np.ndarray:
    """Let a few single columns of each class train and validate, and all others, a buffer away, test: uint8 [*M].

    Takes labelled cells as `split_blocks`; a class with fewer columns than points gives training what it has.
    """
    rng = np.random.default_rng(config.seed)
    parts_M = np.zeros(counts_KM.shape[1:], np.uint8)
    for part, points in ((TRAIN, config.points), (VALIDATION, config.validation_points)):
        other_M = _near((parts_M != UNUSED) & (parts_M != part), config.buffer)
        for class_M in counts_KM:
            free = np.flatnonzero((class_M > 0) & (parts_M == UNUSED) & ~other_M)
            parts_M.flat[rng.permutation(free)[:points]] = part
    parts_M[counts_KM.any(0) & ~_near(parts_M != UNUSED, config.buffer)] = TEST
    return parts_M


def keep_apart(parts_M: np.ndarray, counts_KM: np.ndarray, buffer: int) -> np.ndarray:
    """Take cells away until those of different parts are more than `buffer` cells apart: uint8 [*M].

    The larger part gives way to the smaller. Only where training would lose a class altogether does it keep that
    class's cells, and the others give way.
    """
    kept_M = np.zeros(parts_M.shape, np.uint8)
    for part in sorted((TRAIN, VALIDATION, TEST), key=lambda code: int((parts_M == code).sum())):
        before = parts_M == part
        after = before & ~_near(kept_M != UNUSED, buffer)
        if part == TRAIN:
            lost = [class_M for class_M in counts_KM > 0 if (class_M & before).any() and not (class_M & after).any()]
            if lost:
                rescued = before & np.any(lost, axis=0)
                kept_M[_near(rescued, buffer)] = UNUSED
                after |= rescued
        kept_M[after] = part
    return kept_M


def _near(mask_M: np.ndarray, distance: int) -> np.ndarray:
    """Cells at most `distance` cells (Chebyshev) from one of the mask."""
    return maximum_filter(mask_M, size=2 * distance + 1, mode="constant", cval=False)
