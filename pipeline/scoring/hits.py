"""What a model hits of the labels of a test part."""

import numpy as np
import xarray as xr

from datasets.errors import InputError
from datasets.volume import Volume
from pipeline.planning.tiling import Cells, Tiling
from pipeline.scoring.metrics import confusion
from pipeline.scoring.scorer import Scorer


def test_labels(scorer: Scorer, volume: Volume, split: xr.DataArray, where: str) -> np.ndarray:
    """Read the labels that a model is scored on, int16 on its output grid and negative outside the test part.

    `InputError` where the model's classes, dimensions or sizes are not those of the volume, or nothing is labelled.
    """
    d = scorer.description
    scorer.check(volume.dataset, where)
    for thing, mine, theirs in (
        ("classes", d.classes, volume.classes),
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

    The volume is as the model sees it, `target` what `test_labels` read; without a tiling it is mapped in one piece.
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
