from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from cnncodes.head.logistic import fit_logistic


def digits(n_classes):
    X, y = load_digits(n_class=n_classes, return_X_y=True)
    return (X[:200] / 16).astype(np.float32), y[:200].astype(np.int32)


@pytest.mark.parametrize("C", [0.01, 10.0])
@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_probabilities_are_scikit_learns(n_classes, C):
    X, y = digits(n_classes)
    weights, bias, _ = fit_logistic(X, y, C=C)
    assert weights.shape == (X.shape[1], n_classes)
    assert bias.shape == (n_classes,)
    model = LogisticRegression(C=C, max_iter=1000).fit(X, y)
    assert softmax(X @ weights + bias, axis=1) == pytest.approx(model.predict_proba(X), abs=1e-5)


def test_it_learns():
    X, y = digits(10)
    weights, bias, _ = fit_logistic(X, y, C=10.0)
    assert ((X @ weights + bias).argmax(axis=1) == y).mean() > 0.98


def test_fit_is_told():
    X, y = digits(3)
    told = fit_logistic(X, y, C=0.5)[2]
    assert told["C"] == 0.5
    assert isinstance(told["n_iterations"], int)
    assert 0 < told["n_iterations"] < 1000


def test_smaller_c_is_a_stronger_penalty():
    X, y = digits(3)
    strong, weak = (np.square(fit_logistic(X, y, C=C)[0]).sum() for C in (0.001, 100))
    assert strong < weak / 10
