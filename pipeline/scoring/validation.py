"""A run's volume as its network classifies it, and its scores on a part of the split."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import nn

from datasets.volume import Part
from pipeline.planning.tiling import Cells, OutputGrid, Piece, Wanted, map_pieces
from pipeline.ranks.gradient_sum import sum_over_ranks
from pipeline.ranks.slabs import ALONE, Place, gathered
from pipeline.run import Run
from pipeline.scoring.metrics import Scores, confusion, scores

Known = dict[tuple[tuple[int, int], ...], bool]
"""Whether a block, by the first cell and the one behind its last along each axis, holds labels."""


def _classify(
    model: nn.Module, run: Run, device: torch.device, *, wanted: Wanted | None = None, place: Place
) -> Iterator[Piece]:
    was_training, slab = model.training, place.slab
    forward = model if slab is None else partial(model, slab=slab)
    model.eval()
    try:
        yield from map_pieces(
            lambda raw: forward(raw).argmax(dim=1).to(torch.uint8),
            run.volume.read,
            run.volume.shape,
            OutputGrid.of(model, list(run.volume.read_slice)),
            device=getattr(model, "home", device),
            tiling=run.prepared.tiling,
            wanted=wanted,
            rank=place.group,
            world=place.groups,
            share=None if slab is None else partial(slab.share, model),
        )
    finally:
        model.train(was_training)


def predict_classes(model: nn.Module, run: Run, device: torch.device, place: Place = ALONE) -> np.ndarray:
    """Classify all cells of a run's volume, in one piece or in the run's blocks; every rank takes part.

    Returns uint8 [*L]; the first rank's is complete, the others' are empty of classes.
    """
    out = np.zeros(OutputGrid.of(model, list(run.volume.read_slice)).sizes(run.volume.shape), np.uint8)
    found = ((piece.place, piece.found) for piece in _classify(model, run, device, place=place))
    for where, classes in found if place.alone else gathered(found, device):
        out[where] = classes
    return out


def validate(
    model: nn.Module,
    run: Run,
    device: torch.device,
    part: Part = "validation",
    *,
    known: Known | None = None,
    place: Place = ALONE,
) -> tuple[Scores, np.ndarray]:
    """Score the network on one part of the split.

    Ranks share the blocks with labels, this one by its `place`; others are not read. `known`, which blocks hold labels
    of the part as far as earlier calls found out, is added to. Returns scores and confusion matrix, the same on all
    ranks.
    """
    factor, classes = int(getattr(model, "factor", 1)), len(run.volume.classes)
    matrix, known = np.zeros((classes, classes), np.int64), {} if known is None else known

    def labels(cells: Cells) -> np.ndarray:
        return run.volume.read_labels(run.split, part, cells, factor)

    def holds_labels(cells: Cells) -> bool:
        key = tuple((cut.start, cut.stop) for cut in cells)
        if key not in known:
            known[key] = run.volume.meets(run.split, part, cells) and bool((labels(cells) >= 0).any())
        return known[key]

    for piece in _classify(model, run, device, wanted=holds_labels, place=place):
        if piece.found.size:
            matrix += confusion(piece.found, labels(piece.cells), classes)
        del piece  # the next one takes its memory
    if not place.alone:
        counts = sum_over_ranks([float(count) for count in matrix.ravel()], device)
        matrix = np.array(counts, np.int64).reshape(matrix.shape)
    return scores(matrix), matrix
