"""Least squares with an L2 penalty, on one target per class, and a temperature.

The logits are the ridge regression of the classes' indicators, 1 for the own class and 0 for the
others, on centred codes, with an intercept that is not penalised (scikit-learn's RidgeClassifier
has −1 for 0, which doubles its weights). They are no logarithms of odds; the temperature makes
probabilities of them.

With centred inner products K = X Xᵀ, dual weights are (K + αI)⁻¹ Y for centred Y. Each penalty
needs one inverse P = (K + αI)⁻¹ − 11ᵀ/(nα), from which the residuals of the images of a fold F
that a fit without F would have follow exactly: P_FF⁻¹ (P Y)_F (the block form of the formula for
leaving one out in Cook, "Detection of influential observation in linear regression",
Technometrics 19, 1977). With more images than numbers per image the weights of each fold are
computed from its covariance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from cnncodes.head.logistic.solve import Solution, stratified_folds
from cnncodes.head.temperature import OutOfFold

Folds = Sequence[tuple[NDArray[np.intp], NDArray[np.intp]]]
Residuals = Callable[[float], NDArray[np.float64]]
FIRST_C = 1.0  # also where every class has one image, and nothing to validate on
STEP = math.sqrt(10)
MAX_STEPS = 8  # from the first to either side: 1e-4 to 1e4
_N_FOLDS = 5


def solve_dual(
    K: NDArray[np.float64],
    y: NDArray[np.int32],
    *,
    C: float | str,
    random_state: Any = None,
    groups: ArrayLike | None = None,
) -> Solution:
    """Fit to images of which the inner products are known.

    Parameters
    ----------
    K : ndarray of float64, shape (n_samples, n_samples)
        Centred inner products.
    y : ndarray of int32, shape (n_samples,)
        Classes, from 0 on without gaps.
    C : float or "auto"
        Inverse strength of the penalty, 1/α in scikit-learn's Ridge; ``"auto"`` chooses it by
        log loss in cross-validation, each at its own temperature.
    random_state : int, RandomState or None
        Seed of the folds.
    groups : array-like, shape (n_samples,), optional
        Images of the same group are in the same fold.

    Returns
    -------
    Solution
        With the weights of the images, which have sum zero.
    """
    folds = stratified_folds(y, _N_FOLDS, random_state, groups) if C == "auto" else []
    C, scores, out_of_fold = _choose(C, y, folds, lambda: _dual_residuals(K, y, folds))
    Y = indicators(y)
    dual = _solve(K, Y - Y.mean(axis=0), 1 / C)
    dual -= dual.mean(axis=0)
    return Solution(dual, Y.mean(axis=0), C, scores, 0, frozenset(scores), out_of_fold)


def solve_primal(
    X: NDArray[Any],
    y: NDArray[np.int32],
    *,
    C: float | str,
    random_state: Any = None,
    groups: ArrayLike | None = None,
) -> Solution:
    """Fit to centred points, (n_samples, n_dimensions); otherwise as `solve_dual`."""
    folds = stratified_folds(y, _N_FOLDS, random_state, groups) if C == "auto" else []
    C, scores, out_of_fold = _choose(C, y, folds, lambda: _primal_residuals(X, y, folds))
    Y = indicators(y)
    weights = _solve(_products(X), X.T @ (Y - Y.mean(axis=0)), 1 / C)
    return Solution(weights, Y.mean(axis=0), C, scores, 0, frozenset(scores), out_of_fold)


def _choose(
    C: float | str, y: NDArray[np.int32], folds: Folds, prepare: Callable[[], Residuals]
) -> tuple[float, dict[float, float], OutOfFold | None]:
    """Choose the strength: from the first the search goes on while the log loss falls.

    Returns
    -------
    C : float
        The strength.
    scores : dict of float to float
        Mean log loss of each that was tried, at its temperature.
    out_of_fold : OutOfFold or None
        Logits of the chosen one.
    """
    if C != "auto":
        return float(C), {}, None
    kept = [held[np.isin(y[held], y[train])] for train, held in folds]
    scored = np.concatenate(kept) if kept else np.zeros(0, np.intp)
    if not len(scored):
        return FIRST_C, {}, None
    Y, residuals = indicators(y), prepare()
    tried: dict[float, tuple[float, OutOfFold]] = {}

    def loss(step: int) -> float:
        strength = float(f"{FIRST_C * STEP**step:.6g}")
        if strength not in tried:
            logits = (Y - residuals(1 / strength))[scored]
            each = OutOfFold(logits, y[scored].astype(np.intp), np.ones(len(scored)))
            tried[strength] = each.loss(each.temperature()), each
        return tried[strength][0]

    best = 0
    for sign in (1, -1):
        while abs(best + sign) <= MAX_STEPS and loss(best + sign) < loss(best):
            best += sign
        if best:
            break
    chosen = min(tried, key=lambda each: tried[each][0])
    return chosen, {each: tried[each][0] for each in sorted(tried)}, tried[chosen][1]


def indicators(y: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the targets of least squares, (n_images, n_classes), for classes 0, 1, …."""
    return np.eye(int(y.max()) + 1)[y]


def _dual_residuals(K: NDArray[np.float64], y: NDArray[np.int32], folds: Folds) -> Residuals:
    """Return the residuals of held-out images by α, from a centred Gram matrix."""
    Y, n = indicators(y), len(y)

    def residuals(alpha: float) -> NDArray[np.float64]:
        regular = K.copy()
        np.fill_diagonal(regular, K.diagonal() + alpha)
        factor, _ = scipy.linalg.lapack.dpotrf(regular, lower=1, overwrite_a=1)
        P, _ = scipy.linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
        P = np.tril(P) + np.tril(P, -1).T
        P -= 1 / (n * alpha)
        PY, result = P @ Y, np.zeros_like(Y)
        for _, held in folds:
            result[held] = scipy.linalg.solve(P[np.ix_(held, held)], PY[held], assume_a="pos")
        return result

    return residuals


def _primal_residuals(X: NDArray[Any], y: NDArray[np.int32], folds: Folds) -> Residuals:
    """Return the residuals of held-out images by α, from points, (n_images, n_dimensions)."""
    Y = indicators(y)
    parts = []
    for train, _ in folds:
        centre, mean = X[train].mean(axis=0, dtype=np.float64), Y[train].mean(axis=0)
        part = (X[train] - centre).astype(X.dtype)
        parts.append((centre, mean, _products(part), part.T @ (Y[train] - mean)))

    def residuals(alpha: float) -> NDArray[np.float64]:
        result = np.zeros_like(Y)
        for (_, held), (centre, mean, covariance, product) in zip(folds, parts, strict=True):
            weights = _solve(covariance, product, alpha)
            result[held] = Y[held] - mean - (X[held] - centre) @ weights
        return result

    return residuals


def _products(X: NDArray[Any]) -> NDArray[np.float64]:
    """Return XᵀX in float64, in blocks of rows."""
    total = np.zeros((X.shape[1], X.shape[1]))
    for start in range(0, len(X), 4096):
        block = X[start : start + 4096].astype(np.float64)
        total += block.T @ block
    return total


def _solve(K: NDArray[np.float64], Y: NDArray[Any], alpha: float) -> NDArray[Any]:
    """Return (K + αI)⁻¹ Y."""
    regular = K.copy()
    np.fill_diagonal(regular, K.diagonal() + alpha)
    solution: NDArray[Any] = scipy.linalg.solve(
        regular, Y, assume_a="pos", overwrite_a=True, check_finite=False
    )
    return solution
