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
from cnncodes.head.logistic.solve import (
    MAX_ITERATIONS,
    Solution,
    new_solver,
    open_end,
    solve,
)
from cnncodes.head.ridge import solve_dual, solve_primal
from cnncodes.head.rows import CodeRows
from cnncodes.head.scaling import Scaling, notes_on_spread, read_all
from cnncodes.progress import Progress

Parameters = tuple[NDArray[np.float32], NDArray[np.float32], dict[str, Any]]


@dataclass(frozen=True)
class Candidate:
    """A linear head whose weights on the codes are yet to be computed.

    Attributes
    ----------
    estimator : {"logistic", "ridge"}
        The kind of fit.
    solution : Solution
        The fit, at its temperature.
    temperature : float or None
        By which its logits are divided; None where nothing was validated.
    loss : float
        Mean log loss in cross-validation, at that temperature; NaN without one.
    accuracy : float
        Accuracy in cross-validation; NaN without one.
    finish : callable
        Computes the head, as `fit_logistic` returns it.
    """

    estimator: str
    solution: Solution
    temperature: float | None
    loss: float
    accuracy: float
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
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Candidate]:
    """Fit linear heads of several kinds on the same codes, which are read once.

    Parameters
    ----------
    rows, y, C, class_weight, groups, seed, progress
        As for `fit_logistic`; `class_weight` is for logistic alone.
    estimators : sequence of {"logistic", "ridge"}
        The kinds.
    temperature : float, optional
        By which logits are divided. By default it is fitted on those of the cross-validation that
        chooses C, and is 1 without one.

    Returns
    -------
    list of Candidate
        One for each of `estimators`.

    Raises
    ------
    TrainingError
        As for `fit_logistic`.
    """

    def logistic(points: NDArray[Any]) -> Solution:
        model = new_solver(class_weight=class_weight)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # reported in the notes
            return solve(points, y, model, C=C, random_state=seed, groups=groups, progress=progress)

    def primal(points: NDArray[Any]) -> Solution:
        return solve_primal(points, y, C=C, random_state=seed, groups=groups)

    if len(rows) >= rows.n_features:
        scaling = Scaling.of(X for _, X in rows.blocks())
        X = read_all(rows)
        scaling.apply(X)
        solvers = {"logistic": logistic, "ridge": primal}
        fits = [(each, *_at_temperature(solvers[each](X), temperature)) for each in estimators]
        return [
            _candidate(name, fit, used, partial(_fold, scaling, fit)) for name, fit, used in fits
        ]
    block = rows_that_stay(rows.n_features)
    dtype = np.float64 if "ridge" in estimators else np.float32
    K = gram_matrix(rows.read, len(rows), block=block, dtype=dtype, progress=progress)
    candidates = {}
    if "logistic" in estimators:
        used: float | None = None

        def tempered(points: NDArray[Any]) -> Solution:
            nonlocal used
            solution, used = _at_temperature(logistic(points), temperature)
            return solution

        fit = solve_gram(K.astype(np.float32) if "ridge" in estimators else K, tempered)
        finish = _combiner(rows, fit.alpha, fit.squared_length, fit.solution)
        candidates["logistic"] = _candidate("logistic", fit.solution, used, finish)
    if "ridge" in estimators:
        centre(K)
        length = scale(K)
        solution, used = _at_temperature(
            solve_dual(K, y, C=C, random_state=seed, groups=groups), temperature
        )
        finish = _combiner(rows, solution.weights / (length or 1.0), length, solution)
        candidates["ridge"] = _candidate("ridge", solution, used, finish)
    return [candidates[each] for each in estimators]


def _at_temperature(solution: Solution, temperature: float | None) -> tuple[Solution, float | None]:
    """Divide the logits of a fit by a temperature, by default that of its cross-validation."""
    if temperature is None and solution.out_of_fold is not None:
        temperature = solution.out_of_fold.temperature()
    if temperature is None:
        return solution, None
    weights, intercept = solution.weights / temperature, solution.intercept / temperature
    return replace(solution, weights=weights, intercept=intercept), temperature


def _candidate(
    name: str, solution: Solution, temperature: float | None, finish: Callable[[], Any]
) -> Candidate:
    validation, loss, accuracy = solution.out_of_fold, math.nan, math.nan
    fitted: dict[str, Any] = {"C": solution.C}
    if name == "logistic":
        fitted["n_iterations"] = solution.n_iterations
    if solution.scores:
        fitted["C_scores"] = solution.scores
    if temperature is not None:
        fitted["temperature"] = temperature
    if validation is not None and temperature is not None:
        loss, accuracy = validation.loss(temperature), validation.accuracy()
        fitted["calibration_error"] = {
            "before": validation.calibration_error(),
            "after": validation.calibration_error(temperature),
        }

    def finished() -> Parameters:
        weights, bias, mean, spread = finish()
        notes = notes_on_spread(mean, spread) + _notes_on_fit(solution)
        return weights, bias, fitted | {"notes": notes}

    return Candidate(name, solution, temperature, loss, accuracy, finished)


def _fold(scaling: Scaling, solution: Solution) -> tuple[Any, ...]:
    return *scaling.fold(solution.weights, solution.intercept), scaling.mean, scaling.spread


def _combiner(
    rows: CodeRows, alpha: NDArray[Any], squared_length: float, solution: Solution
) -> Callable[[], tuple[Any, ...]]:
    """Return the function that computes weights from those on images."""

    def finish() -> tuple[Any, ...]:
        with threadpool_limits(1, "blas"):  # the other threads are better used for reading
            weights, mean = combine(rows.blocks(), alpha)
        shift = mean @ weights.astype(np.float64)
        bias = (solution.intercept - shift).astype(np.float32)
        return weights.astype(np.float32, copy=False), bias, mean, math.sqrt(squared_length)

    return finish


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
        ``C`` and ``n_iterations``; where C was chosen, ``C_scores``, the mean log loss of each,
        ``temperature`` and ``calibration_error``, before and after it; ``notes``, a list of text
        for the user.

    Raises
    ------
    TrainingError
        Codes are not finite, or so large that they cannot be squared.
    """
    (candidate,) = fit_candidates(
        rows,
        y,
        ["logistic"],
        C=C,
        class_weight=class_weight,
        groups=groups,
        seed=seed,
        progress=progress,
    )
    return candidate.finish()


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
