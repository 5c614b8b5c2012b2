"""A layered earth with folds, normal faults and a salt diapir: impedance and rock type as functions of position.

All functions take coordinates in metres along the three axes and depend on nothing else, so the earth can be made block
by block. The layers are drawn once as a column along stratigraphic depth u; at (x, y, z) the rock is that of

    u(x, y, z) = z + folds - fault throws + uplift beside the salt,

averaged over the cell, so that dipping layers do not alias into steps. Letters: X, Y, Z points along inline, crossline
and depth.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datasets.config import SynthesisConfig
from datasets.synthetic.random_fields import smooth_noise
from datasets.synthetic.stratigraphy import Column, draw_column

_COLUMN, _STRUCTURE, _ROUGHNESS, _FINE_ROUGHNESS, _CHAOS, _DEBRIS, _GAIN, _UNDULATION = range(8)  # streams
_SALT_LOG_IMPEDANCE = np.log(4500.0 * 2160.0)  # rock salt: m/s times kg/m3
_CHAOS_DEVIATION = 0.022


@dataclass(frozen=True)
class Fault:
    """A normal fault: a plane that dips by `slope` towards `azimuth`; what lies above it has slipped down."""

    x: float  # and y: a point of the fault at the surface, in metres
    y: float
    azimuth: float  # direction of dip in the x, y plane, in radians
    slope: float  # tangent of the angle between the plane and the horizontal
    throw: float  # vertical slip at depth, in metres
    reach: float  # over which the slip dies out, away from the plane and along it, in metres


@dataclass(frozen=True)
class Earth:
    """One drawn earth."""

    config: SynthesisConfig
    extent: tuple[float, float, float]  # of the survey along each axis, in metres
    column: Column
    dip: tuple[float, float]  # slope of all layers along inline and crossline
    waves: np.ndarray  # folds: height, wave numbers along inline and crossline, phase; metres and radians [folds, 4]
    faults: tuple[Fault, ...]
    salt_centre: tuple[float, float, float]  # of its widest level, in metres
    salt_radii: tuple[float, float, float]  # half-axes of its upper part, in metres

    def salt_depth(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Approximate distance to the salt's surface in metres, positive inside: float64 [X, Y, Z].

        An ellipsoid on a stem that widens downwards, with bumps: a diapir with an overhang.
        """
        radius = min(self.salt_radii[:2])
        scaled = self._from_salt(x, y, z)
        squares = [part**2 for part in scaled]
        far = np.sqrt(_outer_sum(squares)) + 1e-6
        slopes = [square / half**2 for square, half in zip(squares, self.salt_radii, strict=True)]
        steep = np.sqrt(_outer_sum(slopes)) + 1e-6 / radius
        bulb = far * (1 - far) / steep
        below = np.clip(scaled[2] * self.salt_radii[2] / (self.extent[2] - self.salt_centre[2]), 0, None)
        across = np.sqrt(squares[0][:, None] + squares[1])[..., None]
        stem = np.minimum((0.62 + 0.35 * below**2 - across) * radius, z - self.salt_centre[2])
        corner = 0.25 * radius  # their maximum is rounded where they differ by less
        blend = np.clip(0.5 + (bulb - stem) / (2 * corner), 0, 1)
        depth = stem + blend * (bulb - stem) + corner * blend * (1 - blend)
        for stream, share, size in ((_ROUGHNESS, 0.16, 0.7), (_FINE_ROUGHNESS, 0.05, 0.22)):
            lengths = (size * radius, size * radius, size * radius * 0.6)
            depth += share * min(self.salt_radii) * self._noise(stream, (x, y, z), lengths)
        return depth

    def _from_salt(self, *axes: np.ndarray) -> list[np.ndarray]:
        salt = zip(axes, self.salt_centre, self.salt_radii, strict=True)
        return [(points - centre) / half for points, centre, half in salt]

    def _noise(self, stream: int, axes: Sequence[np.ndarray], lengths: Sequence[float]) -> np.ndarray:
        return smooth_noise((self.config.seed, stream), axes, lengths)

    def stratigraphic_depth(self, x: np.ndarray, y: np.ndarray, z: np.ndarray, salt: np.ndarray) -> np.ndarray:
        """Depth u in the column of each point, in metres, float64 [X, Y, Z]; `salt` is their `salt_depth`."""
        height, outside = self.extent[2], np.clip(-salt, 0, None)
        lift = 0.16 * height
        width = max(0.5 * min(self.salt_radii[:2]), 4 * lift)
        # Youngest first, each on the result of the one before, so that u grows with z whatever was drawn.
        u = z + lift * (1.3 * np.exp(-outside / width) - 0.3 * np.exp(-outside / (3 * width)))  # with a rim syncline
        cell = max(self.config.spacing[:2])
        for fault in self.faults:
            east, north = x[:, None] - fault.x, y - fault.y
            cos, sin = np.cos(fault.azimuth), np.sin(fault.azimuth)
            above = (cos * east + sin * north)[..., None] - u / fault.slope
            beside = cos * north - sin * east
            slip = fault.throw * np.exp(-((beside / (1.5 * fault.reach)) ** 2))[..., None]
            slip = slip * _smooth_step(u / (0.4 * height)) * np.exp(-np.clip(above, 0, None) / fault.reach)
            u = u - slip * np.clip(0.5 + above / cell, 0, 1)
        fold = x[:, None] * self.dip[0] + y * self.dip[1]
        for amplitude, kx, ky, phase in self.waves:
            fold += amplitude * np.cos(kx * x[:, None] + ky * y + phase)
        lengths = (0.2 * self.extent[0], 0.2 * self.extent[1], 1.0)
        small = self._noise(_UNDULATION, (x, y, np.zeros(1)), lengths)[..., 0]
        fold += 0.12 * self.config.fold * height * small
        return u + fold[..., None] * (0.4 + 0.6 * np.clip(u / height, 0, 1))  # folds grow with depth

    def log_impedance(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Natural logarithm of velocity times density, averaged over cells of depth: float64 [X, Y, Z].

        z, the cells' centres, goes in steps of the survey's depth spacing.
        """
        step = self.config.spacing[2]
        edges = np.append(z - step / 2, z[-1] + step / 2)
        salt = self.salt_depth(x, y, edges)
        u = self.stratigraphic_depth(x, y, edges, salt)
        layered = self.column.mean(self.column.integral, u)
        wavelength = self.config.wavelength
        lengths = (*(max(0.6 * wavelength, spacing) for spacing in self.config.spacing[:2]), 0.25 * wavelength)
        chaos = _CHAOS_DEVIATION * self._noise(_CHAOS, (x, y, z), lengths)
        flow = self._debris_share(x, y, _middles(u))
        if flow.any():
            layered += flow * (self.column.mean(self.column.trend, u) + chaos - layered)
        steep = np.sqrt(1 - np.clip(np.diff(salt, axis=2) / step, -1, 1) ** 2)
        share = np.clip(0.5 + _middles(salt) / (step + steep * (max(self.config.spacing) - step)), 0, 1)
        return layered + share * (_SALT_LOG_IMPEDANCE + chaos - layered)

    def gain(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Factor on the imaged amplitude: lateral variation, dim zones, and a shadow below the salt's overhang."""
        lengths = (0.18 * self.extent[0], 0.18 * self.extent[1], 0.3 * self.extent[2])
        varied = np.exp(0.45 * self._noise(_GAIN, (x, y, z), lengths))
        east, north, below = self._from_salt(x, y, z)
        across = np.sqrt(east[:, None] ** 2 + north**2)
        shadow = _smooth_step((1.15 - across) / 0.3)[..., None] * _smooth_step((below - 0.4) / 0.8)
        return np.minimum(varied, 2.5) * (1 - 0.6 * shadow)

    def _debris_share(self, x: np.ndarray, y: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Share of chaotic debris flows: patches of the map within intervals of the column."""
        share = np.zeros(u.shape)
        lengths = (0.22 * self.extent[0], 0.22 * self.extent[1], 1.0)
        margin = 0.5 * self.config.wavelength
        for number, (top, base) in enumerate(self.column.debris):
            patch = smooth_noise((self.config.seed, _DEBRIS, number), (x, y, np.zeros(1)), lengths)
            taper = _smooth_step(0.5 + 2 * (patch + 0.35))
            share += taper * np.clip((u - top) / margin, 0, 1) * np.clip((base - u) / margin, 0, 1)
        return share


def draw_earth(config: SynthesisConfig) -> Earth:
    """Draw an earth from the configuration's seed."""
    nx, ny, height = (cells * step for cells, step in zip(config.shape, config.spacing, strict=True))
    rng = np.random.default_rng([config.seed, _STRUCTURE])
    side, folds = min(nx, ny), 4
    azimuths = rng.uniform(0, np.pi, folds)
    lengths = side * rng.uniform(0.6, 1.6, folds)
    heights = config.fold * height * rng.uniform(0.3, 0.8, folds)
    numbers = 2 * np.pi * np.cos(azimuths) / lengths, 2 * np.pi * np.sin(azimuths) / lengths
    waves = np.stack([heights, *numbers, rng.uniform(0, 6.28, folds)], axis=1)
    dip = rng.normal(0, 0.7 * config.fold * height, 2) / (nx, ny)
    trend = rng.uniform(0, np.pi)
    faults = []
    for number in range(config.faults):
        throw = config.throw * height * rng.uniform(0.6, 1)
        faults.append(
            Fault(
                x=nx * rng.uniform(0.1, 0.9),
                y=ny * rng.uniform(0.1, 0.9),
                azimuth=trend + rng.normal(0, 0.2) + 2.2 * number,
                slope=np.tan(np.radians(rng.uniform(52, 68))),
                throw=throw,
                reach=max(0.5 * side * rng.uniform(0.7, 1.3), 3 * throw),
            )
        )
    radius = config.salt * side
    stretch = np.exp(rng.normal(0, 0.12))
    centre = (nx * rng.uniform(0.38, 0.62), ny * rng.uniform(0.38, 0.62), height * rng.uniform(0.46, 0.54))
    return Earth(
        config=config,
        extent=(nx, ny, height),
        column=draw_column(np.random.default_rng([config.seed, _COLUMN]), layer=config.layer, height=height),
        dip=(float(dip[0]), float(dip[1])),
        waves=waves,
        faults=tuple(faults),
        salt_centre=centre,
        salt_radii=(radius * stretch, radius / stretch, 0.3 * height),
    )


def _middles(edges: np.ndarray) -> np.ndarray:
    return (edges[..., 1:] + edges[..., :-1]) / 2


def _outer_sum(parts: Sequence[np.ndarray]) -> np.ndarray:
    return parts[0][:, None, None] + parts[1][:, None] + parts[2]


def _smooth_step(t: np.ndarray) -> np.ndarray:
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)
