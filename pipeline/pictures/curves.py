"""Pictures of a run's numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from models.watch import DRIFT
from pipeline.amount import show_bytes
from pipeline.pictures.style import CLASS_COLOURS, WIDTH, WRONG, picture
from pipeline.planning.depth import Depth

CELL = 0.34  # edge of a confusion matrix's cell, in inches
_SCORES = {"miou": "mIoU", "oa": "OA", "aa": "AA", "kappa": "kappa"}


def draw_confusion(matrix: np.ndarray, class_names: Sequence[str], path: Path) -> None:
    """Draw a confusion matrix, counts [K true, K predicted], as shares of each true class, in per cent."""
    cells = matrix.sum(axis=1)
    share = 100 * matrix / np.maximum(cells, 1)[:, None]
    classes = len(class_names)
    letters = max(map(len, class_names))
    side = max(CELL * classes, 1.9)
    width = side + 0.062 * (letters + 9) + 1.2
    scale = min(WIDTH / width, 1)
    size, slanted = 7 if classes < 12 else 6, classes > 3
    height = side + (0.045 * letters + 0.2 if slanted else 0.2) + 0.35
    with picture(path, height * scale, width * scale) as figure:
        ax = figure.subplots()
        drawn = ax.imshow(np.where(cells[:, None] > 0, share, np.nan), cmap="Blues", vmin=0, vmax=100)
        for row, column in np.argwhere(share >= 0.5):
            cell = share[row, column]
            colour = "white" if cell > 55 else "0.15"
            ax.text(column, row, f"{cell:.0f}", ha="center", va="center", color=colour, fontsize=size)
        ax.set_xticks(range(classes), class_names, rotation=45 if slanted else 0, ha="right" if slanted else "center")
        ax.set_yticks(range(classes), [f"{name} ({n:,})" for name, n in zip(class_names, cells, strict=True)])
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_ticks(np.arange(classes - 1) + 0.5, minor=True)
        ax.grid(which="minor", color="white", linewidth=0.8)
        ax.tick_params(which="both", length=0)
        ax.spines[:].set_visible(False)
        ax.set(xlabel="predicted class", ylabel="true class (labelled cells)")
        figure.colorbar(drawn, ax=ax, shrink=0.7, pad=0.02, label="share of the true class (%)")


def _series(history: Sequence[Mapping[str, float]], key: str) -> tuple[list[float], list[float]]:
    points = [(row["step"], row[key]) for row in history if key in row and np.isfinite(row[key])]
    return [step for step, _ in points], [value for _, value in points]


def draw_curves(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw loss, learning rate and validation scores."""
    with picture(path, 2.5) as figure:
        loss_ax, score_ax, rate_ax = figure.subplots(1, 3, width_ratios=[1, 1, 0.7])
        steps, losses = _series(history, "loss")
        loss_ax.plot(steps, losses, color="0.75", linewidth=0.8, label="each step")
        if len(losses) >= 10:
            width = max(3, len(losses) // 20)
            smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
            middle = steps[width // 2 : width // 2 + len(smooth)]
            loss_ax.plot(middle, smooth, color=CLASS_COLOURS[0], linewidth=1.4, label=f"mean of {width} steps")
            loss_ax.legend()
        if losses and min(losses) > 0:
            loss_ax.set_yscale("log")
        loss_ax.set_ylabel("training loss")
        for colour, (key, name) in zip(CLASS_COLOURS, _SCORES.items(), strict=False):
            at, values = _series(history, f"validation/{key}")
            if values:
                score_ax.plot(at, values, color=colour, linewidth=1.2, marker="o", markersize=2.5, label=name)
                if key == "miou":
                    best = np.argmax(values)
                    top = at[best], values[best]
                    score_ax.plot(*top, "o", color=colour, markersize=7, fillstyle="none")
                    score_ax.annotate(f"{top[1]:.3f}", top, (0, -13), textcoords="offset points", ha="center")
        score_ax.set_ylabel("validation score")
        if score_ax.lines:
            score_ax.legend(ncols=2)
        rate_ax.plot(*_series(history, "rate"), color=CLASS_COLOURS[5], linewidth=1.2)
        rate_ax.set_ylabel("learning rate")
        rate_ax.set_ylim(bottom=0)
        for ax in (loss_ax, score_ax, rate_ax):
            ax.set_xlabel("step")
            ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            ax.grid()


def draw_depths(depths: Sequence[Depth], measured: float | None, path: Path) -> None:
    """Draw the predicted peak of a training step over depth, and the run's in bytes."""
    (own,) = (depth for depth in depths if depth.own)
    layers = [depth.layers for depth in depths]
    with picture(path, 3.2, 5.0) as figure:
        ax = figure.subplots()
        how: dict[str, Any] = {"linewidth": 1.6, "marker": "o", "markersize": 3}
        stored, chain = [depth.stored for depth in depths], [depth.chain for depth in depths]
        ax.plot(layers, stored, color=CLASS_COLOURS[5], label="stored activations (plain autograd)", **how)
        ax.plot(layers, chain, color=CLASS_COLOURS[0], label="reversible chain", **how)
        ax.plot(own.layers, own.chain, "o", color=CLASS_COLOURS[0], markersize=9, label="this network, predicted")
        if measured is not None:
            label = "this network, measured"
            ax.plot(own.layers, measured, "D", color="black", markersize=7, fillstyle="none", label=label)
        ax.axvline(own.layers, color="0.8", linewidth=0.8, zorder=0)
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.set_xticks(layers, map(str, layers))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: show_bytes(value)))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.set(xlabel="layers", ylabel="peak of a training step")
        ax.grid()
        ax.legend(loc="upper left")


def draw_inversion(steps: Sequence[float], errors: Sequence[float], path: Path) -> None:
    """Draw the relative error of the recovered input over the steps, 0 at the bottom."""
    known = np.asarray(errors, np.float64)
    shown = known[known > 0]
    floor = shown.min() / 10 if shown.size else 1e-12
    with picture(path, 2.2, 6.4) as figure:
        ax = figure.subplots()
        ax.plot(steps, np.maximum(known, floor), color=CLASS_COLOURS[0], linewidth=1.2)
        ax.axhline(DRIFT, color=WRONG, linewidth=1, linestyle="--")
        ax.annotate("a run warns here", (1, DRIFT), (0, -3), xycoords=("axes fraction", "data"),
                    textcoords="offset points", ha="right", va="top", color=WRONG, fontsize=7)  # fmt: skip
        ax.set_yscale("log")
        ax.set_ylim(floor / 3, max(10 * DRIFT, 3 * known.max()))
        ax.set(xlabel="step", ylabel="error of the recovered input")
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.grid()
