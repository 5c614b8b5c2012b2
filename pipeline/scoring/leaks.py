"""The leak report of a run: measured on the split that the run keeps, written, drawn and logged beside its scores."""

from pathlib import Path

from datasets.samples.leaks import LeakReport, measure_leaks
from pipeline.pictures.leaks import draw_leaks
from pipeline.pictures.style import grid_axes
from pipeline.run import Run


def report_leaks(run: Run) -> LeakReport:
    """Measure how far apart the parts of a run's split lie; writes ``leaks.json`` and ``pictures/leaks.png``.

    The kept split is measured, not a new one: the codes by which training and scoring read their labels.
    """
    report = picture_leaks(run, run.pictures / "leaks.png")
    run.write("leaks.json", report.to_json())
    return report


def picture_leaks(run: Run, path: Path) -> LeakReport:
    """Measure as `report_leaks` does, and write nothing but the picture."""
    report = measure_leaks(run.split, run.config.split.buffer)
    draw_leaks(run.split.values, report, grid_axes(run.volume.dataset, report.dims), path)
    return report


def leak_metrics(report: LeakReport) -> dict[str, float]:
    """Return a report as numbers for MLflow: violations, and the smallest distance of each two parts."""
    values = {"leaks/violations": float(report.violations)}
    for gap in report.gaps:
        name = "-".join(gap.parts)
        values[f"leaks/{name}/cells"] = float(gap.distance)
        if gap.metres is not None:
            values[f"leaks/{name}/metres"] = gap.metres
    return values
