"""The logistic head: multinomial logistic regression on the codes of a file.

Codes are centred by the mean of the training images and scaled to a mean squared length of one,
as `scaling` does; here both happen to the Gram matrix, so that the codes themselves are only
ever read a block at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from cnncodes.head.gram import (
    Solution,
    centre,
    gram_matrix,
    new_solver,
    rotate,
    rotate_back,
    rows_that_stay,
    solve,
)
from cnncodes.head.rows import CodeRows
from cnncodes.head.scaling import Scaling, read_all
from cnncodes.progress import Progress


def fit_logistic(
    rows: CodeRows,
    y: NDArray[np.int32],
    *,
    C: float | str,
    class_weight: str | None = None,
    seed: int = 0,
    groups: NDArray[np.intp] | None = None,
    progress: Progress | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32], dict[str, Any]]:
    """Fit a multinomial logistic regression with an L2 penalty.

    Parameters
    ----------
    rows : CodeRows
        The training images.
    y : ndarray of int32, shape (n_images,)
        Their classes, from 0 on without gaps; two or more.
    C : float or "auto"
        Inverse strength of the penalty on standardised codes; ``"auto"`` chooses it by
        cross-validation.
    class_weight : "balanced" or None
        Whether rare classes weigh as much as common ones.
    seed : int
        Seed of the folds.
    groups : ndarray of int, shape (n_images,), optional
        Images with equal numbers are in one fold.
    progress : Progress, optional
        Told how far the work is.

    Returns
    -------
    weights : ndarray of float32, shape (n_features, n_classes)
        Weights of the logits, on codes as they are.
    bias : ndarray of float32, shape (n_classes,)
        Bias of the logits.
    fitted : dict
        What is worth telling of the fit: ``C``, ``n_iterations``, ``C_scores``.
    """

    def solved(points: NDArray[Any]) -> Solution:
        model = new_solver(class_weight=class_weight)
        return solve(
            points, y, model, C=C, random_state=seed % 2**32, groups=groups, progress=progress
        )

    if len(rows) >= rows.n_features:
        scaling = Scaling.of(X for _, X in rows.blocks())
        X = read_all(rows)
        scaling.apply(X)
        solution = solved(X)
        weights, bias = scaling.fold(solution.weights, solution.intercept)
    else:
        block = rows_that_stay(rows.n_features)
        K = gram_matrix(rows.read, len(rows), block=block, dtype=np.float32, progress=progress)
        centre(K)
        variance = max(float(K.diagonal().mean(dtype=np.float64)), 0.0) or 1.0
        K /= variance
        points = rotate(K)
        del K
        solution = solved(points)
        alpha = rotate_back(points, solution.weights.astype(np.float32))
        alpha /= np.float32(variance)
        del points
        weights, bias = _combine(rows, alpha, solution.intercept)
    fitted: dict[str, Any] = {"C": solution.C, "n_iterations": solution.n_iterations}
    if solution.scores:
        fitted["C_scores"] = solution.scores
    return weights, bias, fitted


def _combine(
    rows: CodeRows, alpha: NDArray[np.float32], intercept: NDArray[Any]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the weights XᵀA, and the bias that makes them act on centred codes."""
    weights = np.zeros((rows.n_features, alpha.shape[1]), np.float32)
    total = np.zeros(rows.n_features)
    with threadpool_limits(1, "blas"):  # the other threads are better used for reading
        for places, X in rows.blocks():
            weights += X.T @ alpha[places]
            total += X.sum(axis=0, dtype=np.float64)
    mean = total / len(rows)
    return weights, (intercept - mean @ weights.astype(np.float64)).astype(np.float32)
