"""Logistic regression on many more features than images, exactly, by way of the Gram matrix.

With an L2 penalty the optimal weights of a linear classifier are a combination of the training
images: W = Xᵀα (the representer theorem: Kimeldorf and Wahba, "Some results on Tchebycheffian
spline functions", J. Math. Anal. Appl. 33, 1971; Schölkopf, Herbrich and Smola, "A generalized
representer theorem", COLT 2001). So n images in d ≫ n dimensions are n points in at most n
dimensions, and the problem is solved there:

1. K = X Xᵀ, the n × n Gram matrix, is summed up block by block (`gram_matrix`); nothing of size
   n × d is ever in memory.
2. K is centred, which is what centring X does to it (`centre`).
3. K + εI = R Rᵀ (Cholesky). The rows of R have the same inner products as the images, so a
   penalised linear problem has the same optimum on R as on X. ε makes room for rounding, and for
   images that are there twice; it is `_JITTERS` of the mean of K's diagonal.
4. scikit-learn's LogisticRegression is fitted on R, with weights V (`new_solver`). Then
   α = R⁻ᵀ V.

Folds of a cross-validation are rows of R, and every strength of the penalty uses the same R, so
both come at the cost of a fit in n dimensions.

Limits: n² numbers must fit in memory twice over, and with n ≥ d there is nothing to gain.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data
from threadpoolctl import threadpool_limits

from cnncodes.head.linear import LinearSoftmax
from cnncodes.machine import available_threads
from cnncodes.progress import Progress

Read = Callable[[int, int], NDArray[Any]]

DEFAULT_CS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
FALLBACK_C = 10.0  # where every class has one image, and nothing to validate on
MAX_ITERATIONS = 1000
BLOCK_BYTES = 384 * 2**20
_PASSING = 3  # the rows that pass take a third of the room of those that stay
_STRIP = 4096
_JITTERS = {"float64": (1e-9, 1e-7, 1e-5, 1e-3), "float32": (1e-5, 1e-4, 1e-3)}


def gram_matrix(
    read: Read,
    n_samples: int,
    *,
    block: int,
    dtype: Any = np.float64,
    progress: Progress | None = None,
) -> NDArray[Any]:
    """Sum up the inner products of all pairs of rows, one pair of blocks at a time.

    Parameters
    ----------
    read : callable
        ``read(start, stop)`` gives rows `start` to `stop`, of shape (stop − start, n_features)
        and dtype float32 or float64. It is called from several threads.
    n_samples : int
        Number of rows.
    block : int
        Rows that stay in memory while all later ones pass by, a few at a time.
    dtype : numpy dtype
        Of the result.
    progress : Progress, optional
        Told of the rows that were dealt with.

    Returns
    -------
    ndarray of `dtype`, shape (n_samples, n_samples)
        The inner products.
    """
    K = np.empty((n_samples, n_samples), dtype)
    threads = available_threads()
    few = max(1, block // (_PASSING * threads))
    if progress is not None:
        progress.begin(sum(n_samples - first for first in range(0, n_samples, block)))
    # Products in several threads wait for each other when one more thread reads. So each
    # thread reads for itself, and multiplies alone.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as workers:
        for first in range(0, n_samples, block):
            last = min(first + block, n_samples)
            starts, stops = _spans(first, last, few)
            staying = np.empty((0, 0))
            for start, X in zip(starts, workers.map(read, starts, stops), strict=True):
                if start == first:
                    staying = np.empty((last - first, X.shape[1]), X.dtype)
                staying[start - first : start - first + len(X)] = X
                del X
            passing = partial(_pass, read, staying, first, K, progress)
            # What stays passes itself too: only up to each image, the rest is symmetric.
            deque(workers.map(passing, starts, stops), maxlen=0)
            deque(workers.map(passing, *_spans(last, n_samples, few)), maxlen=0)
            del staying, passing  # before the next ones are read
    return K


def rows_that_stay(n_features: int, itemsize: int = 4) -> int:
    """Return how many rows of so many numbers may stay in memory for `gram_matrix`."""
    return max(1, BLOCK_BYTES // (n_features * itemsize))


def _spans(start: int, stop: int, size: int) -> tuple[Sequence[int], Sequence[int]]:
    """Cut a range into pieces; return where they start and stop."""
    starts = range(start, stop, size)
    return starts, [*starts[1:], stop] if len(starts) else []


def _pass(
    read: Read,
    staying: NDArray[Any],
    first: int,
    K: NDArray[Any],
    progress: Progress | None,
    start: int,
    stop: int,
) -> None:
    """Multiply some rows by those that stay, from row `first` on, and enter it in K."""
    last = first + len(staying)
    X = read(start, stop) if start >= last else staying[start - first : stop - first]
    other = slice(first, min(stop, last))
    product = _product(X, staying[: other.stop - first])
    K[start:stop, other] = product
    K[other, start:stop] = product.T
    if progress is not None:
        progress.advance(stop - start)


def _product(X: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Multiply two blocks, a strip of features at a time, which bounds the rounding."""
    total = np.zeros((len(X), len(other)))
    for start in range(0, X.shape[1], _STRIP):
        strip = slice(start, start + _STRIP)
        total += X[:, strip] @ other[:, strip].T
    return total


def centre(K: NDArray[Any]) -> None:
    """Do to a Gram matrix, in place, what subtracting the mean row does to its rows."""
    means = K.mean(axis=0, dtype=np.float64)
    K -= means.astype(K.dtype)
    K -= (means - means.mean()).astype(K.dtype)[:, np.newaxis]


def rotate(K: NDArray[Any]) -> NDArray[Any]:
    """Find points in n dimensions that have the inner products of the images.

    Parameters
    ----------
    K : ndarray of float32 or float64, shape (n_samples, n_samples)
        The inner products; the diagonal is overwritten.

    Returns
    -------
    ndarray of the same dtype and shape
        R of the module's text, lower triangular.

    Raises
    ------
    ValueError
        No images have these inner products.
    """
    diagonal = K.diagonal().copy()
    mean = float(diagonal.mean()) or 1.0
    for jitter in _JITTERS[K.dtype.name]:
        np.fill_diagonal(K, diagonal + jitter * mean)
        try:
            # The transpose of an upper factor lies in memory by rows, as the solver wants it.
            points: NDArray[Any] = scipy.linalg.cholesky(K, lower=False, check_finite=False).T
        except scipy.linalg.LinAlgError:
            continue
        return points
    raise ValueError("the inner products of the images contradict each other")


def rotate_back(points: NDArray[Any], weights: NDArray[Any]) -> NDArray[Any]:
    """Turn weights on `points`, (n_samples, n_classes), into α, a row an image.

    The rows add up to zero, so that it does not matter whether the images are centred.
    """
    alpha: NDArray[Any] = scipy.linalg.solve_triangular(
        points, weights, lower=True, trans="T", check_finite=False
    )
    alpha -= alpha.mean(axis=0)
    return alpha


def new_solver(
    *, class_weight: Any = None, max_iter: int = MAX_ITERATIONS, tol: float = 1e-4
) -> LogisticRegression:
    """Return scikit-learn's LogisticRegression, set for points in few dimensions.

    Newton's method converges in a few iterations where scikit-learn's default, L-BFGS, stops up
    to 2 % above the minimum at the same `tol`, and needs several times as long to reach it.
    """
    return LogisticRegression(
        solver="newton-cg", class_weight=class_weight, max_iter=max_iter, tol=tol
    )


@dataclass(frozen=True)
class Solution:
    """A fitted logistic regression, on whatever points it was fitted on.

    Attributes
    ----------
    weights : ndarray, shape (n_dimensions, n_classes)
        Weights of the logits; a column for each class, also where there are two.
    intercept : ndarray, shape (n_classes,)
        Bias of the logits.
    C : float
        Inverse strength of the penalty that was used.
    scores : dict of float to float
        Mean accuracy of each C in cross-validation; empty where C was given.
    n_iterations : int
        Iterations of the last fit.
    """

    weights: NDArray[Any]
    intercept: NDArray[Any]
    C: float
    scores: dict[float, float]
    n_iterations: int


def solve(
    points: NDArray[Any],
    y: NDArray[Any],
    estimator: LogisticRegression,
    *,
    C: float | str,
    Cs: Sequence[float] = DEFAULT_CS,
    n_folds: int = 5,
    random_state: Any = None,
    groups: NDArray[np.intp] | None = None,
    progress: Progress | None = None,
) -> Solution:
    """Fit a logistic regression, and choose the strength of its penalty if asked to.

    Parameters
    ----------
    points : ndarray, shape (n_samples, n_dimensions)
        Images, rotated or not.
    y : ndarray, shape (n_samples,)
        Classes.
    estimator : LogisticRegression
        What is fitted, but for its C.
    C : float or "auto"
        Inverse strength of the penalty; ``"auto"`` is the best of `Cs` in cross-validation.
    Cs : sequence of float
        The strengths that ``"auto"`` tries.
    n_folds : int
        Folds of the cross-validation, at most as many as the most common class has images.
    random_state : int, RandomState or None
        Seed of the folds.
    groups : ndarray of int, shape (n_samples,), optional
        Images with equal numbers are in one fold.
    progress : Progress, optional
        Told of the fits of the cross-validation.

    Returns
    -------
    Solution
        The fit on all points.
    """
    scores: dict[float, float] = {}
    if C == "auto":
        scores = _cross_validate(
            points, y, estimator, sorted(Cs), n_folds, random_state, progress, groups
        )
        C = _strongest_of_the_best(scores) if scores else FALLBACK_C
    model = clone(estimator).set_params(C=C).fit(points, y)
    weights, intercept = model.coef_.T, model.intercept_
    if weights.shape[1] == 1:  # two classes: scikit-learn gives the second one's logit only
        weights = np.hstack([-weights / 2, weights / 2])
        intercept = np.concatenate([-intercept / 2, intercept / 2])
    return Solution(weights, intercept, float(C), scores, int(model.n_iter_.max()))


def _cross_validate(
    points: NDArray[Any],
    y: NDArray[Any],
    estimator: LogisticRegression,
    Cs: Sequence[float],
    n_folds: int,
    random_state: Any,
    progress: Progress | None,
    groups: NDArray[np.intp] | None = None,
) -> dict[float, float]:
    """Give the mean accuracy of each C, which increase, over stratified folds; {} without any."""
    n_folds = min(n_folds, int(np.unique(y, return_counts=True)[1].max()))
    if groups is not None:
        n_folds = min(n_folds, len(np.unique(groups)))
    if n_folds < 2:
        return {}
    correct = np.zeros(len(Cs))
    n_scored = 0
    with warnings.catch_warnings():
        # A class with fewer images than folds is in the training part of most of them.
        warnings.filterwarnings("ignore", message="The least populated class")
        folds = StratifiedKFold(n_folds, shuffle=True, random_state=random_state)
        if groups is not None and len(np.unique(groups)) < len(groups):
            folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=random_state)
        else:
            groups = None
        parts = [part for part in folds.split(points, y, groups) if len(part[1])]
    if progress is not None:
        progress.begin(len(parts) * len(Cs), unit="fits")
    for train, held_out in parts:
        fold, targets = points[train], y[train]
        if len(np.unique(targets)) < 2:
            continue
        n_scored += len(held_out)
        # From the strongest penalty on, each fit starts where the one before ended.
        model = clone(estimator).set_params(warm_start=True)
        for place, C in enumerate(Cs):
            model.set_params(C=C).fit(fold, targets)
            correct[place] += (model.predict(points[held_out]) == y[held_out]).sum()
            if progress is not None:
                progress.advance(1)
    return {C: float(n / n_scored) for C, n in zip(Cs, correct, strict=True)} if n_scored else {}


def _strongest_of_the_best(scores: dict[float, float]) -> float:
    """Return the C of the highest score; of equal ones the smallest, the stronger penalty."""
    best = max(scores.values())
    return min(C for C, score in scores.items() if score >= best)


class GramLogisticRegression(LinearSoftmax):
    """Multinomial logistic regression with an L2 penalty, quick on many features.

    With fewer samples than features the problem is solved in the space of the samples, which is
    exact; otherwise scikit-learn's LogisticRegression solves it as it is. The module's text
    tells how.

    Parameters
    ----------
    C : float or "auto"
        Inverse strength of the penalty; ``"auto"`` chooses it by cross-validation.
    Cs : sequence of float
        The strengths that ``"auto"`` tries.
    n_folds : int
        Folds of the cross-validation.
    class_weight : dict, "balanced" or None
        As in scikit-learn.
    max_iter : int
        Iterations at most.
    tol : float
        Where the solver stops, as in scikit-learn.
    random_state : int, RandomState or None
        Seed of the folds.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
        The classes.
    coef_ : ndarray, shape (n_classes, n_features)
        Weights of the logits.
    intercept_ : ndarray, shape (n_classes,)
        Bias of the logits.
    C_ : float
        The strength that was used.
    scores_ : dict of float to float
        Mean accuracy of each strength in cross-validation; empty unless C is ``"auto"``.
    n_iter_ : int
        Iterations of the last fit.
    n_features_in_ : int
        Features seen in training.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> bool(GramLogisticRegression(C=1e-3).fit(X[:50], y[:50]).score(X[50:], y[50:]) > 0.7)
    True
    """

    def __init__(
        self,
        *,
        C: float | str = 1.0,
        Cs: Sequence[float] = DEFAULT_CS,
        n_folds: int = 5,
        class_weight: Any = None,
        max_iter: int = MAX_ITERATIONS,
        tol: float = 1e-4,
        random_state: Any = None,
    ) -> None:
        self.C = C
        self.Cs = Cs
        self.n_folds = n_folds
        self.class_weight = class_weight
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> GramLogisticRegression:
        """Train.

        Parameters
        ----------
        X : array-like, shape (n_samples, n_features)
            Codes.
        y : array-like, shape (n_samples,)
            Classes.

        Returns
        -------
        GramLogisticRegression
            This estimator.

        Raises
        ------
        ValueError
            A parameter is out of range, there is one class only, or X is not finite.
        """
        features: NDArray[Any]
        targets: NDArray[Any]
        features, targets = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(targets)
        self.classes_ = np.unique(targets)
        if len(self.classes_) < 2:
            raise ValueError(f"{len(self.classes_)} class in the data; two or more are needed")
        n_samples, n_features = features.shape
        points = features
        if n_samples < n_features:
            block = rows_that_stay(n_features, features.itemsize)
            K = gram_matrix(
                lambda start, stop: features[start:stop],
                n_samples,
                block=block,
                dtype=features.dtype,
            )
            centre(K)
            points = rotate(K)
        solution = solve(
            points,
            targets,
            new_solver(class_weight=self.class_weight, max_iter=self.max_iter, tol=self.tol),
            C=self.C,
            Cs=self.Cs,
            n_folds=self.n_folds,
            random_state=self.random_state,
        )
        weights, intercept = solution.weights, solution.intercept
        if points is not features:
            weights = features.T @ rotate_back(points, weights)
            intercept = intercept - features.mean(axis=0) @ weights
        self.coef_, self.intercept_ = weights.T, intercept
        self.C_, self.scores_ = solution.C, solution.scores
        self.n_iter_ = solution.n_iterations
        return self
