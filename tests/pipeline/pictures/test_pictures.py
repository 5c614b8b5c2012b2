"""Every picture is drawn, read back and asked for what it shows; a warning of numpy or matplotlib is a failure."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

from datasets.store import write_volume
from pipeline.config import RunConfig
from pipeline.pictures.curves import draw_confusion, draw_curves
from pipeline.pictures.maps import OVERLAY, draw_prediction, draw_split, draw_volume
from pipeline.pictures.run import draw_parts
from pipeline.pictures.sections import backdrop, sections
from pipeline.pictures.style import (
    CLASS_COLOURS,
    DPI,
    PART_COLOURS,
    RIGHT,
    WIDTH,
    WRONG,
    Axis,
    class_colours,
)
from pipeline.pictures.sweep import draw_trials
from pipeline.training.prepare import prepare
from tests.pipeline.conftest import tiny_dataset

pytestmark = pytest.mark.filterwarnings("error")
MAP = [Axis("y", 8, 100.0, -10.0, "m"), Axis("x", 12, 0.0, 10.0, "m")]
CUBE = [Axis("inline", 6, 100.0, 1.0, "1"), Axis("crossline", 8, 200.0, 2.0, "1"), Axis("depth", 10, 0.0, 5.0, "m")]


class Drawn:
    """The figure that was saved last, and its file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.figure = Figure()

    @property
    def panels(self) -> list[Axes]:
        """All panels but the colour bars."""
        return [ax for ax in self.figure.axes if ax.get_label() != "<colorbar>"]

    @property
    def titles(self) -> list[str]:
        return [ax.get_title() for ax in self.panels]

    @property
    def legend(self) -> list[str]:
        boxes = [*self.figure.legends, *(ax.get_legend() for ax in self.figure.axes if ax.get_legend())]
        return [text.get_text() for box in boxes for text in box.get_texts()]

    def image(self, panel: int, layer: int = 0) -> np.ndarray:
        return np.asarray(self.panels[panel].get_images()[layer].get_array())

    def pixels(self) -> np.ndarray:
        """The file's pixels, 0..255, after a look at its size: full width, of a height that a page holds."""
        image = (255 * imread(self.path)[..., :3]).round().astype(int)
        height, width = image.shape[:2]
        assert width <= WIDTH * DPI + 1
        assert 250 <= height <= 12 * DPI
        assert (image.reshape(-1, 3) != 255).any(axis=1).mean() > 0.02
        return image


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Drawn:
    found = Drawn(tmp_path / "picture.png")
    save = Figure.savefig

    def keep(figure: Figure, *arguments: object, **how: object) -> None:
        found.figure = figure
        save(figure, *arguments, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", keep)
    return found


def scene(axes: Sequence[Axis], classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Make data with a hole, and labels with some unlabelled cells."""
    draw = np.random.default_rng(seed)
    shape = [axis.size for axis in axes]
    data = draw.normal(size=shape)
    data.flat[:5] = np.nan
    return data, draw.integers(-1, classes, shape)


def share(pixels: np.ndarray, colour: str | tuple[float, ...]) -> float:
    """Share of a picture's pixels that have a colour."""
    wanted = (255 * np.array(to_rgb(colour))).round()
    return float((np.abs(pixels - wanted).max(axis=-1) <= 1).mean())


def test_a_map_stands_beside_its_labels(drawn: Drawn) -> None:
    data, labels = scene(MAP)
    labels[labels == 1] = -1
    names = ["sand", "clay", "salt"]
    draw_volume(data, labels, names, MAP, drawn.path, quantity="NDVI")
    assert drawn.titles == ["data", "labels"]
    assert drawn.legend == ["sand", "salt", "no data"]
    rgba = drawn.image(1)
    np.testing.assert_allclose(rgba[labels == 2], [[*to_rgb(CLASS_COLOURS[2]), 1]] * (labels == 2).sum())
    assert (rgba[labels < 0, 3] == 0).all()
    assert np.isnan(drawn.image(0).astype(float).flat[:5]).all() or np.ma.getmaskarray(drawn.image(0)).any()
    pixels = drawn.pixels()
    cell = share(pixels, CLASS_COLOURS[0]) / (labels == 0).sum()
    assert share(pixels, CLASS_COLOURS[2]) == pytest.approx(cell * (labels == 2).sum(), rel=0.1)
    assert share(pixels, CLASS_COLOURS[1]) == 0
    assert (drawn.panels[0].get_xlabel(), drawn.panels[0].get_ylabel()) == ("x (m)", "y (m)")


def test_a_prediction_is_not_called_labels(drawn: Drawn) -> None:
    data, labels = scene(MAP)
    draw_volume(data, labels, ["a", "b", "c"], MAP, drawn.path, title="prediction")
    assert drawn.titles == ["data", "prediction"]


def test_a_cube_is_three_sections_with_its_labels_laid_over(drawn: Drawn) -> None:
    data, labels = scene(CUBE)
    labels[:] = -1
    labels[4, 5, 3] = 1
    draw_volume(data, labels, ["rock", "salt"], CUBE, drawn.path, quantity="amplitude")
    assert drawn.titles == ["depth 15 m", "crossline 210", "inline 104"]
    axes = [(ax.get_xlabel(), ax.get_ylabel()) for ax in drawn.panels]
    assert axes == [("crossline", "inline"), ("inline", "depth (m)"), ("crossline", "depth (m)")]
    assert drawn.legend == ["salt", "no data"]
    for panel, cell in enumerate([(4, 5), (3, 4), (3, 5)]):
        rgba = drawn.image(panel, 1)
        np.testing.assert_allclose(rgba[cell], [*to_rgb(CLASS_COLOURS[1]), OVERLAY])
        assert (rgba[..., 3] > 0).sum() == 1
    np.testing.assert_array_equal(drawn.image(2), data[4].T)
    drawn.pixels()


def test_a_class_that_fills_a_cube_is_left_untinted_and_called_so(drawn: Drawn) -> None:
    labels = np.zeros([axis.size for axis in CUBE], np.int64)
    labels[4, 5, 3] = 1
    draw_volume(np.ones(labels.shape), labels, ["rock", "salt"], CUBE, drawn.path)
    assert drawn.legend == ["salt", "rock (not tinted)"]
    assert [(drawn.image(panel, 1)[..., 3] > 0).sum() for panel in range(3)] == [1, 1, 1]


@pytest.mark.parametrize(("axes", "panels"), [(MAP[1:], 1), (MAP, 1), (CUBE, 3)], ids=["line", "map", "cube"])
@pytest.mark.parametrize("colour", [False, True])
def test_data_without_labels(drawn: Drawn, axes: list[Axis], panels: int, colour: bool) -> None:
    raw = np.random.default_rng(0).normal(size=(6, *(axis.size for axis in axes)))
    raw[:, 0] = np.nan
    image = backdrop(raw, range(len(axes)), colour=colour)
    draw_volume(image, None, [], axes, drawn.path)
    assert len(drawn.panels) == panels
    assert drawn.legend == ["no data"]
    assert len(drawn.figure.axes) == panels + (not colour)  # a grey picture has a colour bar
    drawn.pixels()


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("axes", [MAP, CUBE], ids=["map", "cube"])
def test_a_backdrop_of_nothing_but_no_data(drawn: Drawn, axes: list[Axis], colour: bool) -> None:
    raw = np.full((4, *(axis.size for axis in axes)), np.nan, np.float32)
    image = backdrop(raw, range(len(axes)), colour=colour)
    assert np.isnan(image).all()
    draw_volume(image, scene(axes)[1], ["a", "b", "c"], axes, drawn.path)
    drawn.pixels()


def test_a_line_is_a_map_of_one_row(drawn: Drawn) -> None:
    data, labels = scene(MAP[1:])
    draw_volume(data, labels, ["a", "b", "c"], MAP[1:], drawn.path)
    assert drawn.image(0).shape == (1, 12)
    assert drawn.image(1).shape == (1, 12, 4)
    draw_prediction(data, labels, labels, ["a", "b", "c"], MAP[1:], drawn.path)
    assert [drawn.image(panel).shape for panel in range(4)] == [(1, 12), *[(1, 12, 4)] * 3]


@pytest.mark.parametrize(("axes", "rows"), [(MAP, 1), (CUBE, 3)], ids=["map", "cube"])
@pytest.mark.parametrize("classes", [2, 20, 45])
def test_prediction_labels_and_errors_side_by_side(drawn: Drawn, axes: list[Axis], rows: int, classes: int) -> None:
    data, target = scene(axes, classes)
    prediction = np.where(target < 0, 0, target)
    right = tuple(np.argwhere(target >= 0)[0])
    wrong = tuple(np.argwhere(target >= 0)[1])
    prediction[wrong] = (target[wrong] + 1) % classes
    names = [f"class {k}" for k in range(classes)]
    draw_prediction(data, target, prediction, names, axes, drawn.path)
    labelled = (target >= 0).sum()
    assert drawn.titles[1:4] == ["labels", "prediction", f"errors: {1 / labelled:.1%} of the labelled"]
    assert len(drawn.panels) == 4 * rows
    assert drawn.legend[-2:] == ["right", "wrong"]
    pixels = drawn.pixels()
    if rows == 1:
        errors = drawn.image(3)
        np.testing.assert_allclose(errors[wrong], [*to_rgb(WRONG), 1])
        np.testing.assert_allclose(errors[right], [*to_rgb(RIGHT), 1])
        assert (errors[target < 0, 3] == 0).all()
        np.testing.assert_allclose(drawn.image(2)[wrong][:3], class_colours(classes)[prediction[wrong]])
        assert share(pixels, RIGHT) > 5 * share(pixels, WRONG) > 0


def test_a_prediction_without_any_label_to_compare(drawn: Drawn) -> None:
    data, target = scene(MAP)
    draw_prediction(data, np.full_like(target, -1), np.zeros_like(target), ["a", "b"], MAP, drawn.path)
    assert drawn.titles[3] == "errors: 0.0% of the labelled"
    assert drawn.legend == ["a", "no data", "right", "wrong"]


@pytest.mark.parametrize("kind", ["map", "cube", "line"])
def test_the_split_shows_which_labels_do_what(drawn: Drawn, kind: str) -> None:
    axes = {"map": MAP, "cube": CUBE[:2], "line": MAP[1:]}[kind]
    _, labels = scene(CUBE if kind == "cube" else axes, 2)
    split = np.ones([axis.size for axis in axes], np.uint8)
    split[split.shape[0] // 2 :] = 3
    split[-1] = 0
    draw_split(labels, split, ["a", "b"], axes, drawn.path)
    counts = {code: int((labels[split == code] >= 0).sum()) for code in (0, 1, 3)}
    assert drawn.legend[-3:] == [
        f"unused: {counts[0]} labels",
        f"train: {counts[1]} labels",
        f"test: {counts[3]} labels",
    ]
    assert drawn.legend[:-3] == ([] if kind == "cube" else ["a", "b"])
    assert drawn.titles == ["labels", "split (pale: no labels there)"]
    rgba = drawn.image(1).reshape(*split.shape, 4)
    np.testing.assert_allclose(rgba[split == 3, :3], [to_rgb(PART_COLOURS["test"])] * (split == 3).sum())
    some = (labels >= 0).reshape(*split.shape, -1).any(axis=-1)
    assert (rgba[some, 3] == 1).all()
    assert (rgba[~some, 3] < 0.5).all()
    drawn.pixels()


def test_a_test_part_without_labels_is_scored_on_the_truth(drawn: Drawn) -> None:
    _, labels = scene(MAP, 2)
    split = np.ones(labels.shape, np.uint8)
    split[4:] = 3
    labels[4:] = -1
    draw_split(labels, split, ["a", "b"], MAP, drawn.path, truth=1234)
    assert drawn.legend[-1] == "test: 1,234 cells of the truth"
    draw_split(labels, np.ones_like(split), ["a", "b"], MAP, drawn.path, truth=0)
    assert drawn.legend[-1].startswith("train: ")


def test_the_split_of_a_run_counts_the_truth_where_there_is_one(
    recipe: Callable[..., RunConfig], tmp_path: Path, drawn: Drawn
) -> None:
    dense, config = tiny_dataset(), recipe()
    dense["truth"] = dense["labels"].copy(data=np.zeros(dense["labels"].shape, np.uint8))
    run = prepare(replace(config, data=replace(config.data, source=str(write_volume(dense, tmp_path / "dense.zarr")))))
    draw_parts(run, drawn.path)
    assert drawn.legend[-1] == f"test: {(run.split.values == 3).sum()} cells of the truth"
    labelled = (run.volume.read_labels(run.split, "validation") >= 0).sum()
    assert f"validation: {labelled} labels" in drawn.legend


@pytest.mark.parametrize("classes", [2, 5, 20])
def test_a_confusion_matrix_in_shares_of_the_true_class(drawn: Drawn, classes: int) -> None:
    matrix = np.zeros((classes, classes), np.int64)
    matrix[0, :2] = 900, 300
    names = [f"class {k}" for k in range(classes)]
    draw_confusion(matrix, names, drawn.path)
    shares = np.ma.filled(drawn.image(0).astype(float), np.nan)
    np.testing.assert_allclose(shares[0, :2], [75, 25])
    assert np.isnan(shares[1:]).all()  # no true cells: no share, rather than 0 %
    assert [text.get_text() for text in drawn.panels[0].texts] == ["75", "25"]
    assert drawn.panels[0].get_yticklabels()[0].get_text() == "class 0 (1,200)"
    drawn.pixels()


@pytest.mark.parametrize("steps", [0, 1, 9, 200])
def test_learning_curves(drawn: Drawn, steps: int) -> None:
    history = [{"step": step, "loss": 2.0 / (step + 1), "rate": 0.1} for step in range(steps)]
    for row in history[::5]:
        row |= {"validation/miou": 0.5 - abs(row["step"] - 100) / 400, "validation/kappa": float("nan")}
    draw_curves(history, drawn.path)
    loss, score, rate = drawn.panels
    np.testing.assert_array_equal(loss.lines[0].get_ydata(), [row["loss"] for row in history])
    assert len(rate.lines[0].get_xdata()) == steps
    best = [f"{max(row.get('validation/miou', 0) for row in history):.3f}"] if history else []
    assert [text.get_text() for text in score.texts] == best
    assert "kappa" not in drawn.legend
    drawn.pixels()


def test_the_trials_of_a_sweep(drawn: Drawn) -> None:
    trials = [
        {"depth": 6, "rank": 4, "score": 0.5, "steps": 10},
        {"depth": 6, "rank": 4, "score": 0.7, "steps": 10},
        {"depth": 12, "rank": 4, "score": 0.4, "steps": 2},
        {"depth": 12, "rank": 8, "score": float("nan"), "steps": 10},
    ]
    draw_trials(trials, drawn.path)
    np.testing.assert_allclose(np.ma.filled(drawn.image(1).astype(float), np.nan), [[0.7, 0.4]])
    (dots,) = drawn.panels[0].collections
    assert [face[3] for face in dots.get_facecolors()] == [1, 1, 0]  # the third was stopped early
    assert drawn.legend == ["rank 4"]
    drawn.pixels()


def test_sections_lie_where_the_labels_show_most() -> None:
    labels = np.full((6, 8, 10), -1)
    labels[1, :, :] = 0
    labels[3, :, :5] = 0
    labels[3, :, 5:9] = 1  # fewer labels than in 1, but of two classes
    found = {section.fixed: section for section in sections(CUBE, labels)}
    assert found[0].position == 3
    assert found[0].title == "inline 103"
    assert [section.fixed for section in sections(CUBE)] == [2, 1, 0]
    assert [section.position for section in sections(CUBE)] == [5, 4, 3]
    assert [section.fixed for section in sections([CUBE[2], *CUBE[:2]])] == [0, 1, 2]
    assert all(section.rows.name == "depth" for section in sections(CUBE)[1:])
    coarse = np.arange(3 * 4 * 5).reshape(3, 4, 5)
    np.testing.assert_array_equal(found[0].cut(coarse), coarse[1].T)


def test_a_backdrop_averages_over_what_is_there() -> None:
    raw = np.array([[[1.0, np.nan]], [[3.0, np.nan]], [[np.nan, 8.0]]])
    np.testing.assert_array_equal(backdrop(raw, [0, 1]), [[2, 8]])
    np.testing.assert_array_equal(backdrop(raw, [1]), [2, 8])
    ramp = np.linspace(0, 1, 50)
    red, green, blue = np.moveaxis(backdrop(np.stack([0 * ramp, ramp, 1 - ramp]), [0], colour=True), -1, 0)
    assert (red[0], red[-1]) == (1, 0)  # long wavelengths, the last third, are red
    assert (green[0], green[-1]) == (0, 1)
    assert np.ptp(blue) == 0
