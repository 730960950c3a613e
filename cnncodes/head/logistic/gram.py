"""Logistic regression on many more features than images, exactly, by way of the Gram matrix.

With an L2 penalty the optimal weights of a linear classifier are a combination of the training
images: W = Xᵀα (the representer theorem: Kimeldorf and Wahba, "Some results on Tchebycheffian
spline functions", J. Math. Anal. Appl. 33, 1971; Schölkopf, Herbrich and Smola, "A generalized
representer theorem", COLT 2001). So n images in d ≫ n dimensions are n points in at most n
dimensions, and the problem is solved there:

1. K = X Xᵀ, the n × n Gram matrix, is computed block by block (`gram_matrix`); nothing of size
   n × d is ever in memory. X is first moved near the origin: otherwise rounding removes the
   differences between images that have much in common.
2. K is centred exactly, which is what centring X does to it (`centre`).
3. K + εI = R Rᵀ (Cholesky, `rotate`). The rows of R have the same inner products as the images,
   so a penalised linear problem has the same optimum on R as on X. ε keeps K positive definite
   despite rounding and duplicate images; it is `_JITTERS` of the mean of K's diagonal.
4. scikit-learn's LogisticRegression is fitted on R, with weights V. Then α = R⁻ᵀ V.

`solve_gram` does steps 2 to 4. Folds of a cross-validation are rows of R, and every strength of
the penalty uses the same R, so both come at the cost of a fit in n dimensions.

Limits: n² numbers must fit in memory twice, and with n ≥ d there is nothing to gain: then the
problem is solved on X itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from cnncodes.errors import TrainingError
from cnncodes.head.logistic.solve import Solution
from cnncodes.head.scaling import TOO_LARGE
from cnncodes.machine import available_threads
from cnncodes.progress import NoProgress, Progress

# Improves weights of points, and their intercept, to those of rows: called with the points, the
# solution, the coefficients α of the points and ε of the module's docstring; returns α, intercept.
Refine = Callable[[NDArray[Any], Solution, NDArray[Any], float], tuple[NDArray[Any], NDArray[Any]]]
Read = Callable[[int, int], NDArray[Any]]

BLOCK_BYTES = 384 * 2**20  # of the stationary block
_STREAMED = 3  # streamed rows use a third of the memory of the stationary ones
_STRIP = 4096  # features multiplied at once
_N_REFERENCE = 64
_JITTERS = {"float64": (1e-9, 1e-7, 1e-5, 1e-3), "float32": (1e-5, 1e-4, 1e-3)}


def gram_matrix(
    read: Read,
    n_samples: int,
    *,
    block: int,
    n_columns: int | None = None,
    dtype: Any = np.float64,
    progress: Progress | None = None,
) -> NDArray[Any]:
    """Compute the inner products of rows with each other, one pair of blocks at a time.

    One vector, `reference_of` the first rows, is subtracted from every row. Neither centring nor
    coefficients that add up to zero depend on it, but rounding does.

    Parameters
    ----------
    read : callable
        ``read(start, stop)`` returns rows `start` to `stop`, of shape (stop − start, n_features)
        and dtype float32 or float64, which are not changed. Several threads call it.
    n_samples : int
        Number of rows.
    block : int
        Rows that stay in memory while all later ones are streamed past them.
    n_columns : int, optional
        Multiply all rows with the first `n_columns` only, such as training and test rows with
        the training rows; by default with all.
    dtype : numpy dtype
        Of the result.
    progress : Progress, optional
        Counts the rows.

    Returns
    -------
    ndarray of `dtype`, shape (n_samples, n_columns)
        The inner products of the rows, less the one vector.
    """
    progress = progress or NoProgress()
    n_columns = n_samples if n_columns is None else n_columns
    K = np.empty((n_samples, n_columns), dtype)
    threads = available_threads()
    few = max(1, block // (_STREAMED * threads))
    progress.begin(sum(n_samples - first for first in range(0, n_columns, block)))
    # Products in several threads wait for each other when one more thread reads. So each
    # thread reads for itself, and multiplies alone.
    reference: NDArray[Any] | None = None
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as workers:
        for first in range(0, n_columns, block):
            last = min(first + block, n_columns)
            starts, stops = _spans(first, last, few)
            stationary = np.empty((0, 0))
            for start, X in zip(starts, workers.map(read, starts, stops), strict=True):
                if reference is None:
                    reference = reference_of(X)
                if start == first:
                    stationary = np.empty((last - first, X.shape[1]), X.dtype)
                part = stationary[start - first : start - first + len(X)]
                with np.errstate(over="ignore"):  # the diagonal of K shows it
                    np.subtract(X, reference, out=part)
                del X
            stream = partial(_stream, read, stationary, reference, first, K, progress)
            # The stationary rows are streamed too: only up to each row, the rest is symmetric.
            deque(workers.map(stream, starts, stops), maxlen=0)
            for begin, end in ((last, n_columns), (n_columns, n_samples)):
                deque(workers.map(stream, *_spans(begin, end, few)), maxlen=0)
            del stationary, part, stream  # before the next ones are read
    return K


def reference_of(X: NDArray[Any]) -> NDArray[Any]:
    """Return the mean of the first rows, in their dtype; of equal rows it is the row itself.

    Distances to it are of the size of those between images. That needs a few rows, since one row
    may be unlike all others.
    """
    some = X[:_N_REFERENCE]
    with np.errstate(over="ignore", invalid="ignore"):  # the diagonal of K shows it
        shift = (some - some[0]).mean(axis=0, dtype=np.float64)
        reference: NDArray[Any] = some[0] + shift.astype(X.dtype)
    return reference


def rows_that_stay(n_features: int, itemsize: int = 4) -> int:
    """Return the `block` of `gram_matrix` for rows of `n_features` numbers."""
    return max(1, BLOCK_BYTES // (n_features * itemsize))


def _spans(start: int, stop: int, size: int) -> tuple[Sequence[int], Sequence[int]]:
    """Cut a range into pieces; return where they start and stop."""
    starts = range(start, stop, size)
    return starts, [*starts[1:], stop] if len(starts) else []


def _stream(
    read: Read,
    stationary: NDArray[Any],
    reference: NDArray[Any] | None,
    first: int,
    K: NDArray[Any],
    progress: Progress,
    start: int,
    stop: int,
) -> None:
    """Multiply rows `start` to `stop` with the stationary ones, whose first is `first`."""
    last = first + len(stationary)
    other = slice(first, min(stop, last))
    with np.errstate(over="ignore", invalid="ignore"):  # the diagonal of K shows it
        if start >= last:
            product = _product(read(start, stop), stationary, reference)
        else:
            own = stationary[start - first : stop - first]
            product = _product(own, stationary[: other.stop - first])
        K[start:stop, other] = product
        if start < K.shape[1]:
            K[other, start:stop] = product.T
    progress.advance(stop - start)


def _product(
    X: NDArray[Any], other: NDArray[Any], reference: NDArray[Any] | None = None
) -> NDArray[np.float64]:
    """Multiply two blocks, the first less a reference, a strip of features at a time.

    Strips bound the rounding, and the memory of the differences.
    """
    total = np.zeros((len(X), len(other)))
    for start in range(0, X.shape[1], _STRIP):
        strip = slice(start, start + _STRIP)
        part = X[:, strip] if reference is None else X[:, strip] - reference[strip]
        total += part @ other[:, strip].T
    return total


@dataclass(frozen=True)
class GramFit:
    """A linear model fitted to rows X of which only the inner products are known.

    Attributes
    ----------
    solution : Solution
        The fit on the points of `rotate`.
    alpha : ndarray, shape (n_samples, n_classes)
        The weights on X are Xᵀα. The rows of α add up to zero, so that it does not matter
        whether X is centred.
    logits : ndarray, shape (n_samples, n_classes)
        Of the rows; may overflow.
    means : ndarray of float64, shape (n_samples,)
        Inner product of each row with the mean row.
    squared_length : float
        Mean squared length of a centred row; 0.0 where the rows do not differ.
    """

    solution: Solution
    alpha: NDArray[Any]
    logits: NDArray[Any]
    means: NDArray[np.float64]
    squared_length: float


def solve_gram(
    K: NDArray[Any],
    solver: Callable[[NDArray[Any]], Solution],
    *,
    scaled: bool = True,
    before: Callable[[NDArray[Any]], None] | None = None,
    refine: Refine | None = None,
) -> GramFit:
    """Fit a linear model with an L2 penalty to rows of which the inner products are known.

    Parameters
    ----------
    K : ndarray of float32 or float64, shape (n_samples, n_samples)
        The inner products, from whose rows any one vector may be subtracted; overwritten.
    solver : callable
        Fits points of shape (n_samples, n_dimensions), as `solve` does.
    scaled : bool
        Whether the penalty is that on rows of mean squared length one, as `Scaling` makes them;
        otherwise on the rows as they are. α applies to the rows as they are in both cases.
    before : callable, optional
        Called with K, centred and scaled, before points overwrite it.
    refine : callable, optional
        Improves the fit to that of inner products K without ε, as `Refine`.

    Returns
    -------
    GramFit
        The model.

    Raises
    ------
    TrainingError
        An inner product overflows, or no rows have these inner products.
    """
    means = centre(K)
    squared_length = scale(K) if scaled else _mean_squared_length(K)
    if before is not None:
        before(K)
    points, jitter = rotate(K)
    solution = solver(points)
    weights = solution.weights.astype(K.dtype)
    alpha = rotate_back(points, weights)
    if refine is not None and points.shape[1] == len(points):
        alpha, intercept = refine(points, solution, alpha, jitter)
        alpha = alpha.astype(K.dtype)
        solution = replace(solution, intercept=intercept)
    if scaled:
        alpha /= K.dtype.type(squared_length or 1.0)
    with np.errstate(over="ignore", invalid="ignore"):
        logits = points @ weights + solution.intercept.astype(K.dtype)
    return GramFit(solution, alpha, logits, means, squared_length)


def centre(K: NDArray[Any]) -> NDArray[np.float64]:
    """Subtract the mean row of X from its rows, in the Gram matrix of X and in place.

    Returns
    -------
    ndarray of float64, shape (n_samples,)
        The mean of each column before, which is the inner product of a row with the mean row.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # the diagonal shows it
        means: NDArray[np.float64] = K.mean(axis=0, dtype=np.float64)
        K -= means.astype(K.dtype)
        K -= (means - means.mean()).astype(K.dtype)[:, np.newaxis]
    return means


def scale(K: NDArray[Any]) -> float:
    """Scale a centred Gram matrix to a mean squared length of one, in place.

    Returns
    -------
    float
        The mean squared length of a row before; 0.0 where the rows do not differ, and K is all
        zero.

    Raises
    ------
    TrainingError
        An inner product overflows.
    """
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


def rotate(K: NDArray[Any]) -> tuple[NDArray[Any], float]:
    """Compute points in n dimensions that have the inner products K.

    Parameters
    ----------
    K : ndarray of float32 or float64, shape (n_samples, n_samples)
        The inner products; the points overwrite them, so that a fit needs n² numbers only.

    Returns
    -------
    points : ndarray of the same dtype and shape
        K, now R of the module's docstring, lower triangular; or one column of zeros where the rows
        do not differ.
    jitter : float
        ε of the docstring.

    Raises
    ------
    TrainingError
        An inner product overflows, or no rows have these inner products.
    """
    mean = _mean_squared_length(K)
    if mean <= _least_length(K.dtype):
        return np.zeros((len(K), 1), K.dtype), 0.0
    diagonal = K.diagonal().copy()
    for jitter in _JITTERS[K.dtype.name]:
        np.fill_diagonal(K, diagonal + jitter * mean)
        try:
            # The transpose of an upper factor is contiguous by rows, as the solver needs it.
            points: NDArray[Any] = scipy.linalg.cholesky(K, lower=False, check_finite=False).T
        except scipy.linalg.LinAlgError:
            continue
        K[...] = points
        return K, jitter * mean
    raise TrainingError(
        "the codes differ too unevenly: some are so large that rounding hides how the others "
        "differ; remove images whose codes are unlike all others, or train by sgd"
    )


def rotate_back(points: NDArray[Any], weights: NDArray[Any]) -> NDArray[Any]:
    """Convert weights on the points of `rotate`, (n_dimensions, n_classes), to α of `GramFit`."""
    if points.shape[1] < len(points):  # the rows do not differ
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
        Of `GramFit`: its rows add up to zero.

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
