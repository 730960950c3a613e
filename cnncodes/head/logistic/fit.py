"""Logistic and ridge heads on the codes of a file.

Codes are centred by the mean of the training images and scaled to a mean squared length of one,
as in `scaling`; here both are done to the Gram matrix, so that the codes are read in blocks.
With n ≥ d all codes are read into memory, and the problem is solved on them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from cnncodes.head.logistic.gram import (
    centre,
    combine,
    gram_matrix,
    rows_that_stay,
    scale,
    solve_gram,
)
from cnncodes.head.logistic.newton import masses_of, minimise, refine, weighted_by_class
from cnncodes.head.logistic.solve import (
    MAX_ITERATIONS,
    Solution,
    new_solver,
    open_end,
    solve,
)
from cnncodes.head.logistic.start import Point, Start
from cnncodes.head.ridge import DualSquares, PrimalSquares, RidgeFit, Squares, fit_ridge
from cnncodes.head.rows import CodeRows
from cnncodes.head.scaling import Scaling, notes_on_spread, read_all
from cnncodes.progress import Progress

Parameters = tuple[NDArray[np.float32], NDArray[np.float32], dict[str, Any]]


@dataclass(frozen=True)
class Candidate:
    """A linear head whose weights on the codes are yet to be computed.

    Attributes
    ----------
    loss : float or None
        Mean log loss in cross-validation; None without one.
    accuracy : float or None
        Accuracy in cross-validation; None without one.
    finish : callable
        Computes the head, as `fit_logistic` returns it.
    """

    loss: float | None
    accuracy: float | None
    finish: Callable[[], Parameters]


def fit_candidates(
    rows: CodeRows,
    y: NDArray[np.int32],
    estimators: Sequence[str],
    *,
    C: float | str,
    temperature: float | None = None,
    class_weight: str | None = None,
    groups: NDArray[np.intp] | None = None,
    masses: NDArray[np.float64] | None = None,
    n_averaged: int = 1,
    seed: int = 0,
    start: Start | None = None,
    progress: Progress | None = None,
) -> dict[str, Candidate]:
    """Fit linear heads of several kinds on the same codes, which are read once.

    Parameters
    ----------
    rows, y, C, class_weight, groups, masses, seed, progress
        As for `fit_logistic`; `class_weight` is for logistic alone.
    estimators : sequence of {"logistic", "ridge"}
        The kinds.
    temperature : float, optional
        Of ridge, as for `fit_ridge`.
    n_averaged : int
        As for `solve`.
    start : Start, optional
        Where the fit of ``"logistic"`` starts; by default at zero.

    Returns
    -------
    dict of str to Candidate
        One for each of `estimators`.

    Raises
    ------
    TrainingError
        As for `fit_logistic`; or a given C is too weak a penalty for ridge.
    """

    def logistic(points: NDArray[Any], at: Point | None = None) -> Solution:
        model = new_solver(class_weight=class_weight)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # reported in the notes
            return solve(
                points,
                y,
                model,
                C=C,
                random_state=seed,
                groups=groups,
                masses=masses,
                n_averaged=n_averaged,
                start=at,
                progress=progress,
            )

    def logistic_on_gram(points: NDArray[Any]) -> Solution:
        return logistic(points, None if start is None else start.rotated(rows, points))

    def counted() -> NDArray[np.float64]:
        each = masses_of(y, int(y.max()) + 1) if masses is None else masses
        return weighted_by_class(each, class_weight)

    def exactly(
        points: NDArray[Any], solution: Solution, alpha: NDArray[Any], jitter: float
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        fitted = (solution.weights, solution.intercept, alpha)
        return refine(points, counted(), solution.C, *fitted, jitter)

    def ridge(squares: Squares) -> RidgeFit:
        return fit_ridge(
            squares,
            C=C,
            temperature=temperature,
            random_state=seed,
            groups=groups,
            n_averaged=n_averaged,
        )

    candidates: dict[str, Candidate] = {}
    if len(rows) >= rows.n_features:
        scaling = Scaling.of(X for _, X in rows.blocks())
        X = read_all(rows)
        scaling.apply(X)
        if "ridge" in estimators:
            least = ridge(PrimalSquares(X, y, masses))
            folded = partial(_fold, scaling, least.solution)
            candidates["ridge"] = _candidate(least.solution, folded, least)
        if "logistic" in estimators:
            at = None if start is None else start.standardised(scaling)
            solution = logistic(X, at)
            fitted = (solution.weights.astype(np.float64), solution.intercept.astype(np.float64))
            weights, intercept, _ = minimise(X, counted(), solution.C, fitted)
            solution = replace(solution, weights=weights, intercept=intercept)
            candidates["logistic"] = _candidate(solution, partial(_fold, scaling, solution))
        return candidates
    block = rows_that_stay(rows.n_features)
    K = gram_matrix(rows.read, len(rows), block=block, dtype=np.float32, progress=progress)
    least_squares: RidgeFit | None = None

    def before(K: NDArray[Any]) -> None:
        nonlocal least_squares
        if "ridge" in estimators:
            least_squares = ridge(DualSquares(K, y, masses))

    if "logistic" in estimators:
        fit = solve_gram(K, logistic_on_gram, before=before, refine=exactly)
        length = fit.squared_length
        finish = _combiner(rows, fit.alpha, length, fit.solution)
        candidates["logistic"] = _candidate(fit.solution, finish)
    else:
        centre(K)
        length = scale(K)
        before(K)
    del K
    if least_squares is not None:
        solution = least_squares.solution
        alpha = (solution.weights / (length or 1.0)).astype(np.float32)
        finish = _combiner(rows, alpha, length, solution)
        candidates["ridge"] = _candidate(solution, finish, least_squares)
    return candidates


def _candidate(
    solution: Solution, finish: Callable[[], tuple[Any, ...]], ridge: RidgeFit | None = None
) -> Candidate:
    fitted: dict[str, Any] = {"C": solution.C}
    if ridge is None:
        fitted["n_iterations"] = solution.n_iterations
    if solution.scores:
        fitted["C_scores"] = solution.scores
    if ridge is not None:
        fitted["temperature"] = ridge.temperature
        if ridge.calibration_error:
            fitted["calibration_error"] = ridge.calibration_error

    def finished() -> Parameters:
        weights, bias, mean, spread = finish()
        notes = notes_on_spread(mean, spread) + _notes_on_fit(solution)
        return weights, bias, fitted | {"notes": notes}

    return Candidate(solution.scores.get(solution.C), solution.accuracy, finished)


def _fold(scaling: Scaling, solution: Solution) -> tuple[Any, ...]:
    return *scaling.fold(solution.weights, solution.intercept), scaling.mean, scaling.spread


def _combiner(
    rows: CodeRows, alpha: NDArray[Any], squared_length: float, solution: Solution
) -> Callable[[], tuple[Any, ...]]:
    """Return the function that computes weights from those of images."""

    def finish() -> tuple[Any, ...]:
        with threadpool_limits(1, "blas"):  # the other threads are better used for reading
            weights, mean = combine(rows.blocks(), alpha)
        shift = mean @ weights.astype(np.float64)
        bias = (solution.intercept - shift).astype(np.float32)
        return weights, bias, mean, math.sqrt(squared_length)

    return finish


def fit_logistic(
    rows: CodeRows,
    y: NDArray[np.int32],
    *,
    C: float | str,
    class_weight: str | None = None,
    groups: NDArray[np.intp] | None = None,
    masses: NDArray[np.float64] | None = None,
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
    masses : ndarray of float64, shape (n_images, n_classes), optional
        How much each image counts for each class in training, as for `solve`.
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
    candidates = fit_candidates(
        rows,
        y,
        ["logistic"],
        C=C,
        class_weight=class_weight,
        groups=groups,
        masses=masses,
        seed=seed,
        progress=progress,
    )
    return candidates["logistic"].finish()


def _notes_on_fit(solution: Solution) -> list[str]:
    """Report a fit that did not converge, and the least C of all where it is the best.

    Where it is the greatest, weaker penalties are no better (`solve.MAX_STEPS`).
    """
    notes = []
    if solution.n_iterations >= MAX_ITERATIONS:
        notes.append(
            f"the fit did not converge in {MAX_ITERATIONS} iterations: C = {solution.C:g} is so "
            "weak a penalty that rounding gets in the way; a smaller C will"
        )
    end = open_end(solution.scores, solution.eligible)
    if end is not None and end == min(solution.scores):
        notes.append(
            f"C = {end:g} is the least that was tried, and the best: the codes hardly tell the "
            "classes apart, and a smaller C may do better"
        )
    return notes
