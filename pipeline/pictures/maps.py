"""Pictures of volumes: the split on the map, sections through the data, predictions beside the labels.

C channels, N the space dimensions, L the label dimensions. All functions take arrays with their axes; a volume of three
dimensions is drawn as three sections.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pipeline.pictures.sections import Section, sections
from pipeline.pictures.style import (
    NO_DATA,
    PART_COLOURS,
    RIGHT,
    WIDTH,
    WRONG,
    Axis,
    class_colours,
    grey_limits,
    paint,
    patches,
    picture,
    present_classes,
    show,
)

OVERLAY = 0.45
"""Opacity of labels over the data."""
SPLIT_COLUMNS = 3
"""Columns of the class legend below a map of half the picture's width."""
PARTS = ("unused", "train", "validation", "test")
"""Names of the split's codes 0 to 3, as in `datasets.split`."""


def _panels(figure: Figure, planes: Sequence[Section], columns: int) -> list[list[Axes]]:
    heights = [plane.aspect for plane in planes]
    grid = figure.subplots(len(planes), columns, squeeze=False, height_ratios=heights)
    return [list(row) for row in grid]


def _height(planes: Sequence[Section], columns: int, legend_rows: int, *, bar: bool = False) -> float:
    """Estimate the height in inches that panels, their titles and numbers, and the legend fill."""
    width = (WIDTH - (1.4 if bar else 0.7)) / columns - 0.15
    room = 0.6 if len(planes) == 1 else 0.72
    return sum(plane.aspect * width + room for plane in planes) + 0.2 * legend_rows + 0.1


def _legend(figure: Figure, handles: list[Patch]) -> None:
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6), handlelength=1.2)


def _legend_rows(handles: Sequence[Patch]) -> int:
    return -(-len(handles) // 6)


def _data(
    ax: Axes, plane: Section, background: np.ndarray, limits: tuple[float, float], *, labels: bool = True
) -> object:
    colour = background.ndim == (3 if plane.fixed is None else 4)
    ax.set_facecolor(NO_DATA)
    image = plane.cut(background)
    if colour:
        filled = np.concatenate([np.nan_to_num(image), np.isfinite(image).all(axis=-1, keepdims=True)], axis=-1)
        return show(ax, filled, plane.rows, plane.columns, labels=labels)
    low, high = limits
    return show(ax, image, plane.rows, plane.columns, labels=labels, cmap="gray", vmin=low, vmax=high)


def _no_data(background: np.ndarray) -> list[Patch]:
    """Make the legend of the colour that shows through where there is no data, if there is such a place."""
    return [] if np.isfinite(background).all() else patches(["no data"], np.array([to_rgb(NO_DATA)]))


def _common_class(labels: np.ndarray) -> int:
    """Return the class that fills more than half of the volume, whose tint would only darken the data, or -1."""
    counts = np.bincount(labels[labels >= 0].astype(np.int64), minlength=1)
    return int(counts.argmax()) if 2 * counts.max() > labels.size else -1


def _as_map(axes: Sequence[Axis], *grids: np.ndarray) -> tuple[list[Axis], list[np.ndarray]]:
    """Give a grid of one axis a row axis, so that it is drawn as a map of one row."""
    if len(axes) > 1:
        return list(axes), list(grids)
    return [Axis("", 1), *axes], [grid[None] for grid in grids]


def draw_split(
    labels: np.ndarray, split: np.ndarray, class_names: Sequence[str], axes: Sequence[Axis], path: str | Path
) -> None:
    """Draw which labels train, validate and test.

    Parameters
    ----------
    labels
        Class indices [*map] or [*map, ...], negative where unlabelled; further axes (depth) are shown as the share of
        their cells that is labelled.
    split
        Codes 0 unused, 1 train, 2 validation, 3 test over the map (one or two axes).
    class_names
        Names of the classes.
    axes
        Axes of the map.
    path
        PNG to write.
    """
    axes, (codes,) = _as_map(axes, split)
    labels = labels.reshape(*codes.shape, -1)
    (plane,) = sections(axes)
    labelled = labels >= 0
    colours = np.array([to_rgb(PART_COLOURS[part]) for part in PARTS])
    handles = [
        Patch(
            facecolor=tuple(colours[code]),
            label=f"{part}: {np.count_nonzero(labelled & (codes == code)[..., None]):,} labels",
        )
        for code, part in enumerate(PARTS)
        if (codes == code).any()
    ]
    flat = labels.shape[-1] == 1
    names = patches(class_names, class_colours(len(class_names)), present_classes(labels)) if flat else []
    with picture(path, _height([plane], 2, max(-(-len(names) // SPLIT_COLUMNS), 2))) as figure:
        ((left, right),) = _panels(figure, [plane], 2)
        if flat:
            show(left, paint(labels[..., 0], class_colours(len(class_names))), plane.rows, plane.columns)
            left.set_title("labels")
        else:
            drawn = show(left, labelled.mean(axis=-1), plane.rows, plane.columns, cmap="cividis", vmin=0, vmax=1)
            figure.colorbar(
                drawn, ax=left, shrink=0.8, pad=0.02, aspect=25, panchor=False, label="labelled share of a column"
            )
            left.set_title("labels")
        rgba = paint(codes, colours)
        rgba[..., 3] = np.where(labelled.any(axis=-1), 1.0, 0.18)
        show(right, rgba, plane.rows, plane.columns, labels=False)
        right.set_title("split (pale: no labels there)")
        if names:
            figure.legend(handles=names, loc="outside lower left", ncols=SPLIT_COLUMNS, handlelength=1.2)
        figure.legend(handles=handles, loc="outside lower right", ncols=2, handlelength=1.2)


def draw_volume(
    background: np.ndarray,
    labels: np.ndarray | None,
    class_names: Sequence[str],
    axes: Sequence[Axis],
    path: str | Path,
    *,
    quantity: str = "",
    title: str = "labels",
) -> None:
    """Draw a volume with its labels: an image beside its labels, or three sections in grey with labels laid over.

    Parameters
    ----------
    background
        float [*N], or [*N, 3] for colours, as `backdrop` makes it.
    labels
        Class indices over the same extent, negative where unlabelled.
    class_names
        Names of the classes.
    axes
        Axes of the grid.
    path
        PNG to write.
    quantity
        Name and units of the data, for the colour bar.
    title
        What the classes are, over their panel.
    """
    colours = class_colours(len(class_names))
    if labels is not None:
        _, (labels,) = _as_map(axes, labels)
    axes, (background,) = _as_map(axes, background)
    planes = sections(axes, labels)
    limits = grey_limits(background)
    grey = background.ndim == len(axes)
    handles = [] if labels is None else patches(class_names, colours, present_classes(labels))
    bare = -1 if labels is None else _common_class(labels)
    beside = len(planes) == 1 and labels is not None
    if bare >= 0 and not beside:
        handles = [handle for handle in handles if handle.get_label() != class_names[bare]]
        handles.append(
            Patch(facecolor="0.6", edgecolor="0.3", linewidth=0.4, label=f"{class_names[bare]} (not tinted)")
        )
    handles += _no_data(background)
    columns = 2 if beside else len(planes)
    tallest = max(planes, key=lambda plane: plane.aspect)
    with picture(path, _height([tallest], columns, _legend_rows(handles), bar=grey)) as figure:
        panels: list[Axes] = list(figure.subplots(1, columns, squeeze=False)[0])
        drawn = None
        for ax, plane in zip(panels, planes, strict=False):
            drawn = _data(ax, plane, background, limits)
            ax.set_title(plane.title or "data")
            if labels is not None and not beside:
                cut = plane.cut(labels)
                show(ax, paint(np.where(cut == bare, -1, cut), colours, OVERLAY), plane.rows, plane.columns, bare=True)
        if beside and labels is not None:
            show(panels[1], paint(labels, colours), planes[0].rows, planes[0].columns, labels=False)
            panels[1].set_title(title)
        if grey:
            figure.colorbar(drawn, ax=panels, shrink=0.7, pad=0.02, aspect=25, panchor=False, label=quantity)  # type: ignore[arg-type]
        if handles:
            _legend(figure, handles)


def draw_prediction(
    background: np.ndarray,
    target: np.ndarray,
    prediction: np.ndarray,
    class_names: Sequence[str],
    axes: Sequence[Axis],
    path: str | Path,
) -> None:
    """Draw data, labels, prediction and errors side by side; one row of a map, three rows of a 3-D volume.

    Parameters
    ----------
    background
        float [*L], or [*L, 3] for colours, as `backdrop` makes it.
    target
        Class indices [*L], negative where unlabelled: the cells that are scored.
    prediction
        Class indices [*L].
    class_names
        Names of the classes.
    axes
        Axes of the label grid.
    path
        PNG to write.
    """
    colours = class_colours(len(class_names))
    axes, (background, target, prediction) = _as_map(axes, background, target, prediction)
    planes = sections(axes, target)
    limits = grey_limits(background)
    labelled = target >= 0
    verdicts = np.array([to_rgb(RIGHT), to_rgb(WRONG)])
    handles = patches(class_names, colours, present_classes(target, prediction))
    handles += _no_data(background) + patches(["right", "wrong"], verdicts)
    share = float(((target != prediction) & labelled).sum() / max(labelled.sum(), 1))
    with picture(path, _height(planes, 4, _legend_rows(handles))) as figure:
        for plane, panels in zip(planes, _panels(figure, planes, 4), strict=True):
            _data(panels[0], plane, background, limits)
            true, found = (plane.cut(grid).astype(np.int64) for grid in (target, prediction))
            wrong = np.where(true < 0, -1, (true != found).astype(np.int64))
            layers = ((true, colours), (found, colours), (wrong, verdicts))
            titles = ("labels", "prediction", f"errors: {share:.1%} of the labelled")
            for ax, (grid, palette), title in zip(panels[1:], layers, titles, strict=True):
                show(ax, paint(grid, palette), plane.rows, plane.columns, labels=False)
                ax.set_title(title if plane is planes[0] else "")
            panels[0].set_title(plane.title or "data")
        _legend(figure, handles)
