"""Logistic regressions of several labels against scikit-learn's, label by label."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.multiclass import OneVsRestClassifier

from cnncodes import CodeStore
from cnncodes.head.multilabel.fit import DEFAULT_THRESHOLD, best_threshold, fit_labels
from cnncodes.head.multilabel.newton import MAX_STEPS, Problems
from cnncodes.head.rows import CodeRows
from tests.helpers import write_codes

N_IMAGES, N_LABELS = 80, 4
NAMES = [f"label {number}" for number in range(N_LABELS)]


def draw(n_features: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return codes that are mostly zeros, and labels that follow from them with noise."""
    generator = np.random.default_rng(seed)
    X = np.maximum(generator.normal(size=(N_IMAGES, n_features)) - 0.5, 0).astype(np.float32)
    logits = X @ generator.normal(size=(n_features, N_LABELS))
    logits += generator.normal(size=logits.shape) * logits.std()
    rare = np.quantile(logits, [0.5, 0.7, 0.8, 0.9], axis=0).diagonal()
    return X, logits > rare


@pytest.fixture(params=[300, 20], ids=["gram", "points"])
def drawn(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple]:
    """Rows of a codes file, its codes scaled as heads scale them, the scale and the labels."""
    X, targets = draw(request.param)
    path = write_codes(tmp_path / "codes.h5", X, np.zeros(N_IMAGES, np.int32))
    centred = X.astype(np.float64) - X.mean(axis=0, dtype=np.float64)
    spread = np.sqrt(np.square(centred).sum(axis=1).mean())
    with CodeStore.open(path) as store:
        yield CodeRows(store, np.arange(N_IMAGES)), centred / spread, spread, targets


def assert_close(weights: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(weights, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("C", [0.1, 10.0, 1000.0])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_weights_are_those_of_scikit_learn(
    drawn: tuple, C: float, class_weight: str | None
) -> None:
    rows, X, spread, targets = drawn
    known = np.ones_like(targets)
    fit = fit_labels(rows, targets, known, NAMES, C=C, class_weight=class_weight)
    one = LogisticRegression(
        C=C, class_weight=class_weight, solver="newton-cg", tol=1e-10, max_iter=1000
    )
    expected = OneVsRestClassifier(one).fit(X, targets.astype(int))
    coefficients = np.concatenate([each.coef_ for each in expected.estimators_]).T
    assert_close(fit.weights * spread, coefficients)
    logits = np.stack([each.decision_function(X) for each in expected.estimators_], axis=1)
    codes = np.concatenate([block for _, block in rows.blocks()])
    np.testing.assert_allclose(
        codes @ fit.weights.astype(np.float64) + fit.bias,
        logits,
        rtol=0,
        atol=1e-4 * np.abs(logits).max(),
    )


def test_image_whose_label_is_unknown_is_left_out_of_that_label_alone(drawn: tuple) -> None:
    rows, X, spread, targets = drawn
    known = np.random.default_rng(1).random(targets.shape) < 0.7
    fit = fit_labels(rows, targets, known, NAMES, C=3.0)
    flipped = fit_labels(rows, targets ^ ~known, known, NAMES, C=3.0)
    np.testing.assert_array_equal(fit.weights, flipped.weights)
    assert fit.thresholds == flipped.thresholds
    for label in range(N_LABELS):
        some = known[:, label]
        one = LogisticRegression(C=3.0, solver="newton-cg", tol=1e-10, max_iter=1000)
        expected = one.fit(X[some], targets[some, label])
        assert_close(fit.weights[:, label] * spread, expected.coef_[0])


def test_each_label_has_a_strength_of_its_own(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    X = generator.normal(size=(N_IMAGES, 200)).astype(np.float32)
    X[:, 0] += np.where(np.arange(N_IMAGES) % 2, 20, -20)
    targets = np.stack([np.arange(N_IMAGES) % 2 == 1, generator.random(N_IMAGES) < 0.5], axis=1)
    path = write_codes(tmp_path / "codes.h5", X, np.zeros(N_IMAGES, np.int32))
    with CodeStore.open(path) as store:
        rows = CodeRows(store, np.arange(N_IMAGES))
        fit = fit_labels(rows, targets, np.ones_like(targets), ["easy", "chance"])
        again = fit_labels(
            rows, targets, np.ones_like(targets), "ab", C=fit.fitted["C"], thresholds=fit.thresholds
        )
    easy, chance = fit.fitted["C"]
    assert easy >= 100 * chance
    np.testing.assert_array_equal(again.weights, fit.weights)


def test_thresholds_are_of_the_mean_of_the_logits_of_views(drawn: tuple) -> None:
    rows, X, _, targets = drawn  # each two that follow one another are views of an image
    targets, groups = np.repeat(targets[::2], 2, axis=0), np.repeat(np.arange(N_IMAGES // 2), 2)
    fit = fit_labels(
        rows, targets, np.ones_like(targets), NAMES, C=1.0, groups=groups, n_averaged=2
    )
    model = LogisticRegression(C=1.0, solver="newton-cg", tol=1e-10, max_iter=1000)
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    for wanted, threshold in zip(targets.T, fit.thresholds, strict=True):
        logits = cross_val_predict(
            model, X, wanted, groups=groups, cv=folds, method="decision_function"
        )
        probabilities, truth = expit(logits.reshape(-1, 2).mean(axis=1)), wanted[::2]
        best = best_threshold(probabilities, truth, np.ones_like(truth))
        assert threshold == pytest.approx(best, abs=1e-2)
        assert f1_score(truth, probabilities >= threshold) == pytest.approx(
            f1_score(truth, probabilities >= best)
        )


def test_label_of_one_image_has_the_default_threshold(drawn: tuple) -> None:
    rows, _, _, targets = drawn
    targets = targets.copy()
    targets[:, 0] = np.arange(N_IMAGES) == 7
    fit = fit_labels(rows, targets, np.ones_like(targets), NAMES)
    assert fit.thresholds[0] == DEFAULT_THRESHOLD
    assert np.isfinite(fit.weights).all()


def test_threshold_has_the_highest_f1() -> None:
    generator = np.random.default_rng(0)
    p = generator.random(200).round(2)
    targets = generator.random(200) < p**2
    known = generator.random(200) < 0.8
    threshold = best_threshold(p, targets, known)
    best = f1_score(targets[known], p[known] >= threshold)
    for other in np.linspace(0, 1, 51):
        assert f1_score(targets[known], p[known] >= other, zero_division=0.0) <= best


def test_threshold_is_in_the_middle_of_a_gap() -> None:
    p = np.array([0.1, 0.2, 0.8, 0.9, np.nan])
    targets = np.array([False, False, True, True, True])
    assert best_threshold(p, targets, np.ones(5, bool)) == pytest.approx(0.5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_solver_ends_where_labels_are_separable_and_the_penalty_weak(dtype: type) -> None:
    X, targets = draw(300)
    problems = Problems.of(X.astype(dtype), targets, np.ones(targets.shape))
    n_steps = problems.solve(np.full(N_LABELS, 1e3), tolerance=1e-3)
    assert n_steps < MAX_STEPS
    np.testing.assert_array_equal(problems.logits() > 0, targets)
