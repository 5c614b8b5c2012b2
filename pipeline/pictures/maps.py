"""Pictures of volumes, splits and predictions.

N the space dimensions, L the label dimensions.
"""

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pipeline.pictures.sections import Section, sections
from pipeline.pictures.style import (
    LEGEND_COLUMNS,
    NO_DATA,
    PART_RGB,
    RIGHT,
    WIDTH,
    WRONG,
    Axis,
    class_colours,
    class_patch,
    class_patches,
    grey_limits,
    legend_below,
    paint,
    part_patches,
    picture,
    show,
)

OVERLAY = 0.45  # opacity of labels over the data
SPLIT_COLUMNS = 3  # below a map of half the picture's width


def _height(planes: Sequence[Section], columns: int, legend_rows: float, *, bar: bool = False) -> float:
    width = (WIDTH - (1.4 if bar else 0.7)) / columns - 0.15
    room = 0.6 if len(planes) == 1 else 0.72
    return sum(plane.aspect * width + room for plane in planes) + 0.2 * ceil(legend_rows) + 0.1


def _data(ax: Axes, plane: Section, background: np.ndarray, limits: tuple[float, float]) -> Any:
    ax.set_title(plane.title or "data")
    ax.set_facecolor(NO_DATA)
    image = plane.cut(background)
    if image.ndim == 3:
        filled = np.dstack([np.nan_to_num(image), np.isfinite(image).all(axis=-1)])
        return show(ax, filled, plane.rows, plane.columns)
    return show(ax, image, plane.rows, plane.columns, cmap="gray", vmin=limits[0], vmax=limits[1])


def _bar(figure: Figure, drawn: Any, ax: Any, label: str, shrink: float) -> None:
    figure.colorbar(drawn, ax=ax, shrink=shrink, pad=0.02, aspect=25, panchor=False, label=label)


def _no_data(background: np.ndarray) -> list[Patch]:
    return [] if np.isfinite(background).all() else [class_patch("no data", NO_DATA)]


def _common_class(labels: np.ndarray) -> int:
    counts = np.bincount(labels[labels >= 0].astype(np.int64), minlength=1)
    return int(counts.argmax()) if 2 * counts.max() > labels.size else -1


def _as_map(axes: Sequence[Axis], *grids: np.ndarray) -> tuple[list[Axis], list[np.ndarray]]:
    if len(axes) > 1:
        return list(axes), list(grids)
    return [Axis("", 1), *axes], [grid[None] for grid in grids]


def draw_split(
    labels: np.ndarray,
    split: np.ndarray,
    class_names: Sequence[str],
    axes: Sequence[Axis],
    path: Path,
    truth: int = 0,
) -> None:
    """Draw which labels train, validate and test.

    `labels` has class indices [*map] or [*map, depth], negative where unlabelled; along the depth the labelled share is
    shown. `split` has codes 0 unused, 1 train, 2 validation, 3 test over the map (one or two axes). On so many
    cells of the `truth` the test part is scored, where there is one.
    """
    axes, (codes,) = _as_map(axes, split)
    labels = labels.reshape(*codes.shape, -1)
    (plane,) = sections(axes)
    labelled = labels >= 0
    flat = labels.shape[-1] == 1
    names = class_patches(class_names, labels) if flat else []
    with picture(path, _height([plane], 2, max(len(names) / SPLIT_COLUMNS, 2))) as figure:
        left, right = figure.subplots(1, 2)
        left.set_title("labels")
        if flat:
            show(left, paint(labels[..., 0], class_colours(len(class_names))), plane.rows, plane.columns)
        else:
            drawn = show(left, labelled.mean(axis=-1), plane.rows, plane.columns, cmap="cividis", vmin=0, vmax=1)
            _bar(figure, drawn, left, "labelled share of a column", shrink=0.8)
        rgba = paint(codes, PART_RGB)
        rgba[..., 3] = np.where(labelled.any(axis=-1), 1.0, 0.18)
        show(right, rgba, plane.rows, plane.columns, labels=False)
        right.set_title("split (pale: no labels there)")
        if names:
            legend_below(figure, names, SPLIT_COLUMNS, "outside lower left")
        counts = np.array([labelled[codes == code].sum() for code in range(len(PART_RGB))])
        patches = part_patches(codes, counts, "labels")
        if truth:
            patches[-1].set_label(f"test: {truth:,} cells of the truth")
        legend_below(figure, patches, 2, "outside lower right")


def draw_volume(
    background: np.ndarray,
    labels: np.ndarray | None,
    class_names: Sequence[str],
    axes: Sequence[Axis],
    path: Path,
    *,
    quantity: str = "",
    title: str = "labels",
) -> None:
    """Draw a volume: an image beside its labels, or three sections with labels laid over.

    `background` is float [*N], or [*N, 3] for colours, as `backdrop` makes it; `labels` has class indices over the same
    extent, negative where unlabelled. `quantity`, the data's name and units, stands at the colour bar, `title` over the
    classes.
    """
    colours = class_colours(len(class_names))
    handles: list[Patch] = []
    bare = -1
    if labels is not None:
        handles, bare = class_patches(class_names, labels), _common_class(labels)
        _, (labels,) = _as_map(axes, labels)
    axes, (background,) = _as_map(axes, background)
    planes, limits = sections(axes, labels), grey_limits(background)
    grey = background.ndim == len(axes)
    beside = len(planes) == 1 and labels is not None
    if bare >= 0 and not beside:
        handles = [handle for handle in handles if handle.get_label() != class_names[bare]]
        handles.append(class_patch(f"{class_names[bare]} (not tinted)", "0.6"))
    handles += _no_data(background)
    columns = 2 if beside else len(planes)
    tallest = max(planes, key=lambda plane: plane.aspect)
    with picture(path, _height([tallest], columns, len(handles) / LEGEND_COLUMNS, bar=grey)) as figure:
        panels = figure.subplots(1, columns, squeeze=False)[0]
        for ax, plane in zip(panels, planes, strict=False):
            drawn = _data(ax, plane, background, limits)
            if labels is not None and not beside:
                cut = plane.cut(labels)
                show(ax, paint(np.where(cut == bare, -1, cut), colours, OVERLAY), plane.rows, plane.columns, bare=True)
        if labels is not None and beside:
            show(panels[1], paint(labels, colours), planes[0].rows, planes[0].columns, labels=False)
            panels[1].set_title(title)
        if grey:
            _bar(figure, drawn, panels, quantity, shrink=0.7)
        if handles:
            legend_below(figure, handles)


def draw_prediction(
    background: np.ndarray,
    target: np.ndarray,
    prediction: np.ndarray,
    class_names: Sequence[str],
    axes: Sequence[Axis],
    path: Path,
) -> None:
    """Draw data, labels, prediction and errors side by side; one row of a map, three rows of a 3-D volume.

    `background` is float [*L], or [*L, 3] for colours, as `backdrop` makes it; `target` and `prediction` have class
    indices [*L], the target negative where unlabelled, and the other cells are scored.
    """
    colours = class_colours(len(class_names))
    axes, (background, target, prediction) = _as_map(axes, background, target, prediction)
    planes, limits = sections(axes, target), grey_limits(background)
    labelled = target >= 0
    verdicts = np.array([to_rgb(RIGHT), to_rgb(WRONG)])
    handles = class_patches(class_names, target, prediction) + _no_data(background)
    handles += [class_patch("right", RIGHT), class_patch("wrong", WRONG)]
    share = ((target != prediction) & labelled).sum() / max(labelled.sum(), 1)
    with picture(path, _height(planes, 4, len(handles) / LEGEND_COLUMNS)) as figure:
        rows = figure.subplots(len(planes), 4, squeeze=False, height_ratios=[plane.aspect for plane in planes])
        for plane, panels in zip(planes, rows, strict=True):
            _data(panels[0], plane, background, limits)
            true, found = plane.cut(target), plane.cut(prediction)
            wrong = np.where(true < 0, -1, true != found)
            errors = f"errors: {share:.1%} of the labelled"
            layers = (("labels", true, colours), ("prediction", found, colours), (errors, wrong, verdicts))
            for ax, (title, grid, palette) in zip(panels[1:], layers, strict=True):
                show(ax, paint(grid, palette), plane.rows, plane.columns, labels=False)
                ax.set_title(title if plane is planes[0] else "")
        legend_below(figure, handles)
