"""Pictures of what reversibility gives and takes: memory over depth, and the inversion error over the steps."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from models.watch import DRIFT
from pipeline.amount import show_bytes
from pipeline.pictures.style import CLASS_COLOURS, WRONG, picture
from pipeline.planning.depth import Depth


def draw_depths(depths: Sequence[Depth], measured: float | None, path: str | Path) -> None:
    """Draw the predicted peak of a training step over depth, shallowest first, and mark the run's own network.

    Its `measured` peak in bytes is marked where it is known.
    """
    (own,) = (depth for depth in depths if depth.own)
    layers = [depth.layers for depth in depths]
    with picture(path, 3.2, 5.0) as figure:
        ax = figure.subplots()
        how = {"linewidth": 1.6, "marker": "o", "markersize": 3}
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
        ax.set_xticks(layers, [str(number) for number in layers])
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: show_bytes(value)))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.set(xlabel="layers", ylabel="peak of a training step")
        ax.grid()
        ax.legend(loc="upper left")


def draw_inversion(steps: Sequence[float], errors: Sequence[float], path: str | Path) -> None:
    """Draw the relative error of the recovered input over the steps; those of error 0 lie at the bottom."""
    known = np.asarray(errors, np.float64)
    shown = known[known > 0]
    floor = float(shown.min()) / 10 if shown.size else 1e-12
    with picture(path, 2.2, 6.4) as figure:
        ax = figure.subplots()
        ax.plot(steps, np.maximum(known, floor), color=CLASS_COLOURS[0], linewidth=1.2)
        ax.axhline(DRIFT, color=WRONG, linewidth=1, linestyle="--")
        ax.annotate("a run warns here", (1, DRIFT), (0, -3), xycoords=("axes fraction", "data"),
                    textcoords="offset points", ha="right", va="top", color=WRONG, fontsize=7)  # fmt: skip
        ax.set_yscale("log")
        ax.set_ylim(floor / 3, max(10 * DRIFT, 3 * float(known.max())))
        ax.set(xlabel="step", ylabel="error of the recovered input")
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.grid()
