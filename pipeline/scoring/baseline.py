"""A random forest that sees one voxel at a time: what a run has to beat.

C channels, N the space dimensions, L the label dimensions, F features, M cells.
"""

import numpy as np
from scipy.ndimage import sobel, uniform_filter
from scipy.signal import hilbert
from sklearn.ensemble import RandomForestClassifier

from datasets.volume import IGNORE
from pipeline.run import Run
from pipeline.scoring.metrics import Scores, confusion, scores

MOST_CELLS = 60_000
"""Training cells that the forest sees at most; more take minutes and no longer move its score."""

ATTRIBUTES = (
    "amplitude",
    "envelope",
    "cosine of phase",
    "frequency",
    "RMS amplitude",
    "variance",
    "coherence",
    "vertical gradient",
    "horizontal gradient",
)


def seismic_attributes(amplitude: np.ndarray, vertical: int) -> np.ndarray:
    """Compute the classical attributes of a post-stack volume, float32 [*N], of which one axis is depth or time.

    NaN (no data) counts as 0. They are float32 [*N, F], in the order of `ATTRIBUTES`. Windows are 3 traces wide and 9
    samples tall; coherence is semblance, the energy of the mean trace over the mean energy of the traces.
    """
    x = np.nan_to_num(amplitude).astype(np.float32)
    lateral = [axis for axis in range(x.ndim) if axis != vertical]
    traces = tuple(1 if axis == vertical else 3 for axis in range(x.ndim))
    samples = tuple(9 if axis == vertical else 1 for axis in range(x.ndim))
    window = tuple(map(max, traces, samples))
    analytic = hilbert(x, axis=vertical)
    envelope = np.abs(analytic).astype(np.float32)
    phase = np.unwrap(np.angle(analytic), axis=vertical)
    energy = uniform_filter(x**2, window)
    mean = uniform_filter(x, window)
    together = uniform_filter(uniform_filter(x, traces) ** 2, samples)
    across = sum(sobel(x, axis) ** 2 for axis in lateral)
    features = (
        x,
        envelope,
        np.cos(np.angle(analytic)),
        np.gradient(phase, axis=vertical),
        np.sqrt(energy),
        energy - mean**2,
        together / np.maximum(energy, 1e-12),
        uniform_filter(sobel(x, vertical) ** 2, window),
        uniform_filter(across, window),
    )
    return np.stack(features, axis=-1).astype(np.float32)


def cell_features(raw: np.ndarray, keep: list[int]) -> np.ndarray:
    """Gather all that a volume [C, *N], NaN for no data, holds at a cell of the labels, which have its axes `keep`.

    These are float32 [*L, F]: the values, no data as the feature's mean, then a validity bit of each feature that is
    missing anywhere.
    """
    moved = np.moveaxis(raw, [1 + axis for axis in keep], range(len(keep)))
    values = moved.reshape(*moved.shape[: len(keep)], -1)
    missing = np.isnan(values)
    cells = tuple(range(values.ndim - 1))
    present = (~missing).sum(axis=cells)
    mean = np.where(missing, 0, values).sum(axis=cells, dtype=np.float64) / np.maximum(present, 1)
    filled = np.where(missing, mean.astype(np.float32), values)
    bits = ~missing[..., missing.any(axis=cells)]
    return np.concatenate([filled, bits.astype(np.float32)], axis=-1)


def features_of(run: Run) -> np.ndarray:
    """Choose a volume's features: attributes for a single-channel cube that is labelled in depth too."""
    volume = run.volume
    raw = volume.read()
    vertical = [axis for axis in range(len(volume.space)) if axis not in volume.horizontal]
    if volume.label_dims == volume.space and volume.n_channels == 1 and len(vertical) == 1:
        return seismic_attributes(raw[0], vertical[0])
    return cell_features(raw, [volume.space.index(dim) for dim in volume.label_dims])


def forest(run: Run, *, trees: int = 200) -> np.ndarray:
    """Train the forest on the run's training labels, with its seed, and classify every cell: uint8 [*L]."""
    features = features_of(run)
    target = run.volume.read_labels(run.split, "train")
    seed = run.config.training.seed
    cells = np.flatnonzero(target != IGNORE)
    if cells.size > MOST_CELLS:
        cells = np.random.default_rng(seed).choice(cells, MOST_CELLS, replace=False)
    flat = features.reshape(-1, features.shape[-1])
    model = RandomForestClassifier(trees, class_weight="balanced_subsample", n_jobs=-1, random_state=seed)
    model.fit(flat[cells], target.reshape(-1)[cells])
    return model.predict(flat).astype(np.uint8).reshape(target.shape)


def forest_scores(run: Run) -> Scores:
    """Score the forest on the test part, cell by cell on the labels' own grid."""
    target = run.volume.read_labels(run.split, "test")
    return scores(confusion(forest(run), target, len(run.volume.classes)))
