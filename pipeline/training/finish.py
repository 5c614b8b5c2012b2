"""The end of a training run."""

from pathlib import Path

import numpy as np
import torch

from models.segmenter import Segmenter
from pipeline.checkpoints.checkpoint import best_checkpoint, load_segmenter, read_meta
from pipeline.pictures.run import draw
from pipeline.planning.turns import stream_of
from pipeline.ranks.slabs import chosen_by_first
from pipeline.report.card import model_card
from pipeline.report.report import write_report
from pipeline.run import Run
from pipeline.scoring.description import describe_run
from pipeline.scoring.leaks import leak_metrics, report_leaks
from pipeline.scoring.metrics import confusion, scores
from pipeline.scoring.validation import predict_classes
from pipeline.tracking.journal import Journal, read_history
from pipeline.tracking.reading import summarise_reading
from pipeline.training.loop import Outcome, peak_memory


def map_best(run: Run, outcome: Outcome, device: torch.device) -> tuple[Path, Segmenter, np.ndarray]:
    """Map the run's volume with its best checkpoint; every rank takes part, and the first has the map."""
    best = chosen_by_first(lambda: best_checkpoint(run.folder), outcome.place, device)
    model = load_segmenter(best).to(device)
    model.network.stream = stream_of(run.config.cluster)
    return best, model, predict_classes(model, run, device, outcome.place)


def finish(run: Run, outcome: Outcome, journal: Journal, device: torch.device) -> None:
    """Score the best checkpoint on the test part, draw and log it; an interrupted run only notes where it stopped.

    The first rank's work; the others call `map_best` meanwhile, unless the run was interrupted. Its folder receives
    ``metrics.json``, ``leaks.json``, ``model-card.md``, the pictures and the report.
    """
    tracker, ended = journal.tracker, {"step": outcome.progress.step, "interrupted": outcome.interrupted}
    if outcome.interrupted:
        run.write("outcome.json", ended)
        tracker.flush()
        return
    best, model, prediction = map_best(run, outcome, device)
    step, names = read_meta(best).step, run.volume.classes
    factor = int(model.factor)
    matrix = confusion(prediction, run.volume.read_labels(run.split, "test", factor=factor), len(names))
    flat = {f"test/{key}": value for key, value in scores(matrix).as_dict(names).items()}
    history = read_history(run)
    leaks = report_leaks(run)
    errors = [row["inversion_error"] for row in history if "inversion_error" in row]
    summary = {
        "best_step": step,
        "steps": outcome.progress.step,
        "validation_miou": outcome.progress.best_score,
        "confusion": matrix.tolist(),
        "inversion_error": max(errors, default=None),
        "peak_memory_mib": peak_memory(device),
        "leaks": leaks.statement(),
        "reading": summarise_reading(history),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **flat,
    }
    run.write("metrics.json", summary)
    run.write("outcome.json", ended)  # not before: a run that is killed while it is scored has not ended
    card = run.folder / "model-card.md"
    card.write_text(model_card(run.config.name, describe_run(run, model), summary))
    flat |= leak_metrics(leaks)
    tracker.metrics(outcome.progress.step, {key: value for key, value in flat.items() if value == value})
    for path in draw(run, prediction, matrix, history, factor):
        tracker.artifact(path, "pictures")
    for path in (run.folder / "metrics.json", run.folder / "leaks.json", card):
        tracker.artifact(path)
    tracker.artifacts(run.folder / "split.zarr", "split.zarr")
    tracker.artifact(write_report(run))
    tracker.tag("best_step", str(step))
    tracker.flush()
