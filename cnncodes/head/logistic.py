"""The logistic head: multinomial logistic regression, trained to convergence.

The estimator is scikit-learn's. This module is the seam where a faster exact solver belongs:
whatever it is, it must offer scikit-learn's ``fit``, ``coef_`` and ``intercept_``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

MAX_ITERATIONS = 1000


def fit_logistic(
    X: NDArray[np.float32], y: NDArray[np.int32], *, C: float
) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]], dict[str, Any]]:
    """Fit a multinomial logistic regression with an L2 penalty.

    Parameters
    ----------
    X : ndarray of float32, shape (n_samples, n_features)
        Standardised codes.
    y : ndarray of int32, shape (n_samples,)
        Classes, from 0 on without gaps; two or more.
    C : float
        Inverse strength of the penalty, as in scikit-learn.

    Returns
    -------
    weights : ndarray, shape (n_features, n_classes)
        Weights of the logits.
    bias : ndarray, shape (n_classes,)
        Bias of the logits.
    fitted : dict
        What is worth telling of the fit: ``C``, ``n_iterations``.
    """
    model = LogisticRegression(C=C, max_iter=MAX_ITERATIONS).fit(X, y)
    weights, bias = model.coef_.T, model.intercept_
    if weights.shape[1] == 1:  # two classes: scikit-learn gives the second one's logit only
        weights = np.hstack([-weights / 2, weights / 2])
        bias = np.concatenate([-bias / 2, bias / 2])
    return weights, bias, {"C": C, "n_iterations": int(model.n_iter_.max())}
