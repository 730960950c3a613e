"""Fitting a logistic regression to points, and choosing the strength of its penalty.

The strength is chosen by the log loss in cross-validation, among those whose accuracy there is
within one standard error of the best. On a few dozen images many strengths have the same accuracy,
and the strongest of them yields probabilities that are far too even (docs/benchmarks.md).
On many images and classes the lowest log loss may come with an accuracy that is clearly lower.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.utils.class_weight import compute_sample_weight

from cnncodes.errors import ParameterError
from cnncodes.head.linear import log_softmax
from cnncodes.head.logistic.newton import SoftLogisticRegression
from cnncodes.head.views import mean_logits
from cnncodes.parameters import STRENGTH, Real
from cnncodes.progress import NoProgress, Progress

DEFAULT_CS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
FALLBACK_C = 10.0  # where every class has one image, and nothing to validate on
MAX_ITERATIONS = 100
# A tenth of scikit-learn's: there a fit that starts from that of a third of C may not move at all,
# and weak penalties look alike in cross-validation.
SOLVER_TOLERANCE = 1e-5
# Beyond either end of the grid, for the default one down to 0.001 and up to 10,000. Heads of
# weaker penalties are no better (docs/benchmarks.md), and float32 no longer solves them exactly.
MAX_STEPS = 4
# Of a fit that starts near its end: it would stop at the first weights that are good enough,
# where one from zero takes a whole step of Newton's method beyond.
STARTED_TOLERANCE = 1e-6
TOLERANCE = 1e-3  # nats: a lower log loss is worth a weaker penalty if it is lower by more


def new_solver(
    *, class_weight: Any = None, max_iter: int = MAX_ITERATIONS, tol: float = SOLVER_TOLERANCE
) -> LogisticRegression:
    """Return scikit-learn's LogisticRegression, set for points in few dimensions.

    Newton's method converges in a few iterations where scikit-learn's default, L-BFGS, stops up
    to 2 % above the minimum at the same `tol`, and needs several times as long to reach it.
    """
    return LogisticRegression(
        solver="newton-cg", class_weight=class_weight, max_iter=max_iter, tol=tol
    )


def check_strength(C: Any, among: Real = STRENGTH) -> None:
    """Refuse a strength of the penalty that is neither ``"auto"`` nor a number of a range.

    Raises
    ------
    ParameterError
        It is none of these.
    """
    if not isinstance(C, str):
        among.check(C, "C")
    elif C != "auto":
        raise ParameterError(f"C must be auto or a number, not {C!r:.40}")


@dataclass(frozen=True)
class Solution:
    """A fitted logistic regression.

    Attributes
    ----------
    weights : ndarray, shape (n_dimensions, n_classes)
        Weights of the logits; a column for each class, also where there are two.
    intercept : ndarray, shape (n_classes,)
        Bias of the logits.
    C : float
        Inverse strength of the penalty that was used.
    scores : dict of float to float
        Mean log loss of each C in cross-validation, in nats; empty unless C is ``"auto"``.
    n_iterations : int
        Iterations of the last fit.
    eligible : frozenset of float
        Those of `scores` whose accuracy is within one standard error of the best.
    accuracy : float or None
        Accuracy of `C` in cross-validation; None without one.
    """

    weights: NDArray[Any]
    intercept: NDArray[Any]
    C: float
    scores: dict[float, float]
    n_iterations: int
    eligible: frozenset[float] = frozenset()
    accuracy: float | None = None


def solve(
    points: NDArray[Any],
    y: NDArray[Any],
    estimator: LogisticRegression,
    *,
    C: float | str,
    Cs: Sequence[float] = DEFAULT_CS,
    n_folds: int = 5,
    random_state: Any = None,
    groups: ArrayLike | None = None,
    masses: NDArray[np.float64] | None = None,
    n_averaged: int = 1,
    start: tuple[NDArray[Any], NDArray[Any]] | None = None,
    progress: Progress | None = None,
) -> Solution:
    """Fit a logistic regression, and choose the strength of its penalty for ``"auto"``.

    Parameters
    ----------
    points : ndarray, shape (n_samples, n_dimensions)
        Images, rotated or not.
    y : ndarray, shape (n_samples,)
        Classes.
    estimator : LogisticRegression
        Its parameters, but for C, are those of the fit.
    C : float or "auto"
        Inverse strength of the penalty; ``"auto"`` chooses it by log loss in cross-validation.
    Cs : sequence of float
        The strengths that ``"auto"`` tries first. Where the best of them is the least or the
        greatest, up to `MAX_STEPS` more are tried beyond it.
    n_folds : int
        Folds of the cross-validation; at most the number of images, or groups, of the most
        common class.
    random_state : int, RandomState or None
        Seed of the folds.
    groups : array-like, shape (n_samples,), optional
        Images of the same group are in the same fold, and count as one in the
        standard error. By default each image is its own group.
    masses : ndarray of float64, shape (n_samples, n_classes), optional
        How much each image counts for each class, in the order of the classes in `y`, where it is
        trained on; none counts for nothing. By default it counts 1 for its own. Where an image is
        tested it has its class, and counts 1.
    n_averaged : int
        Number of points, one after the other, that are views of one image. They are of one class
        and one group, and an image is tested by the mean of their logits.
    start : tuple of two ndarray, optional
        Weights and intercept, as in `Solution`, that the fit on all points starts from.
    progress : Progress, optional
        Counts the fits of the cross-validation.

    Returns
    -------
    Solution
        The fit on all points.
    """
    if masses is not None:
        estimator, y = _with_masses(estimator, y)
    scores: dict[float, float] = {}
    accuracies: dict[float, float] = {}
    eligible: frozenset[float] = frozenset()
    if C == "auto":
        folds = stratified_folds(y, n_folds, random_state, groups)
        # Classes weigh as much in the score as in the fit.
        weights = compute_sample_weight(estimator.class_weight, y)
        # Views, copies and images of a group are right or wrong together.
        n_groups = len(y) if groups is None else len(np.unique(groups))
        validation = _Validation(
            *(points, y, weights, n_groups, estimator, folds, progress or NoProgress()),
            masses=masses,
            n_averaged=n_averaged,
        )
        scores, accuracies, eligible = validation.search(Cs)
        C = choose({each: scores[each] for each in eligible}) if scores else FALLBACK_C
    # As in the cross-validation, each fit starts where the one before ended: with a weak penalty
    # and few images a fit from zero ends elsewhere, and the scores would be those of another fit.
    model = clone(estimator).set_params(warm_start=bool(scores) or start is not None)
    if start is not None:
        _start(model, *start)
    with warnings.catch_warnings():
        _ignore_rounding()
        for each in [*sorted(each for each in scores if each < float(C)), float(C)]:
            model.set_params(C=each).fit(points, y if masses is None else masses)
    weights, intercept = model.coef_.T, model.intercept_
    if weights.shape[1] == 1:  # two classes: scikit-learn has the second one's logit only
        weights = np.hstack([-weights / 2, weights / 2])
        intercept = np.concatenate([-intercept / 2, intercept / 2])
    return Solution(
        weights,
        intercept,
        float(C),
        scores,
        int(model.n_iter_.max()),
        eligible,
        accuracies.get(float(C)),
    )


def _ignore_rounding() -> None:
    """Ignore the warnings of a fit whose last step rounding does not let lower the loss."""
    warnings.filterwarnings("ignore", "The line search|Line Search|Rounding errors prevent")


def _with_masses(
    estimator: LogisticRegression, y: NDArray[Any]
) -> tuple[SoftLogisticRegression, NDArray[np.intp]]:
    """Return the estimator that fits masses, and classes as their columns."""
    names, numbers = np.unique(y, return_inverse=True)
    parameters = estimator.get_params()
    if isinstance(by_name := parameters["class_weight"], dict):
        parameters["class_weight"] = {
            number: by_name.get(name, 1) for number, name in enumerate(names.tolist())
        }
    return SoftLogisticRegression(**parameters), numbers


def _start(model: LogisticRegression, weights: NDArray[Any], intercept: NDArray[Any]) -> None:
    """Let the fit of a model with a warm start begin at these weights."""
    if weights.shape[1] == 2:  # scikit-learn has the second one's logit only
        weights, intercept = weights[:, 1:] - weights[:, :1], intercept[1:] - intercept[:1]
    model.coef_, model.intercept_ = weights.T, intercept
    model.set_params(tol=min(model.tol, STARTED_TOLERANCE))


def choose(scores: dict[float, float]) -> float:
    """Return the smallest C whose log loss is that of the best one, within `TOLERANCE`."""
    best = min(scores.values())
    return min(C for C, loss in scores.items() if loss <= best + TOLERANCE)


def open_end(scores: dict[float, float], eligible: Collection[float]) -> float | None:
    """Return the least or greatest C of all if it is the best of those that are eligible.

    Its log loss must be lower than that of each other one by `TOLERANCE`.
    """
    if len(scores) < 2:
        return None
    first, *others = sorted(eligible, key=lambda C: scores[C])
    if others and scores[others[0]] <= scores[first] + TOLERANCE:
        return None
    return first if first in (min(scores), max(scores)) else None


def _beyond(scores: dict[float, float], end: float) -> float:
    """Return the strength that continues the grid beyond one of its ends.

    The ratios of 0.1, 0.3, 1 … alternate, so the last but one is repeated.
    """
    Cs = sorted(scores, reverse=end == max(scores))
    near, far = Cs[1:3] if len(Cs) > 2 else Cs
    return float(f"{end * near / far:.6g}")


def stratified_folds(
    y: NDArray[Any], n_folds: int, random_state: Any, groups: ArrayLike | None
) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Return the training and the held-out points of each stratified fold of `solve`.

    A fold without two classes to train on, or without held-out points, is left out.
    """
    numbers = np.arange(len(y)) if groups is None else np.unique(groups, return_inverse=True)[1]
    classes = np.unique(y, return_inverse=True)[1]
    pairs = np.unique(np.stack([classes, numbers]), axis=1)  # of class and group
    n_folds = min(n_folds, int(np.bincount(pairs[0]).max()))
    if n_folds < 2:
        return []
    grouped = int(numbers.max()) + 1 < len(y)
    kind = StratifiedGroupKFold if grouped else StratifiedKFold
    with warnings.catch_warnings():
        # A class with fewer images than folds is in the training part of most of them.
        warnings.filterwarnings("ignore", message="The least populated class")
        split = kind(n_folds, shuffle=True, random_state=random_state)
        parts = list(split.split(y, y, numbers if grouped else None))
    return [
        (train, held_out)
        for train, held_out in parts
        if len(held_out) and len(np.unique(y[train])) > 1
    ]


@dataclass(frozen=True)
class _Validation:
    """The cross-validation of a fit, over a grid of strengths that may grow.

    Attributes
    ----------
    points, y, estimator, progress, masses, n_averaged
        As for `solve`.
    weights : ndarray of float64, shape (n_samples,)
        Weights of the log losses.
    n_groups : int
        Number of groups of points, by which the standard error of an accuracy is estimated.
    folds : list of tuple of two ndarray of intp
        Points that train, and points held out.
    """

    points: NDArray[Any]
    y: NDArray[Any]
    weights: NDArray[np.float64]
    n_groups: int
    estimator: LogisticRegression
    folds: list[tuple[NDArray[np.intp], NDArray[np.intp]]]
    progress: Progress
    masses: NDArray[np.float64] | None = None
    n_averaged: int = 1

    def search(
        self, Cs: Sequence[float]
    ) -> tuple[dict[float, float], dict[float, float], frozenset[float]]:
        """Score `Cs`, and others beyond while an end is best.

        Returns
        -------
        scores : dict of float to float
            Mean log loss of each C, in nats; empty where nothing can be scored.
        accuracies : dict of float to float
            Accuracy of each C.
        eligible : frozenset of float
            Those whose accuracy is within one standard error of the best.
        """
        models = self._models()
        with warnings.catch_warnings():
            # Rounding may keep a weak penalty from the tolerance; it is scored as it is.
            warnings.simplefilter("ignore", ConvergenceWarning)
            _ignore_rounding()
            scores, accuracies = self._score(sorted(set(Cs)), models, 0)
            for _ in range(MAX_STEPS):
                end = open_end(scores, self._eligible(accuracies))
                if end is None:
                    break
                if end == min(scores):  # the models are at the other end
                    models = self._models()
                more = self._score([_beyond(scores, end)], models, len(scores))
                if not more[0]:
                    break
                scores |= more[0]
                accuracies |= more[1]
        return dict(sorted(scores.items())), accuracies, self._eligible(accuracies)

    def _eligible(self, accuracies: dict[float, float]) -> frozenset[float]:
        best = max(accuracies.values(), default=0.0)
        error = math.sqrt(best * (1 - best) / self.n_groups)
        return frozenset(C for C, each in accuracies.items() if each >= best - error)

    def _models(self) -> list[LogisticRegression]:
        return [clone(self.estimator).set_params(warm_start=True) for _ in self.folds]

    def _score(
        self, Cs: Sequence[float], models: list[LogisticRegression], n_before: int
    ) -> tuple[dict[float, float], dict[float, float]]:
        """Return mean log loss and accuracy of each C, which increase.

        A C at which no fit makes a step is left out: the one before has converged for it too.
        """
        losses, hits, total = np.zeros(len(Cs)), np.zeros(len(Cs)), 0.0
        moved = np.zeros(len(Cs), bool)
        n_folds = len(self.folds)
        self.progress.begin(n_folds * (n_before + len(Cs)), n_folds * n_before, unit="fits")
        for (train, held_out), model in zip(self.folds, models, strict=True):
            fold, targets = self.points[train], self.y[train]
            trained = targets if self.masses is None else self.masses[train]
            # Classes that are not in the other folds are wrong at any strength: not scored.
            scored = held_out[np.isin(self.y[held_out], targets)]
            weights, points = self.weights[scored[:: self.n_averaged]], self.points[scored]
            total += weights.sum()
            for index, C in enumerate(Cs):
                # From the strongest penalty on, each fit starts where the one before ended.
                model.set_params(C=C).fit(fold, trained)
                moved[index] |= bool(model.n_iter_.max() > 0)
                loss, hit = _losses(model, points, self.y[scored], self.n_averaged)
                losses[index] += weights @ loss
                hits[index] += weights @ hit
                self.progress.advance(1)
        if not total:
            return {}, {}
        kept = [index for index in range(len(Cs)) if moved[index] or n_before == 0]
        return (
            {Cs[index]: float(losses[index] / total) for index in kept},
            {Cs[index]: float(hits[index] / total) for index in kept},
        )


def _losses(
    model: LogisticRegression, points: NDArray[Any], y: NDArray[Any], n_averaged: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the log loss of each image, whose class the model knows, and whether it is right."""
    if len(points) == 0:
        return np.zeros(0), np.zeros(0, bool)
    logits = np.asarray(model.decision_function(points), np.float64)
    if logits.ndim == 1:
        logits = np.stack([np.zeros(len(logits)), logits], axis=1)
    logits = mean_logits(logits, n_averaged)
    classes = np.searchsorted(model.classes_, y[::n_averaged])
    losses: NDArray[np.float64] = -log_softmax(logits)[np.arange(len(logits)), classes]
    return losses, logits.argmax(axis=1) == classes
