"""Scores of a segmentation from its confusion matrix.

K classes; rows of a confusion matrix are the true classes, columns the predicted ones. A class that the target lacks
has no accuracy and no IoU: both are NaN and left out of the means, although cells wrongly given to it count against the
classes that they were taken from.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MEANS = {"oa": "OA", "aa": "AA", "kappa": "kappa", "miou": "mean IoU"}
"""Scores over all classes, with their titles."""
_REFUSED_BY_MLFLOW = re.compile(r"[^\w\-. ]")


@dataclass(frozen=True)
class Scores:
    """Scores over the labelled cells, shares between 0 and 1 except kappa, which is negative below chance.

    Cohen's kappa is (oa - e) / (1 - e), with e the agreement expected of independent labels of the same frequencies.
    """

    oa: float  # overall accuracy: correct cells / all cells
    aa: float  # average accuracy: mean of `accuracy` over the present classes
    kappa: float
    miou: float  # mean of `iou` over the present classes
    iou: list[float]  # intersection over union of each class; NaN where the target does not hold the class
    accuracy: list[float]  # share of each class's cells that are recognised (recall, producer's accuracy); NaN likewise
    support: list[int]  # labelled cells of each class

    def as_dict(self, names: Sequence[str], prefix: str = "") -> dict[str, float]:
        """Return the four means, and ``iou/NAME`` of each present class, all named after `prefix`."""
        values = {f"{prefix}{key}": getattr(self, key) for key in MEANS}
        for name, iou, support in zip(names, self.iou, self.support, strict=True):
            if support:
                values[f"{prefix}iou/{metric_key(name)}"] = iou
        return values

    def table(self, names: Sequence[str]) -> str:
        """Return a table for the terminal: one line a class, then the four means."""
        width = max(len("class"), *(len(name) for name in names))
        lines = [f"{'class':<{width}}  {'cells':>9}  accuracy    IoU"]
        for name, cells, accuracy, iou in zip(names, self.support, self.accuracy, self.iou, strict=True):
            shown = f"{accuracy:8.3f}  {iou:5.3f}" if cells else f"{'-':>8}  {'-':>5}"
            lines.append(f"{name:<{width}}  {cells:9d}  {shown}")
        lines.append(f"OA {self.oa:.3f}   AA {self.aa:.3f}   kappa {self.kappa:.3f}   mIoU {self.miou:.3f}")
        return "\n".join(lines)


def metric_key(name: str) -> str:
    """Write a class name as MLflow allows it in a metric's key, with ``_`` for what it refuses."""
    return _REFUSED_BY_MLFLOW.sub("_", name)


def confusion(prediction: np.ndarray, target: np.ndarray, classes: int) -> np.ndarray:
    """Count the labelled cells of each pair of true and predicted class: int64 [K true, K predicted].

    Both hold class indices 0..K-1, in any shape and integer type; where the target is below 0, a cell is unlabelled and
    ignored. `ValueError` where the shapes differ, or a labelled cell holds another index.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"the prediction has shape {prediction.shape}, its target {target.shape}; they must be equal")
    labelled = target >= 0
    true_n = target[labelled].astype(np.int64)
    predicted_n = prediction[labelled].astype(np.int64)
    for name, index_n in (("target", true_n), ("prediction", predicted_n)):
        if index_n.size and not 0 <= index_n.min() <= index_n.max() < classes:
            raise ValueError(f"the {name} holds class {index_n.min()}..{index_n.max()}; there are 0..{classes - 1}")
    counts = np.bincount(true_n * classes + predicted_n, minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


def scores(matrix: np.ndarray) -> Scores:
    """Score counts [K true, K predicted] from `confusion`.

    NaN where undefined: all means of an empty matrix, and kappa where one class is all there is.
    """
    matrix = matrix.astype(np.float64)
    total = matrix.sum()
    true, predicted, hits = matrix.sum(axis=1), matrix.sum(axis=0), np.diag(matrix)
    present = true > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        oa = hits.sum() / total
        expected = (true * predicted).sum() / total**2
        kappa = (oa - expected) / (1 - expected)
        iou = np.where(present, hits / (true + predicted - hits), np.nan)
        accuracy = np.where(present, hits / true, np.nan)
        aa, miou = (each[present].sum() / present.sum() for each in (accuracy, iou))
    return Scores(
        oa=float(oa),
        aa=float(aa),
        kappa=float(kappa),
        miou=float(miou),
        iou=iou.tolist(),
        accuracy=accuracy.tolist(),
        support=true.astype(np.int64).tolist(),
    )
