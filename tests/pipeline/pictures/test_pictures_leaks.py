"""The picture of a leak report shows what was measured, on maps of one, two and three axes."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from datasets.samples.leaks import measure_leaks
from datasets.samples.parts import TEST, TRAIN, VALIDATION
from pipeline.pictures.leaks import _BUFFER, draw_leaks
from pipeline.pictures.style import PART_COLOURS, WRONG, Axis

pytestmark = pytest.mark.filterwarnings("error")
METRES = (Axis("y", 40, 900.0, -10.0, "m"), Axis("x", 50, 100.0, 10.0, "m"))


@pytest.fixture
def draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Draw a split and give back the figure that was saved."""
    saved = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **how: (saved.append(figure), save(figure, *a, **how))[1])

    def run(parts: np.ndarray, buffer: int, axes=None) -> Figure:
        axes = axes or [Axis(name, size) for name, size in zip("zyx"[-parts.ndim :], parts.shape, strict=True)]
        report = measure_leaks(xr.DataArray(parts, dims=[axis.name for axis in axes]), buffer)
        draw_leaks(parts, report, axes, tmp_path / "leaks.png")
        assert (tmp_path / "leaks.png").stat().st_size > 5000
        return saved[-1]

    return run


def fields() -> np.ndarray:
    parts = np.zeros((40, 50), np.uint8)
    parts[5:20, 5:20], parts[5:20, 24:40], parts[26:35, 5:20] = TRAIN, TEST, VALIDATION
    return parts


def close_up(figure: Figure) -> tuple[np.ndarray, tuple[float, ...]]:
    image = figure.axes[1].get_images()[0]
    return np.asarray(image.get_array())[..., :3], tuple(image.get_extent())


def test_the_two_nearest_cells_are_framed_around_the_buffer(draw):
    figure = draw(fields(), 3, METRES)
    parts, near, far = figure.axes
    assert figure._suptitle.get_text().startswith("no leak: every test cell is more than 3 cells from every train cell")
    assert near.get_title() == "train and test 5 cells apart"
    colours, (left, right, bottom, top) = close_up(figure)
    columns, rows = (right - left) / 10, (bottom - top) / -10
    assert colours.shape[:2] == (round(rows), round(columns))  # cells of 10 m
    shown = {tuple(np.round(rgb, 3)) for rgb in colours.reshape(-1, 3)}
    expected = [*PART_COLOURS.values(), _BUFFER]
    assert shown == {tuple(np.round(to_rgb(colour), 3)) for colour in expected}
    row = colours[len(colours) // 2]
    assert (np.abs(row - to_rgb(_BUFFER)).max(axis=1) < 1e-6).sum() == 3  # as wide as the buffer
    framed = [(patch.get_x() + 5, patch.get_y() - 5) for patch in near.patches]
    assert [x for x, _ in framed] == [100.0 + 10 * 19, 100.0 + 10 * 24]
    (ring,) = parts.lines
    assert ring.get_xdata()[0] == pytest.approx(np.mean([x for x, _ in framed]))
    assert sum(bar.get_height() for bar in far.patches[1:]) == 15 * 16
    assert far.texts[0].get_text() == "0 of 240 within the buffer"


def test_a_leak_is_red_and_its_cells_are_framed(draw):
    leaking = fields()
    leaking[10:12, 20] = TEST
    figure = draw(leaking, 3, METRES)
    parts, near, far = figure.axes
    assert figure._suptitle.get_text().startswith("LEAK: 2 of 242 test cells lie within the buffer of 3 cells")
    assert figure._suptitle.get_color() == WRONG == parts.lines[0].get_color() == far.texts[0].get_color()
    assert near.get_title() == "train and test 1 cell apart"
    red = [patch for patch in near.patches if np.allclose(patch.get_edgecolor()[:3], to_rgb(WRONG))]
    assert len(red) == 2
    assert far.texts[0].get_text() == "2 of 242 within the buffer"


def test_without_a_buffer_nothing_is_marked_as_one(draw):
    figure = draw(fields(), 0)
    assert not figure.axes[2].texts
    assert not any("within" in text.get_text() for text in figure.legends[0].get_texts())


@pytest.mark.parametrize("shape", [(50,), (1, 50), (20, 30, 10)])
def test_maps_of_other_numbers_of_axes_are_drawn(draw, shape):
    parts = np.zeros(shape, np.uint8)
    parts[..., :3], parts[..., -4:] = TRAIN, TEST
    assert len(draw(parts, 2).axes) == 3


def test_a_split_of_one_part_is_drawn_alone(draw):
    figure = draw(np.full((9, 9), TRAIN, np.uint8), 2)
    assert [ax.axison for ax in figure.axes] == [True, False, False]
