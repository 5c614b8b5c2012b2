"""Scores on the labelled cells of a run's test part, with the random forest beside them if wanted."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import xarray as xr

from datasets.errors import InputError
from datasets.volume import Volume
from pipeline.config import EvaluateConfig
from pipeline.mapping.scorer import Scorer, load_model, run_scorer
from pipeline.planning.tiling import Cells, Tiling
from pipeline.run import Run
from pipeline.scoring.leaks import leak_metrics, report_leaks
from pipeline.scoring.metrics import MEANS, Scores, confusion, scores
from pipeline.tracking.tracker import Tracker
from pipeline.training.checkpoint import best_checkpoint, read_meta


def evaluate(config: EvaluateConfig, *, baseline: bool = False) -> Scores:
    """Score a run, or another model, on the test part of the run's split; prints the table and whether the split leaks.

    With `baseline` a random forest is trained and scored on the same cells; the scores returned are the model's.

    Raises
    ------
    InputError
        Where there is no run, the model does not fit its volume, or the test part holds no labels.
    """
    run = Run.open(config.run)
    uri = config.tracking_uri or run.tracking_uri
    scorer = load_model(config.model, tracking_uri=uri) if config.model else run_scorer(run)
    run_id = run.read("tracking.json").get("run_id")
    tracker = Tracker(uri, run_id) if run_id and not config.model else None
    target = test_labels(scorer, run.volume, run.split, str(run.folder))
    names = scorer.description.classes
    tiling = None if config.model else run.prepared.tiling
    if tiling is None or not scorer.fits(tiling, run.volume):  # a run in slabs maps what one worker may not
        tiling = scorer.plan(run.volume, approximate=True)
    matrix = count_hits(scorer, run.volume, target, tiling)
    measured = scores(matrix)
    columns = {scorer.version: measured}
    if baseline:
        from pipeline.scoring.baseline import forest_scores  # scikit-learn is imported only where it is wanted

        columns["random forest"] = forest_scores(run)
    print(table(names, columns))
    leaks = report_leaks(run)
    print(f"split: {leaks.statement()}")
    if config.model:
        return measured
    step = read_meta(best_checkpoint(run.folder)).step
    flat = measured.as_dict(names, "test/")
    if baseline:
        flat |= columns["random forest"].as_dict(names, "forest/")
    found = {"best_step": step, "confusion": matrix.tolist(), "leaks": leaks.statement(), **flat}
    run.write("metrics.json", run.read("metrics.json") | found)
    if tracker is not None:
        numbers = flat | leak_metrics(leaks)
        tracker.metrics(step, {key: value for key, value in numbers.items() if np.isfinite(value)})
        for name in ("metrics.json", "leaks.json"):
            tracker.artifact(run.folder / name)
        tracker.artifact(run.pictures / "leaks.png", "pictures")
    return measured


def test_labels(scorer: Scorer, volume: Volume, split: xr.DataArray, where: str) -> np.ndarray:
    """Read the labels that a model is scored on.

    Parameters
    ----------
    scorer
        The model.
    volume, split
        The labelled volume, and which of its cells test.
    where
        Whose they are, for an error.

    Returns
    -------
    numpy.ndarray
        int16 on the model's output grid, negative outside the test part.

    Raises
    ------
    InputError
        Where the model's classes, dimensions or sizes are not those of the volume, or nothing is labelled.
    """
    d = scorer.description
    scorer.check(volume.dataset, where)
    for thing, mine, theirs in (
        ("classes", d.classes, list(volume.classes)),
        ("output dimensions", d.label_dims, list(volume.label_dims)),
    ):
        if mine != theirs:
            raise InputError(f"{scorer.version} has the {thing} {mine}, but the labels of {where} have {theirs}")
    target = volume.read_labels(split, "test", factor=int(d.factor))
    if not (target >= 0).any():
        raise InputError(f"the test part of {where} holds no labelled cell; give split.fractions a larger third share")
    return target


def count_hits(scorer: Scorer, volume: Volume, target: np.ndarray, tiling: Tiling | None) -> np.ndarray:
    """Map what is labelled of a volume, and count it as `pipeline.scoring.metrics.confusion` does.

    Parameters
    ----------
    scorer, volume
        The model, and the volume as it sees it.
    target
        What `test_labels` read.
    tiling
        Blocks; none maps the volume in one piece.
    """
    scorer.announce(volume, tiling)
    classes = len(scorer.description.classes)
    matrix = np.zeros((classes, classes), np.int64)

    def wanted(cells: Cells) -> bool:
        return bool((target[scorer.grid.place(cells)] >= 0).any())

    for piece in scorer.map(volume, tiling=tiling, wanted=wanted):
        matrix += confusion(piece.found.argmax(axis=0), target[piece.place], classes)
        del piece  # the next one takes its memory
    return matrix


def table(names: Sequence[str], columns: Mapping[str, Scores]) -> str:
    """Lay scores of several models side by side: IoU of each class in `names`, then OA, AA, kappa and mean IoU.

    The models are scored on the same cells unless their grids differ. A single one gets a table with the accuracy of
    each class.
    """
    if len(columns) == 1:
        ((title, only),) = columns.items()
        return f"{title}, test part\n{only.table(names)}"
    first = next(iter(columns.values()))
    width = max(len("mean IoU"), *(len(name) for name in names))

    def line(name: str, cells: int | str, texts: Iterable[str]) -> str:
        shown = (f"{text:>{max(7, len(title))}}" for title, text in zip(columns, texts, strict=True))
        return f"{name:<{width}}  {cells:>9}  {'  '.join(shown)}"

    lines = [line("IoU", "cells", columns)]
    for index, name in enumerate(names):
        each = [f"{one.iou[index]:.3f}" if one.support[index] else "-" for one in columns.values()]
        lines.append(line(name, first.support[index], each))
    for key, title in MEANS.items():
        lines.append(line(title, sum(first.support), [f"{getattr(one, key):.3f}" for one in columns.values()]))
    return "\n".join(lines)
