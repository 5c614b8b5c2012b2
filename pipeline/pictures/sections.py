"""What a picture shows of a volume: an image behind its labels, and sections.

C channels, N the space dimensions, L the label dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datasets.dims import NOT_HORIZONTAL
from pipeline.pictures.style import Axis, aspect_of, present_classes


def backdrop(raw_CN: np.ndarray, keep: Sequence[int], *, colour: bool = False) -> np.ndarray:
    """Reduce a volume, NaN for no data, to what a picture can show behind its labels.

    The space axes `keep`, those of the labels, stay; all others and the channels are averaged over. With `colour` red,
    green and blue are the means of the last, middle and first third of these. Returns float32 [*L], or [*L, 3] within
    0..1 stretched between the percentiles 2 and 98; NaN where there is no data.
    """
    raw_LX = np.moveaxis(raw_CN, [1 + axis for axis in keep], range(len(keep)))
    features = raw_LX.reshape(*raw_LX.shape[: len(keep)], -1)
    if not colour or features.shape[-1] < 3:
        return _mean(features)
    thirds = np.array_split(features, 3, axis=-1)[::-1]
    image = np.stack([_mean(third) for third in thirds], axis=-1)
    if np.isnan(image).all():
        return image
    low, high = np.nanpercentile(image.reshape(-1, 3), [2, 98], axis=0)
    return np.clip((image - low) / np.maximum(high - low, 1e-12), 0, 1)


def _mean(features: np.ndarray) -> np.ndarray:
    valid = np.isfinite(features)
    total, count = np.where(valid, features, 0).sum(axis=-1, dtype=np.float64), valid.sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)


@dataclass(frozen=True)
class Section:
    """A plane through a grid, turned so that vertical dimensions point down."""

    rows: Axis
    columns: Axis
    fixed: int | None = None  # axis that is cut; none for a map
    position: int = 0  # of the cut among its cells
    cells: int = 1
    flip: bool = False  # whether the axes that stay are swapped
    title: str = ""

    @property
    def aspect(self) -> float:
        """Height / width of the panel that it fills."""
        return aspect_of(self.rows, self.columns)

    def cut(self, grid: np.ndarray) -> np.ndarray:
        """Take the plane out of a grid, which may be coarser or finer than the axes, or end in a colour axis."""
        if self.fixed is None:
            return grid
        plane = grid.take(self.position * grid.shape[self.fixed] // self.cells, axis=self.fixed)
        return np.swapaxes(plane, 0, 1) if self.flip else plane


def sections(axes: Sequence[Axis], labels: np.ndarray | None = None) -> list[Section]:
    """Choose what to draw of a grid of two or three axes: the map itself, or three sections.

    Each section lies where the sum over classes of the square root of their cells is largest, so that small classes are
    seen; without labels (class indices, negative for none) in the middle.
    """
    if len(axes) == 2:
        return [Section(axes[0], axes[1])]
    found = []
    for fixed in (2, 1, 0) if axes[2].name in NOT_HORIZONTAL else (0, 1, 2):
        rows, columns = (axis for number, axis in enumerate(axes) if number != fixed)
        flip = columns.name in NOT_HORIZONTAL and rows.name not in NOT_HORIZONTAL
        if flip:
            rows, columns = columns, rows
        at = _busiest(labels, fixed, axes[fixed].size)
        found.append(Section(rows, columns, fixed, at, axes[fixed].size, flip, axes[fixed].at(at)))
    return found


def _busiest(labels: np.ndarray | None, fixed: int, size: int) -> int:
    if labels is None or not (labels >= 0).any():
        return size // 2
    others = tuple(axis for axis in range(labels.ndim) if axis != fixed)
    interest = sum(np.sqrt((labels == k).sum(axis=others)) for k in present_classes(labels))
    centre = np.abs(np.arange(len(interest)) - len(interest) / 2) / len(interest)
    return int((interest - 1e-6 * centre).argmax()) * size // len(interest)
