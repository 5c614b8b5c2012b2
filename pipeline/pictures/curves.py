"""Pictures of a run's numbers: confusion matrix, learning curves, the trials of a sweep."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator

from pipeline.pictures.style import CLASS_COLOURS, WIDTH, picture

CELL = 0.34
"""Edge of a confusion matrix's cell, in inches."""
_SCORES = {"miou": "mIoU", "oa": "OA", "aa": "AA", "kappa": "kappa"}


def draw_confusion(matrix: np.ndarray, class_names: Sequence[str], path: str | Path) -> None:
    """Draw a confusion matrix, counts [K true, K predicted], as shares of each true class, in per cent."""
    cells = matrix.sum(axis=1)
    share = 100 * matrix / np.maximum(cells, 1)[:, None]
    classes = len(class_names)
    letters = max(len(name) for name in class_names)
    side = max(CELL * classes, 1.9)
    width = side + 0.062 * (letters + 9) + 1.2
    scale = min(WIDTH / width, 1)
    size, slanted = 7 if classes < 12 else 6, classes > 3
    height = side + (0.045 * letters + 0.2 if slanted else 0.2) + 0.35
    with picture(path, height * scale, width * scale) as figure:
        ax = figure.subplots()
        drawn = ax.imshow(np.where(cells[:, None] > 0, share, np.nan), cmap="Blues", vmin=0, vmax=100)
        for row, column in np.argwhere(share >= 0.5):
            colour = "white" if share[row, column] > 55 else "0.15"
            text = f"{share[row, column]:.0f}"
            ax.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)
        ax.set_xticks(range(classes), class_names, rotation=45 if slanted else 0, ha="right" if slanted else "center")
        ax.set_yticks(range(classes), [f"{name} ({n:,})" for name, n in zip(class_names, cells, strict=True)])
        ax.set_xticks(np.arange(classes - 1) + 0.5, minor=True)
        ax.set_yticks(np.arange(classes - 1) + 0.5, minor=True)
        ax.grid(which="minor", color="white", linewidth=0.8)
        ax.tick_params(which="both", length=0)
        ax.spines[:].set_visible(False)
        ax.set(xlabel="predicted class", ylabel="true class (labelled cells)")
        figure.colorbar(drawn, ax=ax, shrink=0.7, pad=0.02, label="share of the true class (%)")


def _series(history: Sequence[Mapping[str, float]], key: str) -> tuple[list[float], list[float]]:
    points = [(row["step"], row[key]) for row in history if key in row and np.isfinite(row[key])]
    return [step for step, _ in points], [value for _, value in points]


def draw_curves(history: Sequence[Mapping[str, float]], path: str | Path) -> None:
    """Draw the learning curves: loss, validation scores, learning rate.

    Parameters
    ----------
    history
        One mapping a step with ``step`` and any of ``loss``, ``rate``, ``validation/miou``, ``validation/oa``,
        ``validation/aa``, ``validation/kappa``; scores need not be there at every step.
    path
        PNG to write.
    """
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
                    best = int(np.argmax(values))
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


def draw_trials(trials: Sequence[Mapping[str, float]], path: str | Path) -> None:
    """Draw the trials of a sweep: score over depth, one colour a block rank, beside the best score of each pair.

    Parameters
    ----------
    trials
        One mapping a trial with ``depth``, ``rank``, ``score`` and ``steps``; one of fewer steps than the longest was
        stopped early and is drawn hollow.
    path
        PNG to write.
    """
    scored = [trial for trial in trials if np.isfinite(trial["score"])]
    depths = sorted({int(trial["depth"]) for trial in scored})
    ranks = sorted({int(trial["rank"]) for trial in scored})
    longest = max((trial["steps"] for trial in scored), default=0)
    best = np.full((len(ranks), len(depths)), np.nan)
    for trial in scored:
        cell = ranks.index(int(trial["rank"])), depths.index(int(trial["depth"]))
        best[cell] = np.nanmax([best[cell], trial["score"]])
    with picture(path, 2.9) as figure:
        points, table = figure.subplots(1, 2)
        for colour, rank in zip(CLASS_COLOURS, ranks, strict=False):
            own = [trial for trial in scored if int(trial["rank"]) == rank]
            points.scatter(
                [trial["depth"] for trial in own],
                [trial["score"] for trial in own],
                s=36,
                linewidths=1.3,
                edgecolors=colour,
                facecolors=[colour if trial["steps"] == longest else "none" for trial in own],
                label=f"rank {rank}",
            )
        points.set(xticks=depths, xlabel="depth (layers)", ylabel="validation mIoU")
        points.margins(0.12)
        points.grid()
        hollow = any(trial["steps"] < longest for trial in scored)
        legend = points.legend(title="hollow: stopped early" if hollow else None)
        for handle, colour in zip(legend.legend_handles, CLASS_COLOURS, strict=False):
            handle.set_facecolor(colour)
        drawn = table.imshow(best, cmap="cividis", aspect="auto", origin="lower")
        for row, column in np.argwhere(np.isfinite(best)):
            low = best[row, column] < (np.nanmin(best) + np.nanmax(best)) / 2
            colour = "white" if low else "black"
            table.text(column, row, f"{best[row, column]:.3f}", ha="center", va="center", color=colour)
        table.set_xticks(range(len(depths)), [str(depth) for depth in depths])
        table.set_yticks(range(len(ranks)), [str(rank) for rank in ranks])
        table.set(xlabel="depth (layers)", ylabel="block rank")
        table.spines[:].set_visible(False)
        table.tick_params(length=0)
        figure.colorbar(drawn, ax=table, label="best validation mIoU", pad=0.02)
