"""Gridding of scattered readings, against surfaces that are known everywhere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.errors import InputError
from datasets.maps.gridding import block_medians, grid_readings, plan_cells


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.floats(3, 30), blank=st.floats(5, 60))
def test_a_plane_comes_back_and_far_cells_do_not(seed: int, size: float, blank: float) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-100, 100, (2, 60))
    values = np.stack([3 * x - y + 7, x + 2 * y], 1)
    cells = plan_cells(x, y, size)
    assert cells.x[0] - size / 2 <= x.min()
    assert x.max() < cells.x[-1] + size / 2
    assert (np.diff(cells.y) < 0).all()
    grid = grid_readings(x, y, values, cells, "linear", blank)
    x_YX, y_YX = np.meshgrid(cells.x, cells.y)
    known = np.isfinite(grid[0])
    # Medians of readings of a plane are off the plane by the spread of positions within a cell, at most.
    assert np.abs(grid[0] - (3 * x_YX - y_YX + 7))[known].max(initial=0) < 4 * size
    away = np.hypot(x_YX[..., None] - x, y_YX[..., None] - y).min(-1)
    assert (away[known] <= blank).all()
    np.testing.assert_array_equal(np.isfinite(grid[1]), known)
    nearest = grid_readings(x, y, values, cells, "nearest", blank)
    np.testing.assert_array_equal(np.isfinite(nearest[0]), away <= blank)


@pytest.mark.parametrize("method", ["linear", "cubic"])
def test_one_reading_a_cell_is_interpolated_exactly(method: str) -> None:
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(0.5, 10), np.arange(0.5, 8)))
    values = (2 * x - 3 * y)[:, None]
    cells = plan_cells(x, y, 1.0)
    grid = grid_readings(x, y, values, cells, method, 0.1)
    np.testing.assert_allclose(grid[0], 2 * cells.x - 3 * cells.y[:, None], rtol=1e-6, atol=1e-6)


def test_block_medians_are_not_moved_by_a_spike() -> None:
    x, y = np.array([1.0, 2.0, 3.0, 12.0]), np.array([1.0, 1.0, 4.0, 1.0])
    medians = block_medians(x, y, np.array([[5.0], [6.0], [1e9], [2.0]]), 10.0)
    np.testing.assert_array_equal(medians, [[2, 1, 6], [12, 1, 2]])


def test_a_value_missing_at_some_readings_is_gridded_from_the_others() -> None:
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(0.5, 4), np.arange(0.5, 4)))
    values = np.stack([x, x], 1)
    values[x > 2, 1] = np.nan
    grid = grid_readings(x, y, values, plan_cells(x, y, 1.0), "nearest", 1.0)
    assert np.isfinite(grid[0]).all()
    np.testing.assert_allclose(grid[1], [[0.5, 1.5, 1.5, np.nan]] * 4)


def test_what_cannot_be_gridded() -> None:
    x, y = np.arange(5.0), np.zeros(5)
    with pytest.raises(
        InputError, match=r"gridding is linear, but the readings, 5 cells, lie on one line; set gridding"
    ):
        grid_readings(x, y, x[:, None], plan_cells(x, y, 1.0), "linear", 2.0)
    with pytest.raises(InputError, match=r"cell_size is 1e-05, which makes 4e\+09 cells over x 0 to 4"):
        plan_cells(x, x / 40, 1e-5)
