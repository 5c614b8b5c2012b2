"""Scattered readings onto a grid: block medians, interpolation between them, and a mask of what is too far.

Shapes: N readings, K values of each, Y rows and X columns.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.interpolate import CloughTocher2DInterpolator, LinearNDInterpolator, NearestNDInterpolator
from scipy.spatial import QhullError, cKDTree

from datasets.config_convert import Gridding
from datasets.errors import InputError
from datasets.maps.map_grid import extent

_INTERPOLATORS = {"nearest": NearestNDInterpolator, "linear": LinearNDInterpolator, "cubic": CloughTocher2DInterpolator}
_MOST_CELLS = 100_000_000


@dataclass(frozen=True)
class Cells:
    """Centres of a grid's cells, where x rises and y falls, and their size, of which the edges are multiples."""

    x: np.ndarray
    y: np.ndarray
    size: float


def plan_cells(x_N: np.ndarray, y_N: np.ndarray, size: float) -> Cells:
    """Lay cells over all readings; `InputError` where they are too many for memory."""
    west, east, south, north = (np.floor(edge / size) for edge in (x_N.min(), x_N.max(), y_N.min(), y_N.max()))
    cells = (east - west + 1) * (north - south + 1)
    if cells > _MOST_CELLS:
        raise InputError(
            f"cell_size is {size:g}, which makes {cells:.3g} cells over {extent(x_N, y_N)}; give larger cells, up to "
            f"{_MOST_CELLS:g} can be gridded"
        )
    return Cells((np.arange(west, east + 1) + 0.5) * size, (np.arange(north, south - 1, -1) + 0.5) * size, size)


def block_medians(x_N: np.ndarray, y_N: np.ndarray, values_NK: np.ndarray, size: float) -> np.ndarray:
    """Medians of position and values in each cell [blocks, 2 + K], which tame dense flight lines."""
    table = pd.DataFrame(np.column_stack([x_N, y_N, values_NK]))
    return table.groupby([np.floor(y_N / size), np.floor(x_N / size)]).median().to_numpy()


def grid_readings(
    x_N: np.ndarray, y_N: np.ndarray, values_NK: np.ndarray, cells: Cells, method: Gridding, blank_distance: float
) -> np.ndarray:
    """Interpolate readings, NaN for none, at the centres of cells: float32 [K, Y, X], NaN for no data.

    The method is between block medians: nearest, or over triangles linear or cubic (smooth), which end at the outermost
    readings. Cells whose centre is farther than `blank_distance` from any reading are no data. `InputError` where the
    readings span no area.
    """
    x_YX, y_YX = np.meshgrid(cells.x, cells.y)
    known_KN = np.isfinite(values_NK).T
    grid_KYX = np.full((len(known_KN), *x_YX.shape), np.nan, np.float32)
    alike: dict[bytes, list[int]] = {}  # values that are missing at the same readings are gridded together
    for index in np.flatnonzero(known_KN.any(axis=1)).tolist():
        alike.setdefault(known_KN[index].tobytes(), []).append(index)
    for members in alike.values():
        known_N = known_KN[members[0]]
        x, y = x_N[known_N], y_N[known_N]
        blocks = block_medians(x, y, values_NK[known_N][:, members], cells.size)
        distance_YX, _ = cKDTree(np.column_stack([x, y])).query(
            np.stack([x_YX, y_YX], axis=-1), distance_upper_bound=np.nextafter(blank_distance, np.inf)
        )
        near_YX = np.isfinite(distance_YX)
        try:
            surface = _INTERPOLATORS[method](blocks[:, :2], blocks[:, 2:])
        except (QhullError, ValueError) as error:
            raise InputError(
                f"gridding is {method}, but the readings, {len(blocks)} cells, lie on one line; set gridding to nearest"
            ) from error
        grid_KYX[np.array(members)[:, None], *np.nonzero(near_YX)] = surface(x_YX[near_YX], y_YX[near_YX]).T
    return grid_KYX
