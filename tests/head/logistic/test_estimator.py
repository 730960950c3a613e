"""The estimator on arrays against scikit-learn on the features themselves."""

from __future__ import annotations

from unittest import SkipTest

import numpy as np
import onnxruntime
import pytest
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from cnncodes.errors import TrainingError
from cnncodes.head import GramLogisticRegression
from cnncodes.head.split import split_by_class
from cnncodes.head.train import train_head
from tests.helpers import write_codes

# One of them compares probabilities of two fits to 1e-7.
# Rounding keeps others from such a tolerance, which scikit-learn warns of.
CHECKS = list(estimator_checks_generator(GramLogisticRegression(tol=1e-11)))


@pytest.fixture(scope="module")
def wide() -> tuple[np.ndarray, np.ndarray]:
    """90 images with 640 features of uneven size, not centred, in six classes."""
    digits, y = load_digits(n_class=6, return_X_y=True)
    mixed = np.maximum(digits[:90] @ np.random.default_rng(0).standard_normal((64, 640)), 0)
    return (mixed / 30 + 1).astype(np.float64), y[:90]


def objective(
    coef: np.ndarray, intercept: np.ndarray, X: np.ndarray, y: np.ndarray, C: float
) -> float:
    """The function that scikit-learn's multinomial LogisticRegression minimises."""
    logits = X @ coef.T + intercept
    logits -= logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(y)), y]
    return float(C * losses.sum() + (coef**2).sum() / 2)


@pytest.mark.filterwarnings("ignore:.*[Ll]ine [Ss]earch")
@pytest.mark.parametrize(("estimator", "check"), CHECKS, ids=[c.func.__name__ for _, c in CHECKS])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_estimator_check_of_scikit_learn(estimator, check):
    try:
        check(estimator)
    except SkipTest as skip:
        # It checks what it can, and leaves the rest to those who set the variable.
        if not str(skip).startswith("SCIPY_ARRAY_API is not set"):
            raise AssertionError(f"a check was skipped: {skip}") from skip


@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("n_classes", [2, 6])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_optimum_is_that_of_scikit_learn(wide, C, n_classes, class_weight):
    X, y = (each[wide[1] < n_classes] for each in wide)
    computed = GramLogisticRegression(C=C, tol=1e-8, class_weight=class_weight).fit(X, y)
    reference = LogisticRegression(C=C, tol=1e-8, max_iter=5000, class_weight=class_weight)
    reference.fit(X - X.mean(axis=0), y)
    centred = X - X.mean(axis=0)
    np.testing.assert_allclose(
        computed.predict_proba(X), reference.predict_proba(centred), atol=2e-4
    )
    if class_weight is None and n_classes > 2:
        best = objective(reference.coef_, reference.intercept_, centred, y, C)
        shifted = computed.intercept_ + computed.coef_ @ X.mean(axis=0)
        assert objective(computed.coef_, shifted, centred, y, C) <= best * (1 + 1e-4)


def test_images_that_are_there_twice(wide):
    X, y = wide
    twice, labels = np.concatenate([X, X, X[:5]]), np.concatenate([y, y, y[:5]])
    computed = GramLogisticRegression(C=1.0, tol=1e-8).fit(twice, labels)
    reference = LogisticRegression(C=1.0, tol=1e-8, max_iter=5000).fit(
        twice - twice.mean(axis=0), labels
    )
    np.testing.assert_allclose(
        computed.predict_proba(X), reference.predict_proba(X - twice.mean(axis=0)), atol=2e-4
    )


def test_images_that_are_all_the_same_train_something():
    X = np.ones((4, 9))
    model = GramLogisticRegression().fit(X, [0, 0, 0, 1])
    np.testing.assert_allclose(model.predict_proba(X)[:, 1], 0.25, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_codes_that_cannot_be_squared_are_refused(dtype):
    X = np.random.default_rng(0).standard_normal((8, 30)) * np.finfo(dtype).max ** 0.8
    with pytest.raises(TrainingError, match="so large"):
        GramLogisticRegression().fit(X.astype(dtype), [0, 1] * 4)


@pytest.mark.parametrize("spread", [1e-2, 1e-8])
@pytest.mark.parametrize("n_classes", [2, 6])
@pytest.mark.parametrize("n_features", [50, 640])
def test_optimum_on_codes_of_one_scene_is_that_of_scikit_learn(wide, spread, n_classes, n_features):
    X, y = (each[wide[1] < n_classes] for each in wide)
    X = X[:, :n_features] + 1 / spread
    centred = (X - X[0]) - (X - X[0]).mean(axis=0)
    computed = GramLogisticRegression(C=1.0, tol=1e-6).fit(X, y)
    reference = LogisticRegression(C=1.0, tol=1e-8, max_iter=5000).fit(centred, y)
    np.testing.assert_allclose(
        computed.predict_proba(X), reference.predict_proba(centred), atol=1e-3
    )
    assert computed.score(X, y) == reference.score(centred, y)
    if n_classes > 2:
        best = objective(reference.coef_, reference.intercept_, centred, y, 1.0)
        shifted = computed.decision_function(X[:1])[0] - computed.coef_ @ centred[0]
        assert objective(computed.coef_, shifted, centred, y, 1.0) <= best * (1 + 1e-3)


def test_same_seed_same_model(wide):
    X, y = wide
    first, second = (GramLogisticRegression(C="auto", random_state=3).fit(X, y) for _ in range(2))
    assert first.scores_ == second.scores_
    np.testing.assert_array_equal(first.coef_, second.coef_)


def test_works_where_scikit_learn_puts_it(wide):
    X, y = wide
    model = make_pipeline(StandardScaler(), GramLogisticRegression(C=0.01))
    assert cross_val_score(model, X, y, cv=3).mean() > 0.8


def test_more_images_than_features_are_left_to_scikit_learn():
    X, y = (each[:200] for each in load_digits(return_X_y=True))
    computed = GramLogisticRegression(C=0.01, tol=1e-8).fit(X, y)
    reference = LogisticRegression(C=0.01, solver="newton-cg", tol=1e-8).fit(X, y)
    np.testing.assert_allclose(computed.coef_, reference.coef_, atol=1e-4)


@pytest.mark.filterwarnings("default::sklearn.exceptions.ConvergenceWarning")
def test_too_few_iterations_are_reported(wide):
    with pytest.warns(ConvergenceWarning):
        GramLogisticRegression(C=100.0, max_iter=1).fit(*wide)


def test_is_shown_as_it_is_made():
    assert repr(GramLogisticRegression()) == "GramLogisticRegression()"
    assert repr(GramLogisticRegression(C="auto")) == "GramLogisticRegression(C='auto')"


@pytest.mark.parametrize("C", [1.0, "auto"])
def test_on_scaled_codes_it_is_the_head_of_the_command(wide, tmp_path, C):
    """As docs/python.md says: its C is the command's then; or it is divided by the square."""
    X, y = wide[0].astype(np.float32), wide[1].astype(np.int32)
    train_head(write_codes(tmp_path / "codes.h5", X, y), tmp_path / "head.onnx", C=C)
    rows = split_by_class(y, 0.7).train
    X, y = X[rows], y[rows]
    mean, squared_length = X.mean(axis=0), ((X - X.mean(axis=0)) ** 2).sum(axis=1).mean()
    scaled = (X - mean) / np.sqrt(squared_length)
    wanted = GramLogisticRegression(C=C, random_state=0).fit(scaled, y).predict_proba(scaled)
    session = onnxruntime.InferenceSession(str(tmp_path / "head.onnx"))
    (found,) = session.run(None, {"codes": X})
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    if C != "auto":
        unscaled = GramLogisticRegression(C=C / squared_length).fit(X, y).predict_proba(X)
        np.testing.assert_allclose(unscaled, wanted, atol=1e-4)
