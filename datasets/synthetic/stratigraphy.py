"""The column of layers of a synthetic earth: impedance along stratigraphic depth. L layers."""

from dataclasses import dataclass

import numpy as np

_CONTRASTS = (0.14, 0.08, 0.01)  # deviation of log velocity between layers: bright sands, ordinary beds, massive shale
_SHARES = (0.3, 0.45, 0.25)  # how often a package of layers is of each kind


@dataclass(frozen=True)
class Column:
    """Layers of constant rock, and intervals in which debris flows may have replaced them."""

    tops: np.ndarray  # stratigraphic depth of the layers' tops, in metres [L], ascending
    integral: np.ndarray  # of the logarithm of impedance (kg/m2/s) down to each top [L]
    trend: np.ndarray  # the same of compaction alone [L]
    debris: tuple[tuple[float, float], ...]  # intervals (top, base), in metres

    def mean(self, integral: np.ndarray, edges: np.ndarray) -> np.ndarray:
        """Average what `integral` or `trend` sum up between consecutive edges of depth: [..., n] -> [..., n - 1]."""
        return np.diff(np.interp(edges, self.tops, integral), axis=-1) / np.diff(edges, axis=-1)


def draw_column(rng: np.random.Generator, *, layer: float, height: float) -> Column:
    """Draw layers in packages of one contrast each, so that strong, weak and hardly any reflections follow each other.

    Velocity grows with depth by compaction and scatters from layer to layer, neighbours alike, which keeps the
    reflections' spectrum nearer to white; density follows it by Gardner's relation, 310 v^(1/4) kg/m3, with a scatter
    of its own. Thickness is gamma-distributed with the mean `layer`; `height` is the survey's depth; both in metres.
    """
    first, last = -0.75 * height, 2.0 * height  # well beyond the survey, for folds and faults
    count = int(1.2 * (last - first) / layer) + 100
    tops = first + np.cumsum(layer * rng.gamma(2.0, 0.5, count))
    contrast, start = np.empty(count), 0
    while start < count:
        package = 2 + rng.poisson(3)
        contrast[start : start + package] = rng.choice(_CONTRASTS, p=_SHARES)
        start += package
    trend = np.log(2600.0) + 0.35 * np.clip(tops / height, -0.2, 1.5)
    series = rng.normal(size=count)
    for index in range(1, count):  # to an autoregressive series of deviation 1, in which neighbours correlate by 0.3
        series[index] = 0.3 * series[index - 1] + np.sqrt(0.91) * series[index]
    log_velocity = trend + contrast * series
    log_density = np.log(310.0) + 0.25 * log_velocity + 0.3 * contrast * rng.normal(size=count)

    def integrate(values: np.ndarray) -> np.ndarray:
        return np.append(0.0, np.cumsum(values[:-1] * np.diff(tops)))

    debris = []
    for share in (0.3, 0.62, 0.9):
        middle, half = height * (share + rng.uniform(-0.06, 0.06)), height * rng.uniform(0.05, 0.08)
        debris.append((middle - half, middle + half))
    return Column(tops, integrate(log_velocity + log_density), integrate(np.log(310.0) + 1.25 * trend), tuple(debris))
