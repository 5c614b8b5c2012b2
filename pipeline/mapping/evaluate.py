"""Scores on the labelled cells of a run's test part, with the random forest beside them if wanted."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from datasets.errors import InputError
from pipeline.checkpoints.checkpoint import best_checkpoint, read_meta
from pipeline.config import EvaluateConfig
from pipeline.registry.load import load_model
from pipeline.run import Run
from pipeline.scoring.hits import count_hits, test_labels
from pipeline.scoring.leaks import leak_metrics, report_leaks
from pipeline.scoring.metrics import MEANS, Scores, scores
from pipeline.scoring.scorer import run_scorer
from pipeline.tracking.tracker import Tracker


def evaluate(config: EvaluateConfig, *, baseline: bool = False) -> Scores:
    """Score a run, or another model, on the test part of the run's split; prints the table and whether the split leaks.

    With `baseline` a random forest is trained and scored on the same cells; the scores returned are the model's.

    `InputError` where there is no run, the model does not fit its volume, or the test part holds no labels.
    """
    run = Run.open(config.run)
    uri = config.tracking_uri or run.tracking_uri
    scorer = load_model(config.model, tracking_uri=uri) if config.model else run_scorer(run)
    run_id = run.read("tracking.json").get("run_id")
    tracker = Tracker(uri, run_id) if run_id and not config.model else None
    target = test_labels(scorer, run.volume, run.split, str(run.folder))
    names, seen = scorer.description.classes, scorer.view(run.volume.dataset, str(run.folder))
    tiling = None if config.model else run.prepared.tiling
    if tiling is None and run.config.cluster.turns > 1:
        try:
            scorer.take_turns(seen, run.config.cluster)
        except InputError:  # not on this machine
            tiling = scorer.plan(seen, approximate=True)
    elif tiling is None or not scorer.fits(tiling, seen):  # a run in slabs maps what one worker may not
        tiling = scorer.plan(seen, approximate=True)
    matrix = count_hits(scorer, seen, target, tiling)
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
