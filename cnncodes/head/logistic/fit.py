"""The logistic head: multinomial logistic regression on the codes of a file.

Codes are centred by the mean of the training images and scaled to a mean squared length of one,
as in `scaling`; here both are done to the Gram matrix, so that the codes are read in blocks.
With n ≥ d all codes are read into memory, and the problem is solved on them.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from cnncodes.head.logistic.gram import (
    combine,
    gram_matrix,
    rows_that_stay,
    solve_gram,
)
from cnncodes.head.logistic.solve import MAX_ITERATIONS, Solution, new_solver, open_end, solve
from cnncodes.head.rows import CodeRows
from cnncodes.head.scaling import Scaling, notes_on_spread, read_all
from cnncodes.progress import Progress


def fit_logistic(
    rows: CodeRows,
    y: NDArray[np.int32],
    *,
    C: float | str,
    class_weight: str | None = None,
    groups: NDArray[np.intp] | None = None,
    seed: int = 0,
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
        Inverse strength of the penalty on standardised codes; ``"auto"`` chooses it by log loss
        in cross-validation.
    class_weight : "balanced" or None
        Whether rare classes weigh as much as common ones.
    groups : ndarray of intp, shape (n_images,), optional
        Images of the same group are in the same fold of the cross-validation.
    seed : int
        Seed of the folds.
    progress : Progress, optional
        Counts rows of the Gram matrix, then fits of the cross-validation.

    Returns
    -------
    weights : ndarray of float32, shape (n_features, n_classes)
        Weights of the logits, on codes as they are.
    bias : ndarray of float32, shape (n_classes,)
        Bias of the logits.
    fitted : dict
        ``C`` and ``n_iterations``; ``C_scores``, the mean log loss of each C, where it was chosen;
        ``notes``, a list of text for the user.

    Raises
    ------
    TrainingError
        Codes are not finite, or so large that they cannot be squared.
    """

    def solved(points: NDArray[Any]) -> Solution:
        model = new_solver(class_weight=class_weight)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # reported in the notes
            return solve(points, y, model, C=C, random_state=seed, groups=groups, progress=progress)

    mean: NDArray[np.floating[Any]]
    if len(rows) >= rows.n_features:
        scaling = Scaling.of(X for _, X in rows.blocks())
        mean, spread = scaling.mean, scaling.spread
        X = read_all(rows)
        scaling.apply(X)
        solution = solved(X)
        weights, bias = scaling.fold(solution.weights, solution.intercept)
    else:
        block = rows_that_stay(rows.n_features)
        K = gram_matrix(rows.read, len(rows), block=block, dtype=np.float32, progress=progress)
        fit = solve_gram(K, solved)
        del K
        solution = fit.solution
        with threadpool_limits(1, "blas"):  # the other threads are better used for reading
            weights, mean = combine(rows.blocks(), fit.alpha)
        spread, shift = math.sqrt(fit.squared_length), mean @ weights.astype(np.float64)
        bias = (solution.intercept - shift).astype(np.float32)
    fitted: dict[str, Any] = {"C": solution.C, "n_iterations": solution.n_iterations}
    if solution.scores:
        fitted["C_scores"] = solution.scores
    fitted["notes"] = notes_on_spread(mean, spread) + _notes_on_fit(solution)
    return weights, bias, fitted


def _notes_on_fit(solution: Solution) -> list[str]:
    """Report a fit that did not converge, and a C that is best at an end of the search."""
    notes = []
    if solution.n_iterations >= MAX_ITERATIONS:
        notes.append(
            f"the fit did not converge in {MAX_ITERATIONS} iterations: C = {solution.C:g} is so "
            "weak a penalty that rounding gets in the way; a smaller C will"
        )
    end = open_end(solution.scores, solution.eligible)
    if end is not None:
        least = end == min(solution.scores)
        name, beyond = ("least", "smaller") if least else ("greatest", "greater")
        notes.append(
            f"C = {end:g} is the {name} that was tried, and the best: a {beyond} one may do better"
        )
    return notes
