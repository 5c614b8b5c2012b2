"""Pictures of a sweep."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from pipeline.config_sweep import SEARCHED
from pipeline.pictures.style import CLASS_COLOURS, picture
from pipeline.trials import DIRECTIONS, TITLES, Row, show

_LOGARITHMIC = ("step", "rate", "parameters", "memory", "peak", "time")  # others but the score are even
_COSTS = {"memory": "planned memory (MB)", "peak": "measured peak (MB)", "time": "seconds a step"}


def _title(name: str) -> str:
    title = TITLES.get(name, name)
    return title.replace(" ", "\n", 1) if title.startswith(("validation", "planned", "measured")) else title


class Scale:
    """Places all trials' values on one axis between 0 and 1."""

    def __init__(self, name: str, values: Sequence[Any]) -> None:
        self._listed = sorted(set(values))
        self._even = name not in (*_LOGARITHMIC, "score")
        self._norm = LogNorm if name in _LOGARITHMIC else Normalize

    def place(self, value: Any) -> float:
        """Return where a value lies."""
        if len(self._listed) == 1:
            return 0.5
        if self._even:
            return self._listed.index(value) / (len(self._listed) - 1)
        return float(self._norm(self._listed[0], self._listed[-1])(value))

    def ticks(self) -> list[Any]:
        """Return the values to write."""
        return self._listed if self._even else sorted({self._listed[0], self._listed[-1]})


def _varied(rows: Sequence[Row]) -> list[str]:
    return [name for name in SEARCHED if len({row["choice"].get(name) for row in rows}) > 1]


def _costs(objectives: Sequence[str]) -> list[str]:
    return [name for name in DIRECTIONS if name in objectives and name != "score"]


def draw_parallel(rows: Sequence[Row], objectives: Sequence[str], path: Path) -> None:
    """Draw ranked trials as lines across what varies and the objectives, coloured by score, the best thick."""
    searched = _varied(rows) or list(rows[0]["choice"])
    columns = {name: [row["choice"][name] for row in rows] for name in searched}
    columns |= {name: [row[name] for row in rows] for name in (*_costs(objectives), "score")}
    scales = {name: Scale(name, values) for name, values in columns.items()}
    scores = np.array([row["score"] for row in rows])
    norm, colours = Normalize(scores.min(), max(scores.max(), scores.min() + 1e-9)), mpl.colormaps["cividis"]
    with picture(path, 3.0) as figure:
        ax = figure.subplots()
        for number in reversed(range(len(rows))):
            ax.plot(
                [scale.place(columns[name][number]) for name, scale in scales.items()],
                color=colours(norm(scores[number])),
                linewidth=2.6 if number == 0 else 1.1,
                linestyle=(0, (3, 1.5)) if rows[number]["stopped"] else "-",
                solid_capstyle="round",
                marker="o",
                markersize=4.5 if number == 0 else 2.5,
            )
        for at, (name, scale) in enumerate(scales.items()):
            ax.axvline(at, color="0.6", linewidth=0.7, zorder=0)
            for value in scale.ticks():
                ax.annotate(
                    show("" if name in searched else name, value),
                    (at, scale.place(value)),
                    xytext=(-4, 0),
                    textcoords="offset points",
                    ha="right",
                    va="center",
                    fontsize=7,
                    bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6},
                )
        ax.set_xticks(range(len(scales)), [_title(name) for name in scales])
        ax.set(xlim=(-0.35, len(scales) - 0.85), ylim=(-0.06, 1.06), yticks=[])
        ax.tick_params(axis="x", length=0)
        ax.spines[:].set_visible(False)
        label = "validation mIoU" + " (dashed: stopped early)" * any(row["stopped"] for row in rows)
        figure.colorbar(ScalarMappable(norm, colours), ax=ax, pad=0.02, label=label)


def draw_pareto(rows: Sequence[Row], objectives: Sequence[str], path: Path) -> None:
    """Draw the score over each other objective, one at least; trials on the Pareto front of all are filled."""
    costs = _costs(objectives)
    with picture(path, 3.0) as figure:
        for ax, cost in zip(np.atleast_1d(figure.subplots(1, len(costs), sharey=True)), costs, strict=True):
            _draw_front(ax, rows, cost)
            ax.set_xlabel(_COSTS.get(cost, cost))
        first = figure.axes[0]
        first.set_ylabel("validation mIoU")
        handles, labels = first.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))


def _draw_front(ax: Axes, rows: Sequence[Row], cost: str) -> None:
    unit = 1e6 if cost in ("memory", "peak") else 1
    front = sorted((row for row in rows if row["front"]), key=lambda row: row[cost])
    rest = [row for row in rows if not row["front"]]
    for group, face, edge, label in (
        (rest, "none", "0.55", "another is as good in all objectives, and better in one"),
        (front, CLASS_COLOURS[0], CLASS_COLOURS[0], "Pareto front"),
    ):
        if group:
            points = [row[cost] / unit for row in group], [row["score"] for row in group]
            ax.scatter(*points, s=34, linewidths=1.2, label=label, zorder=3, facecolors=face, edgecolors=edge)
    low, high = min(row[cost] for row in rows), max(row[cost] for row in rows)
    middle = (low + high) / 2
    if high > 30 * low:
        middle = float(np.sqrt(low * high))
        ax.set_xscale("log")
        ax.xaxis.set_minor_formatter(NullFormatter())
    parts = _varied(rows)[:2]
    for row in front:
        right = row[cost] > middle
        ax.annotate(
            ", ".join(f"{name} {show('', row['choice'][name])}" for name in parts),
            (row[cost] / unit, row["score"]),
            xytext=(-6 if right else 6, 0),
            textcoords="offset points",
            ha="right" if right else "left",
            va="center",
            fontsize=6.5,
            color="0.3",
        )
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}" if cost == "parameters" else "{x:,g}"))
    ax.margins(0.12)
    ax.grid()


def draw_trials(trials: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw score over depth, one colour a block rank, beside the best score of each pair.

    Each trial has ``depth``, ``rank``, ``score`` and ``steps``; one of fewer steps than the longest is drawn hollow.
    """
    scored = [trial for trial in trials if np.isfinite(trial["score"])]
    depths, ranks = (sorted({int(trial[part]) for trial in scored}) for part in ("depth", "rank"))
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
            colour = "white" if best[row, column] < (np.nanmin(best) + np.nanmax(best)) / 2 else "black"
            table.text(column, row, f"{best[row, column]:.3f}", ha="center", va="center", color=colour)
        table.set_xticks(range(len(depths)), map(str, depths))
        table.set_yticks(range(len(ranks)), map(str, ranks))
        table.set(xlabel="depth (layers)", ylabel="block rank")
        table.spines[:].set_visible(False)
        table.tick_params(length=0)
        figure.colorbar(drawn, ax=table, label="best validation mIoU", pad=0.02)
