"""What a run's folder proves, in numbers and pictures."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.errors import InputError
from datasets.samples.blocks import plan_windows
from datasets.volume import Part, Volume
from pipeline.checkpoints.checkpoint import Meta, best_checkpoint, load_segmenter, read_meta
from pipeline.pictures.curves import draw_confusion, draw_curves, draw_depths, draw_inversion
from pipeline.pictures.run import draw_map, draw_parts
from pipeline.planning.depth import Depth, memory_over_depth
from pipeline.planning.machine import memory_here
from pipeline.planning.memory import plan_prediction, trial_segmenter
from pipeline.run import Run
from pipeline.scoring.leaks import picture_leaks
from pipeline.scoring.metrics import confusion
from pipeline.scoring.validation import predict_classes
from pipeline.tracking.journal import read_history

OF_A_RUN = ("split", "prediction", "confusion", "curves", "leaks")  # drawn by `pipeline.training.finish`


@dataclass
class Evidence:
    """What is known of a run."""

    run: Run
    history: list[dict[str, float]]  # of every step
    ended: bool
    interrupted: bool  # asked to stop; neither where it was killed or is at work
    best: Meta | None  # checkpoint, if it has one
    metrics: dict[str, Any]  # ``metrics.json``; empty where that is not of the best checkpoint
    volume: Volume | None = None
    missing: str = ""  # why the volume is not here
    part: Part = "test"  # that is shown
    matrix: np.ndarray | None = None  # its confusion [K true, K predicted], with a checkpoint
    leaks: dict[str, Any] = field(default_factory=dict)  # ``leaks.json``
    block: tuple[int, ...] | None = None  # cells that the network sees at once, if known
    depths: list[Depth] = field(default_factory=list)  # predicted memory, if known
    peak: float | None = None  # in bytes, of the GPU's allocator, or of the whole process on a CPU
    pictures: dict[str, Path] = field(default_factory=dict)  # name -> PNG


def gather(run: Run, aside: Path) -> Evidence:
    """Read what a run left, and draw into `aside` what it did not.

    A run that has not ended is mapped by its best checkpoint, and shown against the validation labels: the test part is
    for the end. Nothing in the run's folder changes.
    """
    outcome = run.read("outcome.json")
    interrupted = bool(outcome.get("interrupted"))
    best, metrics = _best(run), run.read("metrics.json")
    if best is not None and metrics.get("best_step") != best.step:
        metrics = {}
    found = Evidence(run, read_history(run), bool(outcome) and not interrupted, interrupted, best, metrics)
    try:
        found.volume = run.volume
    except InputError as error:
        found.missing = str(error)
    if metrics:
        found.matrix = np.asarray(metrics["confusion"])
    else:
        found.part = "validation"
    if found.ended:
        found.leaks = run.read("leaks.json")
        kept = {name: run.pictures / f"{name}.png" for name in OF_A_RUN}
        found.pictures = {name: path for name, path in kept.items() if path.is_file()}
    _draw_what_lacks(found, aside)
    _measure_memory(found, aside)
    return found


def _best(run: Run) -> Meta | None:
    try:
        return read_meta(best_checkpoint(run.folder))
    except InputError:
        return None


def _place(found: Evidence, aside: Path, name: str) -> Path:
    found.pictures[name] = aside / f"{name}.png"
    return found.pictures[name]


def _draw_what_lacks(found: Evidence, aside: Path) -> None:
    run, volume = found.run, found.volume
    lacking = [name for name in OF_A_RUN if name not in found.pictures]
    if "curves" in lacking and found.history:
        draw_curves(found.history, _place(found, aside, "curves"))
    if volume is not None:
        if "split" in lacking:
            draw_parts(run, _place(found, aside, "split"))
        if not found.leaks or "leaks" in lacking:
            found.leaks = picture_leaks(run, _place(found, aside, "leaks")).to_json()
        if found.best is not None and (found.matrix is None or "prediction" in lacking):
            _map(found, volume, _place(found, aside, "prediction"))
    if "confusion" in lacking and found.matrix is not None:
        draw_confusion(found.matrix, run.prepared.segmenter.classes, _place(found, aside, "confusion"))
    errors = {row["step"]: row["inversion_error"] for row in found.history if "inversion_error" in row}
    if any(error > 0 for error in errors.values()):
        draw_inversion(list(errors), list(errors.values()), _place(found, aside, "inversion"))


def _map(found: Evidence, volume: Volume, path: Path) -> None:
    run = found.run
    model = load_segmenter(best_checkpoint(run.folder))
    factor = int(model.factor)
    # A run in slabs maps in one piece what this process may not.
    tiling = run.prepared.tiling or plan_prediction(model, volume.shape, memory_here(False), approximate=True)
    alone = replace(run, prepared=replace(run.prepared, tiling=tiling))
    prediction = predict_classes(model, alone, torch.device("cpu"))
    if found.matrix is None:
        target = volume.read_labels(run.split, found.part, factor=factor)
        found.matrix = confusion(prediction, target, len(volume.classes))
    draw_map(run, prediction, factor, found.part, path)


def _measure_memory(found: Evidence, aside: Path) -> None:
    run, data = found.run, found.run.config.data
    found.peak = max(
        (row["peak_memory_mib"] * 2**20 for row in found.history if "peak_memory_mib" in row), default=None
    )
    if found.volume is not None:
        factor = int(trial_segmenter(run.prepared.segmenter).factor)
        found.block = plan_windows(found.volume.shape, data.block, data.halo, factor)[0].sizes
    elif data.block is not None and data.halo is None:
        found.block = tuple(data.block)
    if found.block is not None:
        found.depths = memory_over_depth(run.config, run.prepared.segmenter, found.block)
        # The memory of a process holds its libraries too, which would pass for the network's.
        draw_depths(found.depths, found.peak if run.config.cluster.gpu else None, _place(found, aside, "memory"))
