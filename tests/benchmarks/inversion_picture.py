"""The picture of `tests.benchmarks.inversion`: error of the inversion and of the gradients against depth."""

import math
from pathlib import Path

# Name of a curve, its label, colour and style.
OURS = (
    ("exact, bf16 force", "ours, exact, bf16 force", "#0072b2", "o-"),
    ("exact, float32 force", "ours, exact, float32 force", "#56b4e9", "D-"),
    ("exact, 16-bit states, bf16 force", "ours, exact, 16-bit states, bf16 force", "#f0b000", "*-"),
    ("float32", "ours, float32", "#009e73", "^-"),
    ("float32 states, bf16 force", "ours, float32 states, bf16 force", "#d55e00", "v-"),
)
STORED = (
    ("stored activations, float32", "telegraph, stored activations, float32", "#000000", "-"),
    ("stored activations, bf16 force", "telegraph, stored activations, bf16 force", "#888888", "-"),
)
PEERS = (
    ("MemCNN 1.5.2, float32", "MemCNN, float32", "#cc79a7", "s--"),
    ("MemCNN 1.5.2, bf16 force", "MemCNN, bf16 force", "#cc79a7", "s:"),
    ("RevLib 1.7.2, float32", "RevLib, float32", "#7f5fbf", "P--"),
    ("RevLib 1.7.2, bf16 force", "RevLib, bf16 force", "#7f5fbf", "P:"),
    ("iUNets 0.1, float32", "iUNets, float32", "#8c564b", "X--"),
    ("iUNets 0.1, bf16 force", "iUNets, bf16 force", "#8c564b", "X:"),
)
LOWEST = 1e-9  # where an error of exactly 0 is drawn on a logarithmic axis


def draw(curves: dict[str, dict[int, tuple[float, float]]], title: str, path: Path) -> None:
    """Draw both errors against depth: a row for each start, where there are several."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    starts = {"": "gentle start (default)"}
    if any(name.endswith(", lively") for name in curves):
        starts[", lively"] = "lively start"
    rows = len(starts)
    figure, axes = pyplot.subplots(rows, 2, figsize=(11, 1.6 + 3.4 * rows), squeeze=False, layout="constrained")
    depths = list(next(iter(curves.values())))
    ticks = [LOWEST, *[10.0**power for power in range(-7, 2, 2)]]
    for line, (start, label) in zip(axes, starts.items(), strict=True):
        errors = (f"relative error of the recovered input\n{label}", "relative error of the gradients")
        for which, (panel, text) in enumerate(zip(line, errors, strict=True)):
            for name, called, colour, style in (*OURS, *STORED, *PEERS):
                points = curves.get(name + start, {})
                values = [points[depth][which] if depth in points else math.nan for depth in depths]
                drawn = [max(value, LOWEST) if math.isfinite(value) else math.nan for value in values]
                ours = any(name == ours for ours, *_ in OURS)
                width, size = (2, 7) if ours else (1, 5)
                panel.plot(depths, drawn, style, color=colour, linewidth=width, markersize=size, label=called)
            panel.set(xscale="log", yscale="log", ylabel=text, ylim=(1e-8 if which else LOWEST / 3, 30))
            panel.set_xticks(depths, [str(depth) for depth in depths])
            names = ["0", *[f"$10^{{{power}}}$" for power in range(-7, 2, 2)]]
            panel.set_yticks(ticks[which:], names[which:])
            panel.minorticks_off()
            panel.grid(alpha=0.3)
    for panel in axes[-1]:
        panel.set_xlabel("layers")
    figure.legend(handles=axes[0, 0].get_lines(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
