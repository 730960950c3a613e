"""Logistic regression on many more features than images, exactly, by way of the Gram matrix.

With an L2 penalty the optimal weights of a linear classifier are a combination of the training
images: W = Xᵀα (the representer theorem: Kimeldorf and Wahba, "Some results on Tchebycheffian
spline functions", J. Math. Anal. Appl. 33, 1971; Schölkopf, Herbrich and Smola, "A generalized
representer theorem", COLT 2001). So n images in d ≫ n dimensions are n points in at most n
dimensions, and the problem is solved there:

1. K = X Xᵀ, the n × n Gram matrix, is summed up block by block (`gram_matrix`); nothing of size
   n × d is ever in memory. X is first moved near the origin: products of images that have much
   in common and differ by little would otherwise round the difference away.
2. K is centred exactly, which is what centring X does to it (`centre`).
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

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data
from threadpoolctl import threadpool_limits

from cnncodes.errors import TrainingError
from cnncodes.head.linear import LinearSoftmax
from cnncodes.head.logistic.solve import (
    DEFAULT_CS,
    MAX_ITERATIONS,
    SOLVER_TOLERANCE,
    check_strength,
    new_solver,
    solve,
)
from cnncodes.head.scaling import TOO_LARGE
from cnncodes.machine import available_threads
from cnncodes.parameters import COUNT, STRENGTH_UNSCALED
from cnncodes.progress import Progress

Read = Callable[[int, int], NDArray[Any]]

BLOCK_BYTES = 384 * 2**20
_PASSING = 3  # the rows that pass take a third of the room of those that stay
_STRIP = 4096
_N_REFERENCE = 64
_JITTERS = {"float64": (1e-9, 1e-7, 1e-5, 1e-3), "float32": (1e-5, 1e-4, 1e-3)}


def gram_matrix(
    read: Read,
    n_samples: int,
    *,
    block: int,
    dtype: Any = np.float64,
    n_columns: int | None = None,
    progress: Progress | None = None,
) -> NDArray[Any]:
    """Sum up the inner products of all pairs of rows, one pair of blocks at a time.

    One vector, `reference_of` the first rows, is subtracted from every row. Neither centring nor
    coefficients that add up to zero depend on it, but rounding does.

    Parameters
    ----------
    read : callable
        ``read(start, stop)`` gives rows `start` to `stop`, of shape (stop − start, n_features)
        and dtype float32 or float64, which stay as they are. Several threads call it.
    n_samples : int
        Number of rows.
    block : int
        Rows that stay in memory while all later ones pass by, a few at a time.
    dtype : numpy dtype
        Of the result.
    n_columns : int, optional
        Only the inner products with the first `n_columns` rows are computed; by default all.
    progress : Progress, optional
        Counts the rows.

    Returns
    -------
    ndarray of `dtype`, shape (n_samples, n_columns)
        The inner products of the rows, less the one vector.
    """
    n_columns = n_samples if n_columns is None else n_columns
    K = np.empty((n_samples, n_columns), dtype)
    threads = available_threads()
    few = max(1, block // (_PASSING * threads))
    if progress is not None:
        progress.begin(sum(n_samples - first for first in range(0, n_columns, block)))
    # Products in several threads wait for each other when one more thread reads. So each
    # thread reads for itself, and multiplies alone.
    reference: NDArray[Any] | None = None
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as workers:
        for first in range(0, n_columns, block):
            last = min(first + block, n_columns)
            starts, stops = _spans(first, last, few)
            staying = np.empty((0, 0))
            for start, X in zip(starts, workers.map(read, starts, stops), strict=True):
                if reference is None:
                    reference = reference_of(X)
                if start == first:
                    staying = np.empty((last - first, X.shape[1]), X.dtype)
                with np.errstate(over="ignore"):  # the diagonal of K shows it
                    np.subtract(X, reference, out=staying[start - first : start - first + len(X)])
                del X
            passing = partial(_pass, read, staying, reference, first, K, progress)
            # What stays passes itself too: only up to each image, the rest is symmetric.
            deque(workers.map(passing, starts, stops), maxlen=0)
            deque(workers.map(passing, *_spans(last, n_samples, few)), maxlen=0)
            del staying, passing  # before the next ones are read
    return K


def reference_of(X: NDArray[Any]) -> NDArray[Any]:
    """Return a vector amid some rows, of their dtype; of equal rows it is the row itself.

    The distance to it must be that between images, not between images and the origin. A few
    rows do for that; one row may be unlike all others.
    """
    some = X[:_N_REFERENCE]
    with np.errstate(over="ignore", invalid="ignore"):  # the diagonal of K shows it
        shift = (some - some[0]).mean(axis=0, dtype=np.float64)
        reference: NDArray[Any] = some[0] + shift.astype(X.dtype)
    return reference


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
    reference: NDArray[Any] | None,
    first: int,
    K: NDArray[Any],
    progress: Progress | None,
    start: int,
    stop: int,
) -> None:
    """Multiply some rows by those that stay, from row `first` on, and enter it in K."""
    last = first + len(staying)
    other = slice(first, min(stop, last))
    with np.errstate(over="ignore", invalid="ignore"):  # the diagonal of K shows it
        if start >= last:
            product = _product(read(start, stop), staying, reference)
        else:
            own = staying[start - first : stop - first]
            product = _product(own, staying[: other.stop - first])
        K[start:stop, other] = product
        mirrored = K[other, start:stop]  # empty beyond the columns
        mirrored[:] = product.T[:, : mirrored.shape[1]]
    if progress is not None:
        progress.advance(stop - start)


def _product(
    X: NDArray[Any], other: NDArray[Any], reference: NDArray[Any] | None = None
) -> NDArray[np.float64]:
    """Multiply two blocks, the first less a reference, a strip of features at a time.

    Strips bound the rounding, and the room that the differences need.
    """
    total = np.zeros((len(X), len(other)))
    for start in range(0, X.shape[1], _STRIP):
        strip = slice(start, start + _STRIP)
        part = X[:, strip] if reference is None else X[:, strip] - reference[strip]
        total += part @ other[:, strip].T
    return total


def standardise(K: NDArray[Any]) -> float:
    """Centre a Gram matrix and scale it to a mean squared length of one, in place.

    Parameters
    ----------
    K : ndarray of float32 or float64, shape (n_samples, n_samples)
        The inner products.

    Returns
    -------
    float
        The mean squared length of a centred row before; 0.0 where the rows do not differ, and K
        is all zero.

    Raises
    ------
    TrainingError
        An inner product overflows.
    """
    centre(K)
    length = _mean_squared_length(K)
    if length > _least_length(K.dtype):
        K /= length
        return length
    K.fill(0)
    return 0.0


def _mean_squared_length(K: NDArray[Any]) -> float:
    with np.errstate(invalid="ignore"):  # infinities of both signs
        length = float(K.diagonal().mean(dtype=np.float64))
    if not np.isfinite(length):
        raise TrainingError(TOO_LARGE)
    return length


def _least_length(dtype: np.dtype[Any]) -> float:
    """Return the squared length below which products underflow."""
    return float(np.finfo(dtype).tiny / np.finfo(dtype).eps)


def centre(K: NDArray[Any]) -> None:
    """Do to a Gram matrix, in place, what subtracting the mean row does to its rows."""
    with np.errstate(over="ignore", invalid="ignore"):  # the diagonal shows it
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
        R of the module's text, lower triangular; or one column of zeros where the images do not
        differ.

    Raises
    ------
    TrainingError
        An inner product overflows, or no images have these inner products.
    """
    mean = _mean_squared_length(K)
    if mean <= _least_length(K.dtype):
        return np.zeros((len(K), 1), K.dtype)
    diagonal = K.diagonal().copy()
    for jitter in _JITTERS[K.dtype.name]:
        np.fill_diagonal(K, diagonal + jitter * mean)
        try:
            # The transpose of an upper factor lies in memory by rows, as the solver wants it.
            points: NDArray[Any] = scipy.linalg.cholesky(K, lower=False, check_finite=False).T
        except scipy.linalg.LinAlgError:
            continue
        return points
    raise TrainingError(
        "the codes differ too unevenly: some are so large that rounding hides how the others "
        "differ; remove images whose codes are unlike all others, or train by sgd"
    )


def rotate_back(points: NDArray[Any], weights: NDArray[Any]) -> NDArray[Any]:
    """Turn weights on `points`, a column a class, into α, of shape (n_samples, n_classes).

    The rows add up to zero, so that it does not matter whether the images are centred.
    """
    if points.shape[1] < len(points):  # the images do not differ
        return np.zeros((len(points), weights.shape[1]), points.dtype)
    alpha: NDArray[Any] = scipy.linalg.solve_triangular(
        points, weights, lower=True, trans="T", check_finite=False
    )
    alpha -= alpha.mean(axis=0)
    return alpha


def combine(
    blocks: Iterable[tuple[slice, NDArray[Any]]], alpha: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return the weights Xᵀα and the mean row of X.

    Parameters
    ----------
    blocks : iterable of tuple of slice and ndarray
        All rows of X, with their indices. They are not changed.
    alpha : ndarray, shape (n_samples, n_classes)
        Of `rotate_back`: its rows add up to zero.

    Returns
    -------
    weights : ndarray of the dtype of `alpha`, shape (n_features, n_classes)
        Weights of the logits.
    mean : ndarray of float64, shape (n_features,)
        The mean row.
    """
    weights, reference, total = np.zeros((), alpha.dtype), np.zeros(()), np.zeros(())
    for rows, X in blocks:
        if reference.ndim == 0:
            reference = reference_of(X)
        differences = X - reference  # α adds up to zero, so the weights are the same
        weights = weights + differences.T @ alpha[rows]
        total = total + differences.sum(axis=0, dtype=np.float64)
    return weights, reference + total / len(alpha)


def _pieces(X: NDArray[Any], size: int = 256) -> Iterator[tuple[slice, NDArray[Any]]]:
    for start in range(0, len(X), size):
        rows = slice(start, start + size)
        yield rows, X[rows]


class GramLogisticRegression(LinearSoftmax):
    """Multinomial logistic regression with an L2 penalty, quick on many features.

    With fewer samples than features the problem is solved in the space of the samples, which is
    exact; otherwise scikit-learn's LogisticRegression solves it as it is. The module's text
    tells how.

    Parameters
    ----------
    C : float or "auto"
        Inverse strength of the penalty; ``"auto"`` chooses it by log loss in cross-validation.
    Cs : sequence of float
        The strengths that ``"auto"`` tries at first. Where the best of them is the least or the
        greatest, it goes on from there, as `solve` says.
    n_folds : int
        Folds of the cross-validation.
    class_weight : dict, "balanced" or None
        As in scikit-learn.
    max_iter : int
        Iterations at most.
    tol : float
        Where the solver stops, as in scikit-learn, whose default is ten times as much.
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
        Mean log loss of each strength in cross-validation; empty unless C is ``"auto"``.
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
        tol: float = SOLVER_TOLERANCE,
        random_state: Any = None,
    ) -> None:
        self.C = C
        self.Cs = Cs
        self.n_folds = n_folds
        self.class_weight = class_weight
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def fit(
        self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None
    ) -> GramLogisticRegression:
        """Train.

        Parameters
        ----------
        X : array-like, shape (n_samples, n_features)
            Codes.
        y : array-like, shape (n_samples,)
            Classes.
        groups : array-like, shape (n_samples,), optional
            Samples of the same group are in the same fold of the cross-validation.

        Returns
        -------
        GramLogisticRegression
            This estimator.

        Raises
        ------
        ValueError
            A parameter is out of range, there is one class only, or X is not finite.
        TrainingError
            X is so large that its inner products overflow.
        """
        check_strength(self.C, STRENGTH_UNSCALED)
        for each in self.Cs:
            STRENGTH_UNSCALED.check(each, "each of Cs")
        COUNT.check(self.n_folds, "n_folds")
        features: NDArray[Any]
        targets: NDArray[Any]
        features, targets = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(targets)
        self.classes_ = np.unique(targets)
        if len(self.classes_) < 2:
            raise ValueError(f"{len(self.classes_)} class in the data; two or more are needed")
        wide = len(features) < features.shape[1]
        if wide:
            K = gram_matrix(
                lambda start, stop: features[start:stop],
                len(features),
                block=rows_that_stay(features.shape[1], features.itemsize),
                dtype=features.dtype,
            )
            centre(K)
            points = rotate(K)
            del K
        else:
            origin = reference_of(features)
            points = features - origin
        solution = solve(
            points,
            targets,
            new_solver(class_weight=self.class_weight, max_iter=self.max_iter, tol=self.tol),
            C=self.C,
            Cs=self.Cs,
            n_folds=self.n_folds,
            random_state=self.random_state,
            groups=groups,
        )
        weights = solution.weights
        if wide:
            weights, origin = combine(_pieces(features), rotate_back(points, weights))
        shift = origin.astype(np.float64) @ weights.astype(np.float64)
        self.coef_ = weights.T
        self.intercept_ = (solution.intercept - shift).astype(weights.dtype)
        self.C_, self.scores_ = solution.C, solution.scores
        self.n_iter_ = solution.n_iterations
        return self
