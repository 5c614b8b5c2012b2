"""The end of a training run: the best weights are scored on the test part, drawn, and logged."""

from pathlib import Path

import torch

from pipeline import pictures
from pipeline.checkpoint import best_checkpoint, load_segmenter, read_meta
from pipeline.journal import Journal, read_history
from pipeline.loop import Outcome, peak_memory, predict_classes
from pipeline.metrics import confusion, scores
from pipeline.run import Run


def finish(run: Run, outcome: Outcome, journal: Journal, device: torch.device) -> None:
    """Score, draw and log the best checkpoint; an interrupted run only notes where it stopped.

    Parameters
    ----------
    run
        The run; its folder receives ``metrics.json`` and the pictures.
    outcome
        How the loop ended.
    journal
        The run's journal.
    device
        Where the network runs.
    """
    tracker = journal.tracker
    run.write("outcome.json", {"step": outcome.progress.step, "interrupted": outcome.interrupted})
    if outcome.interrupted:
        tracker.flush()
        return
    best = best_checkpoint(run.folder)
    step = read_meta(best).step
    model = load_segmenter(best).to(device)
    volume, names = run.volume, run.volume.classes
    raw = volume.read()
    prediction = predict_classes(model, raw, device)
    factor = int(model.factor)
    target = volume.read_labels(run.split, "test", factor=factor)
    matrix = confusion(prediction, target, len(names))
    measured = scores(matrix)
    flat = {f"test/{key}": value for key, value in measured.as_dict(names).items()}
    history = read_history(run)
    errors = [row["inversion_error"] for row in history if "inversion_error" in row]
    run.write(
        "metrics.json",
        {
            "best_step": step,
            "steps": outcome.progress.step,
            "validation_miou": outcome.progress.best_score,
            "confusion": matrix.tolist(),
            "inversion_error": max(errors, default=None),
            "peak_memory_mib": peak_memory(device),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            **flat,
        },
    )
    tracker.metrics(outcome.progress.step, {key: value for key, value in flat.items() if value == value})
    for path in draw(run, raw, prediction, target, matrix, history):
        tracker.artifact(path, "pictures")
    tracker.artifact(run.folder / "metrics.json")
    tracker.tag("best_step", str(step))
    tracker.flush()


def draw(run, raw, prediction, target, matrix, history) -> list[Path]:  # type: ignore[no-untyped-def]
    """Placeholder signature until the pictures are in."""
    return []
