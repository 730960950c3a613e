from __future__ import annotations

import warnings
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics

from cnncodes.evaluate.metrics import Confusion, accuracy_interval, drawn_bins, measure


def random_case(seed, n, n_classes, sharpness=1.0):
    generator = np.random.default_rng(seed)
    logits = sharpness * generator.normal(size=(n, n_classes))
    logits -= logits.max(axis=1, keepdims=True)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return p.astype(np.float32), generator.integers(n_classes, size=n).astype(np.intp)


def names(n_classes):
    return [f"class {number}" for number in range(n_classes)]


CASES = st.tuples(st.integers(0, 10_000), st.integers(1, 60), st.integers(2, 12))


@given(CASES)
def test_figures_are_those_of_scikit_learn(case):
    p, y = random_case(*case)
    actual, labels = measure(p, y, names(p.shape[1])), np.arange(p.shape[1])
    predicted = p.argmax(axis=1)
    assert actual.n_images == len(y)
    assert actual.accuracy == pytest.approx(metrics.accuracy_score(y, predicted))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that are predicted only
        balanced = metrics.balanced_accuracy_score(y, predicted)
    assert actual.balanced_accuracy == pytest.approx(balanced)
    loss = -np.log(p[np.arange(len(y)), y].astype(np.float64)).mean()
    assert actual.log_loss == pytest.approx(loss, rel=1e-5)
    matrix = metrics.confusion_matrix(y, predicted, labels=labels)
    assert actual.confusion_matrix == matrix.tolist()
    assert actual.majority == pytest.approx(np.bincount(y).max() / len(y))
    for number, each in enumerate(actual.classes):
        is_one, said_one = y == number, predicted == number
        assert (each.n_images, each.n_predicted) == (is_one.sum(), said_one.sum())
        for value, function in (
            (each.precision, metrics.precision_score),
            (each.recall, metrics.recall_score),
            (each.f1, metrics.f1_score),
        ):
            if value is not None:
                assert value == pytest.approx(function(is_one, said_one, zero_division=0))
        assert (each.precision is None) == (not said_one.any())
        assert (each.recall is None) == (each.f1 is None) == (not is_one.any())


@given(CASES)
def test_top5_is_counted_by_hand(case):
    p, y = random_case(*case)
    actual = measure(p, y, names(p.shape[1])).top5_accuracy
    if p.shape[1] <= 5:
        assert actual is None
    else:
        ranks = (p > p[np.arange(len(y)), y][:, None]).sum(axis=1)
        assert actual == pytest.approx((ranks < 5).mean())


def test_calibration_error_by_hand():
    # Confidences 0.9 and 0.95 share the bin from 14/15 down to 13/15 or not: 0.9 lies in the
    # fourteenth, 0.95 in the last. 0.6 is the upper bound of the ninth and belongs to it.
    confidence = np.array([0.9, 0.9, 0.95, 0.6], np.float64)
    p = np.stack([confidence, 1 - confidence], axis=1)
    actual = measure(p, np.array([0, 1, 0, 0]), ["a", "b"])
    filled = {number: each for number, each in enumerate(actual.bins) if each.n_images}
    assert {number: each.n_images for number, each in filled.items()} == {8: 1, 13: 2, 14: 1}
    assert (filled[13].accuracy, filled[13].confidence) == (0.5, pytest.approx(0.9))
    assert filled[8].upper == pytest.approx(0.6)
    expected = (2 * abs(0.5 - 0.9) + 1 * abs(1 - 0.95) + 1 * abs(1 - 0.6)) / 4
    assert actual.calibration_error == pytest.approx(expected)


@given(CASES, st.floats(0.1, 200))
def test_bins_hold_every_image_once(case, sharpness):
    p, y = random_case(*case, sharpness=sharpness)
    actual = measure(p, y, names(p.shape[1]))
    assert len(actual.bins) == 15
    assert sum(each.n_images for each in actual.bins) == len(y)
    right = sum(each.n_images * each.accuracy for each in actual.bins if each.n_images)
    assert right / len(y) == pytest.approx(actual.accuracy)
    for each in actual.bins:
        if each.confidence is not None:
            assert each.lower - 1e-6 <= each.confidence <= each.upper + 1e-6
    assert 0 <= actual.calibration_error <= 1


@given(CASES, st.floats(0.1, 200), st.integers(1, 200))
def test_bins_of_few_images_are_drawn_in_threes(case, sharpness, times):
    p, y = random_case(*case, sharpness=sharpness)
    p, y = np.repeat(p, times, axis=0), np.repeat(y, times)
    actual = measure(p, y, names(p.shape[1]))
    drawn = drawn_bins(actual.bins)
    assert len(drawn) == (5 if len(y) < 150 else 15)
    assert sum(each.n_images for each in drawn) == len(y)
    right = sum(each.n_images * each.accuracy for each in drawn if each.n_images)
    assert right / len(y) == pytest.approx(actual.accuracy)
    for each in drawn:
        assert (each.confidence is None) == (each.n_images == 0) == (each.accuracy is None)
        if each.confidence is not None:
            assert each.lower - 1e-6 <= each.confidence <= each.upper + 1e-6


def test_probability_of_exactly_zero_has_a_finite_loss():
    p = np.array([[1, 0], [1, 0]], np.float32)
    actual = measure(p, np.array([0, 1]), ["a", "b"])
    assert actual.log_loss == pytest.approx(-np.log(np.finfo(np.float64).eps) / 2)
    assert actual.calibration_error == pytest.approx(0.5)


def test_one_class_is_present():
    p, _ = random_case(0, 8, 7)
    actual = measure(p, np.full(8, 3), names(7))
    assert actual.majority == 1
    assert actual.majority_label == "class 3"
    assert actual.balanced_accuracy == actual.accuracy == actual.classes[3].recall
    assert [each.label for each in actual.worst_classes()] == ["class 3"]


def test_class_without_images_that_is_predicted_has_no_f1():
    p = np.array([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0]], np.float32)
    first, second, third = measure(p, np.array([0, 0]), ["a", "b", "c"]).classes
    assert asdict(second) == {
        "label": "b",
        "n_images": 0,
        "n_predicted": 1,
        "precision": 0.0,
        "recall": None,
        "f1": None,
    }
    assert third.precision is None
    assert (first.precision, first.recall, first.f1) == (1.0, 0.5, pytest.approx(2 / 3))


def test_class_never_predicted_has_no_precision_but_an_f1_of_0():
    p = np.array([[0.9, 0.1], [0.9, 0.1]], np.float32)
    actual = measure(p, np.array([0, 1]), ["a", "b"])
    assert (actual.classes[1].precision, actual.classes[1].f1) == (None, 0)
    assert [each.label for each in actual.worst_classes()] == ["b", "a"]


def test_confusions_are_the_most_frequent_first():
    columns = [1, 1, 2, 0, 0, 2]
    p = np.eye(3, dtype=np.float32)[columns]
    actual = measure(p, np.array([0, 0, 0, 0, 2, 2]), ["a", "b", "c"])
    assert actual.confusions(2) == [Confusion("a", "b", 2), Confusion("a", "c", 1)]
    assert len(actual.confusions(10)) == 3, "no pair without a confusion"


@pytest.mark.parametrize(
    ("n_right", "n_images"),
    [(0, 1), (1, 1), (2, 2), (0, 30), (4, 10), (8, 10), (64, 64), (950, 1000)],
)
def test_interval_of_an_accuracy_is_that_of_scipy(n_right: int, n_images: int) -> None:
    wanted = binomtest(n_right, n_images).proportion_ci(0.95, "wilson")
    actual = accuracy_interval(n_right / n_images, n_images)
    assert actual == pytest.approx((wanted.low, wanted.high), abs=1e-4)
