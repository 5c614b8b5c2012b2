"""Colours, axes and limits that all pictures share; no setting of matplotlib outlives a picture."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from pipeline.pictures.style import Axis, aspect_of, class_colours, grey_limits, grid_axes, paint, picture, show

pytestmark = pytest.mark.filterwarnings("error")


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_paint_gives_each_class_its_colour_and_none_to_no_class(classes: int, seed: int) -> None:
    index = np.random.default_rng(seed).integers(-1, classes, (4, 5))
    colours = class_colours(classes)
    rgba = paint(index, colours, 0.5)
    for cell, k in np.ndenumerate(index):
        np.testing.assert_array_equal(rgba[cell], [0, 0, 0, 0] if k < 0 else [*colours[k], 0.5])


def test_up_to_sixty_classes_differ() -> None:
    assert len({to_hex(colour) for colour in class_colours(60)}) == 60


@pytest.mark.parametrize(
    ("values", "units", "label", "third"),
    [
        ([0, 5, 10], "m", "n (m)", "n 10 m"),
        ([0, 5, 10], "1", "n", "n 10"),
        ([0, 5, 10], "", "n", "n 10"),
        ([500_000, 500_030, 500_060], "m", "n (km)", "n 500.06 km"),
        ([0, 5, 11], "m", "n", "n 2"),
        (["a", "b", "c"], "", "n", "n 2"),
    ],
)
def test_an_axis_speaks_its_units(values: list[object], units: str, label: str, third: str) -> None:
    axis = Axis.of("n", values, units)
    assert (axis.label, axis.at(2), axis.size) == (label, third, 3)


def test_axes_of_a_dataset_and_north_up() -> None:
    data = xr.DataArray(np.zeros((3, 4)), {"y": ("y", [10.0, 20.0, 30.0], {"units": "m"})}, ["y", "band"])
    dataset = data.to_dataset(name="data")
    y, band = grid_axes(dataset, ["y", "band"])
    assert (y, band) == (Axis("y", 3, 10.0, 10.0, "m"), Axis("band", 4))
    assert y.edges == (5.0, 35.0)
    for axis, top in ((y, 35.0), (Axis("y", 3, 30.0, -10.0, "m"), 35.0), (Axis("depth", 3, 10.0, 10.0, "m"), 5.0)):
        ax = Figure().subplots()
        show(ax, np.zeros((3, 4)), axis, band)
        assert ax.get_ylim()[1] == top


@pytest.mark.parametrize(
    ("values", "limits"),
    [([np.nan], (0, 1)), ([3.0, 3.0], (2.5, 3.5)), ([-1.0, 1.0], (-0.96, 0.96)), ([0.0, 100.0], (2, 98))],
)
def test_grey_limits(values: list[float], limits: tuple[float, float]) -> None:
    assert grey_limits(np.array(values)) == pytest.approx(limits)


def test_a_picture_that_fails_leaves_no_file_and_no_settings(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    with pytest.raises(RuntimeError, match="half-way"), picture(tmp_path / "p.png", 2):
        raise RuntimeError("half-way")
    assert list(tmp_path.iterdir()) == []
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize(
    ("rows", "columns", "aspect"),
    [
        (Axis("y", 20, 0, 10, "m"), Axis("x", 10, 0, 20, "m"), 1),
        (Axis("inline", 20, 0, 2, "1"), Axis("crossline", 20, 0, 1, "1"), 1),
        (Axis("depth", 20, 0, 5, "m"), Axis("inline", 20, 0, 1), 1),
        (Axis("depth", 2, 0, 5, "m"), Axis("inline", 20), 0.35),
        (Axis("y", 200), Axis("x", 20), 1.5),
    ],
    ids=["to scale", "numbers of lines are no lengths", "other units", "thin", "tall"],
)
def test_panels_are_to_scale_where_units_allow_and_readable_always(rows: Axis, columns: Axis, aspect: float) -> None:
    assert aspect_of(rows, columns) == pytest.approx(aspect)
