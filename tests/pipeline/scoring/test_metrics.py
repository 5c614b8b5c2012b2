"""Scores against scikit-learn's, and what happens to absent classes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from pipeline.scoring.metrics import confusion, scores


@st.composite
def labellings(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Draw a target with unlabelled cells, a prediction that partly agrees, and the number of classes."""
    classes = draw(st.integers(2, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.sampled_from([(40,), (5, 9), (3, 4, 6)]))
    target = rng.integers(-1, classes, shape)
    prediction = np.where(rng.random(shape) < draw(st.floats(0, 1)), target, rng.integers(0, classes, shape))
    return np.where(prediction < 0, 0, prediction).astype(np.uint8), target, classes


@given(labellings())
@settings(max_examples=40, deadline=None)
def test_scores_are_those_of_scikit_learn(drawn: tuple[np.ndarray, np.ndarray, int]) -> None:
    prediction, target, classes = drawn
    true, guess = target[target >= 0], prediction[target >= 0]
    matrix = confusion(prediction, target, classes)
    assert np.array_equal(matrix, reference.confusion_matrix(true, guess, labels=range(classes)))
    result = scores(matrix)
    present = np.unique(true)
    assert result.oa == pytest.approx(reference.accuracy_score(true, guess))
    assert result.kappa == pytest.approx(reference.cohen_kappa_score(true, guess), nan_ok=True)
    assert result.aa == pytest.approx(reference.recall_score(true, guess, labels=present, average="macro"))
    assert result.miou == pytest.approx(reference.jaccard_score(true, guess, labels=present, average="macro"))
    expected = reference.jaccard_score(true, guess, labels=present, average=None)
    assert np.array(result.iou)[present] == pytest.approx(expected)
    assert sum(result.support) == len(true)


def test_unlabelled_cells_do_not_count() -> None:
    target = np.array([0, 1, -1, -1])
    one = confusion(np.array([0, 1, 0, 0]), target, 2)
    other = confusion(np.array([0, 1, 1, 1]), target, 2)
    assert np.array_equal(one, other)
    assert one.sum() == 2


def test_a_class_absent_from_the_target_is_nan_and_left_out_of_the_means() -> None:
    # Class 2 is never true, but one cell of class 0 is taken for it.
    result = scores(confusion(np.array([0, 2, 1, 1]), np.array([0, 0, 1, 1]), 3))
    assert math.isnan(result.iou[2])
    assert math.isnan(result.accuracy[2])
    assert result.miou == pytest.approx((0.5 + 1.0) / 2)
    assert result.aa == pytest.approx(0.75)
    assert result.support == [2, 2, 0]


def test_an_empty_target_has_no_scores() -> None:
    result = scores(confusion(np.zeros(3, np.uint8), np.full(3, -1), 2))
    assert all(math.isnan(value) for value in (result.oa, result.aa, result.kappa, result.miou))


def test_kappa_is_zero_for_a_constant_answer_and_one_for_the_right_one() -> None:
    target = np.array([0, 0, 0, 1])
    assert scores(confusion(np.zeros(4, int), target, 2)).kappa == pytest.approx(0)
    assert scores(confusion(target, target, 2)).kappa == pytest.approx(1)


def test_flat_metrics_have_keys_that_mlflow_takes() -> None:
    result = scores(confusion(np.array([0, 1]), np.array([0, 0]), 3))
    flat = result.as_dict(["salt", "rest (all)", "fault/zone"], prefix="test/")
    assert set(flat) == {"test/oa", "test/aa", "test/kappa", "test/miou", "test/iou/salt"}
    both = scores(confusion(np.array([0, 1, 2]), np.array([0, 1, 2]), 3)).as_dict(["salt", "rest (all)", "fault/zone"])
    assert {"iou/salt", "iou/rest _all_", "iou/fault_zone"} < set(both)


def test_the_table_names_every_class_and_marks_the_absent() -> None:
    text = scores(confusion(np.array([0, 0, 1]), np.array([0, 0, 1]), 3)).table(["salt", "rest", "fault"])
    lines = text.splitlines()
    assert lines[1].split() == ["salt", "2", "1.000", "1.000"]
    assert lines[3].split() == ["fault", "0", "-", "-"]
    assert lines[-1].split() == ["OA", "1.000", "AA", "1.000", "kappa", "1.000", "mIoU", "1.000"]


def test_shapes_and_indices_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(2,\), its target \(3,\)"):
        confusion(np.zeros(2, int), np.zeros(3, int), 2)
    with pytest.raises(ValueError, match=r"prediction holds class 0\.\.2; there are 0\.\.1"):
        confusion(np.array([0, 2]), np.array([0, 1]), 2)
