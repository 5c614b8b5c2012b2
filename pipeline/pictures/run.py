"""Pictures of a run, from its volume and its split."""

from pathlib import Path

import numpy as np

from datasets.viewing import read_for_viewing
from datasets.volume import Part
from pipeline.pictures.curves import draw_confusion, draw_curves
from pipeline.pictures.maps import draw_prediction, draw_split
from pipeline.pictures.sections import backdrop
from pipeline.pictures.style import grid_axes
from pipeline.run import Run


def draw(
    run: Run, prediction: np.ndarray, matrix: np.ndarray, history: list[dict[str, float]], factor: int
) -> list[Path]:
    """Draw split, prediction, scores and learning curves; returns all pictures of the run.

    The prediction has class indices [*L] on a grid coarser by `factor`; `matrix` is the test part's confusion matrix.
    """
    folder = run.pictures
    draw_parts(run, folder / "split.png")
    draw_map(run, prediction, factor, "test", folder / "prediction.png")
    draw_confusion(matrix, run.volume.classes, folder / "confusion.png")
    draw_curves(history, folder / "curves.png")
    return sorted(folder.glob("*.png"))


def draw_parts(run: Run, path: Path) -> None:
    """Draw the labels of a run and the parts of its split."""
    volume, map_dims = run.volume, [str(dim) for dim in run.split.dims]
    order = [volume.label_dims.index(dim) for dim in map_dims]
    labels = np.moveaxis(volume.read_labels(), order, range(len(order)))
    truth = sum(run.prepared.counts["test"]) if "truth" in volume.dataset else 0
    draw_split(labels, run.split.values, volume.classes, grid_axes(volume.dataset, map_dims), path, truth)


def draw_map(run: Run, prediction: np.ndarray, factor: int, part: Part, path: Path) -> None:
    """Draw data, labels of one part, prediction and errors; parameters as `draw`."""
    volume = run.volume
    keep = [volume.space.index(dim) for dim in volume.label_dims]
    image = backdrop(read_for_viewing(run.config.data.source, volume), keep, colour="band" in volume.channel_dims)
    thin = (slice(None, None, factor),) * len(keep)
    if image.shape[: len(keep)] == tuple(volume.shape[axis] for axis in keep):
        image = image[thin]  # a last, incomplete cell like the others
    axes = grid_axes(volume.dataset.isel(dict(zip(volume.label_dims, thin, strict=True))), volume.label_dims)
    target = volume.read_labels(run.split, part, factor=factor)
    draw_prediction(image, target, prediction, volume.classes, axes, path)
