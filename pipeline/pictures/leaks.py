"""Picture of a leak report."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from datasets.samples.leaks import Cell, Gap, LeakReport, chebyshev
from datasets.samples.parts import PART_NAMES, UNUSED
from pipeline.pictures.style import (
    PART_COLOURS,
    PART_RGB,
    WRONG,
    Axis,
    aspect_of,
    legend_below,
    paint,
    part_patches,
    picture,
    show,
)

_AROUND = 6  # cells shown around the two nearest at least
_ROOM = 1.05  # inches for titles, numbers and legend
_BUFFER = "#ecc5ca"


def draw_leaks(parts: np.ndarray, report: LeakReport, axes: Sequence[Axis], path: Path) -> None:
    """Draw the parts of a split with their smallest distance, a close-up of it, and all distances.

    The two parts shown are training and test, unless only others leak. `parts` has codes 0 unused, 1 train,
    2 validation, 3 test over the map of one to three axes; of three, the plane of the first two is drawn that the
    nearest test cell lies in.
    """
    gap = report.focus
    plane, flat_axes = _plane(parts, gap, axes)
    height = float(np.clip(2.6 * aspect_of(*flat_axes), 1.7, 3.6)) + _ROOM
    with picture(path, height) as figure:
        headline = report.statement().replace("; ", ";\n", 1)
        figure.suptitle(headline, fontsize=8.5, color=WRONG if report.violations else "black")
        left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 0.9])
        _parts(left, plane, flat_axes)
        left.set_title("parts of the map")
        handles = part_patches(parts, np.bincount(parts.ravel(), minlength=len(PART_RGB)), "cells")
        if gap is None:
            middle.set_axis_off()
            right.set_axis_off()
        else:
            pair = [(0, *cell) if len(axes) == 1 else cell[:2] for cell in gap.first_violation or gap.nearest]
            at = np.mean([_centre(cell, flat_axes) for cell in pair], axis=0)
            colour = WRONG if gap.violations else "black"
            left.plot(*at, "o", markersize=14, fillstyle="none", markeredgewidth=1.3, color=colour, clip_on=False)
            _close_up(middle, plane, report, gap, pair, flat_axes)
            _distances(right, report, gap)
            if report.buffer:
                handles.append(Patch(facecolor=_BUFFER, label=f"within {report.buffer} of {gap.parts[0]}"))
        legend_below(figure, handles)


def _plane(parts: np.ndarray, gap: Gap | None, axes: Sequence[Axis]) -> tuple[np.ndarray, list[Axis]]:
    if len(axes) == 1:
        return parts[None], [Axis("", 1), axes[0]]
    rest = gap.nearest[1][2:] if gap else tuple(size // 2 for size in parts.shape[2:])
    return parts[(slice(None), slice(None), *rest)], list(axes[:2])


def _centre(cell: Sequence[int], axes: Sequence[Axis]) -> tuple[float, float]:
    rows, columns = axes
    return columns.first + columns.step * cell[1], rows.first + rows.step * cell[0]


def _parts(ax: Axes, plane: np.ndarray, axes: Sequence[Axis]) -> None:
    show(ax, paint(plane, np.vstack([PART_RGB, to_rgb(_BUFFER)])), *axes)
    if len(plane) == 1:
        ax.set_yticks([])


def _close_up(
    ax: Axes, plane: np.ndarray, report: LeakReport, gap: Gap, pair: Sequence[Cell], axes: Sequence[Axis]
) -> None:
    around = max(_AROUND, report.buffer + 3)
    edge = max(abs(a - b) for a, b in zip(*pair, strict=True)) + 2 * around + 1
    cut, near = [], []
    for a, b, axis in zip(*pair, axes, strict=True):
        size = min(edge, axis.size)
        start = min(max((a + b) // 2 - size // 2, 0), axis.size - size)
        cut.append(slice(start, start + size))
        near.append(replace(axis, size=size, first=axis.first + axis.step * start))
    first, second = (PART_NAMES.index(name) for name in gap.parts)
    zone = chebyshev(plane, first) <= report.buffer if (plane == first).any() else np.zeros(plane.shape, bool)
    codes = np.where(zone & (plane == UNUSED), len(PART_RGB), plane)
    _parts(ax, codes[tuple(cut)], near)
    for cell in np.argwhere((zone & (plane == second))[tuple(cut)]) + [part.start for part in cut]:
        _outline(ax, cell, axes, WRONG)
    for cell in pair:
        _outline(ax, cell, axes, "black")
    start, stop = (_centre(cell, axes) for cell in pair)
    arrow = {"arrowstyle": "<->", "color": "black", "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", stop, start, arrowprops=arrow)
    distance = max(abs(a - b) for a, b in zip(*(gap.first_violation or gap.nearest), strict=True))
    ax.set_title(f"{gap.parts[0]} and {gap.parts[1]} {distance} cell{'s' * (distance > 1)} apart")


def _outline(ax: Axes, cell: Sequence[int], axes: Sequence[Axis], colour: str) -> None:
    rows, columns = axes
    x, y = _centre(cell, axes)
    corner = (x - columns.step / 2, y - rows.step / 2)
    ax.add_patch(Rectangle(corner, columns.step, rows.step, fill=False, linewidth=1.3, edgecolor=colour))


def _distances(ax: Axes, report: LeakReport, gap: Gap) -> None:
    counts, (first, second) = np.asarray(gap.histogram), gap.parts
    colour = [WRONG if distance <= report.buffer else PART_COLOURS[second] for distance in range(len(counts))]
    ax.axvspan(0.5, report.buffer + 0.5, color=_BUFFER, linewidth=0)
    ax.bar(np.arange(len(counts)), counts, width=1.0, color=colour, linewidth=0)
    if report.buffer:
        text, ink = f"{gap.violations:,} of {gap.counts[1]:,} within the buffer", WRONG if gap.violations else "black"
        ax.text(0.98, 0.97, text, transform=ax.transAxes, ha="right", va="top", fontsize=7, color=ink)
    ax.set(xlim=(0.5, len(counts) - 0.5), ylim=(0, 1.25 * counts.max()), title=f"distances of {second} from {first}")
    ax.set(xlabel=f"cells to the nearest {first} cell", ylabel=f"{second} cells")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))
