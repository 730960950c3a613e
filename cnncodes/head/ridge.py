"""Least squares with an L2 penalty, on one target per class, and a temperature.

The logits are the ridge regression of the classes' indicators, 1 for the own class and 0 for the
others, on centred codes, with an intercept that is not penalised (scikit-learn's RidgeClassifier
has −1 for 0, which doubles its weights). They are no logarithms of odds; a temperature makes
probabilities of them.

C is chosen by log loss in the cross-validation of the logistic head, so that the two compare. The
temperature is fitted to the logits of fits that each leave one image out: these are as good as
the fit to all images, where those without a fold see a fifth less. Neither takes a fit for each:
with P = (K + αI)⁻¹ − 11ᵀ/(nα), for centred inner products K = X Xᵀ, the residuals that a fit
without the images F has for them are P_FF⁻¹ (P Y)_F; with H = X (XᵀX + αI)⁻¹ Xᵀ + 11ᵀ/n they are
(I − H_FF)⁻¹ (Y − H Y)_F (Cook, "Detection of influential observation in linear regression",
Technometrics 19, 1977, for blocks).

Matrices are factored in the precision of the codes, in the memory that a logistic fit takes;
iterative refinement with residuals in float64 then makes the weights exact (Higham, "Accuracy and
Stability of Numerical Algorithms", 2002, chapter 12).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from cnncodes.errors import TrainingError
from cnncodes.head.logistic.solve import Solution, stratified_folds
from cnncodes.head.temperature import OutOfFold
from cnncodes.head.views import mean_logits

FIRST_C = 1.0  # also where every class has one image, and nothing to validate on
STEP = math.sqrt(10)
MAX_STEPS = 8  # from the first to either side: 1e-4 to 1e4
_N_FOLDS = 5
_BLOCK = 1024  # rows
_ENOUGH, _TOLERATED = 1e-10, 1e-6  # residual, relative to the right-hand side


@dataclass(frozen=True)
class RidgeFit:
    """A fit of least squares, at its temperature.

    Attributes
    ----------
    solution : Solution
        Weights and intercept are divided by the temperature. `scores` are at the temperature that
        is best for each.
    temperature : float
        By which logits were divided.
    calibration_error : dict of str to float
        That of fits that leave one image out, ``before`` and ``after`` the temperature; empty
        where the temperature was chosen before, or nothing could be left out.
    """

    solution: Solution
    temperature: float
    calibration_error: dict[str, float]


class Squares(ABC):
    """Least squares on some images, whose penalty α is still open.

    Parameters
    ----------
    y : ndarray of int32, shape (n_samples,)
        Classes, from 0 on without gaps.
    masses : ndarray of float64, shape (n_samples, n_classes), optional
        How much each image counts for each class where it is trained on; by default 1 for its own.
        An image's squared errors count as much as its masses together, more than nothing, and its
        targets are the masses divided by their sum.

    Attributes
    ----------
    roots : ndarray of float64, shape (n_samples, 1)
        Square roots of the images' weights, by which rows and targets are multiplied.
    """

    def __init__(self, y: NDArray[np.int32], masses: NDArray[np.float64] | None = None) -> None:
        self.y = y
        self.total: float = len(y)
        self.roots = np.ones((len(y), 1))
        self.targets = np.eye(int(y.max()) + 1)[y]
        self.is_weighted = False
        if masses is not None:
            weights = masses.sum(axis=1, keepdims=True)
            self.targets = masses / weights
            self.is_weighted = bool((np.abs(weights - 1) > 1e-12).any())
        if self.is_weighted:
            self.total, self.roots = float(weights.sum()), np.sqrt(weights)
            self.shares = weights[:, 0] / self.total
            self.mean = np.asarray(self.shares @ self.targets)
        else:
            self.mean = self.targets.mean(axis=0)
        self.centred = self.roots * (self.targets - self.mean)

    def intercept(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the logits at the mean of all images, whatever their weights."""
        return self.mean - self._of_centre(weights) if self.is_weighted else self.mean

    @abstractmethod
    def _of_centre(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the logits of the weighted mean of the images, without the intercept."""

    @abstractmethod
    def weights(self, alpha: float) -> NDArray[np.float64]:
        """Return the weights, of images or of dimensions, a column for each class.

        Raises
        ------
        TrainingError
            Rounding hides the solution.
        """

    @abstractmethod
    def residuals(
        self, alpha: float, folds: Sequence[NDArray[np.intp]]
    ) -> NDArray[np.float64] | None:
        """Return targets less logits, those of each fold by a fit without it, times `roots`.

        It is None where rounding hides them.
        """

    def out_of_fold(
        self, alpha: float, folds: Sequence[NDArray[np.intp]], n_averaged: int = 1
    ) -> OutOfFold | None:
        """Return logits of images whose class the other folds have; None without any.

        With `n_averaged` they are means over so many rows, one after the other and in one fold.
        """
        common = np.bincount(self.y)
        kept = [np.zeros(0, np.intp)]
        for held in folds:
            own = np.bincount(self.y[held], minlength=len(common))
            kept.append(np.sort(held[(common > own)[self.y[held]]]))
        scored = np.concatenate(kept)
        residuals = self.residuals(alpha, folds) if len(scored) else None
        if residuals is None:
            return None
        logits = (self.targets - residuals / self.roots)[scored]
        y = self.y[scored].astype(np.intp)
        return OutOfFold(mean_logits(logits, n_averaged), y[::n_averaged])


class DualSquares(Squares):
    """Least squares on images of which the inner products are known.

    Parameters
    ----------
    K : ndarray of float32 or float64, shape (n_samples, n_samples)
        Centred inner products.
    y : ndarray of int32, shape (n_samples,)
        Classes, from 0 on without gaps.
    """

    def __init__(
        self, K: NDArray[Any], y: NDArray[np.int32], masses: NDArray[np.float64] | None = None
    ) -> None:
        super().__init__(y, masses)
        self._K = K
        if self.is_weighted:  # centred by the weighted mean, and the rows weighted
            roots = self.roots.astype(K.dtype)
            self._means = K @ self.shares
            self._K = K - self._means.astype(K.dtype)
            self._K -= (self._means - self.shares @ self._means).astype(K.dtype)[:, np.newaxis]
            self._K *= roots
            self._K *= roots[:, 0]

    def _of_centre(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(self._means @ weights)

    def weights(self, alpha: float) -> NDArray[np.float64]:
        """Return the weights of the images, which have sum zero."""
        dual = _refined(_cholesky(self._K, alpha), self.centred, alpha, self._multiply)
        dual *= self.roots
        dual -= dual.mean(axis=0)
        return dual

    def _multiply(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        blocks = [self._K[span].astype(np.float64) @ x for span in _spans(len(x))]
        return np.concatenate(blocks)

    def residuals(
        self, alpha: float, folds: Sequence[NDArray[np.intp]]
    ) -> NDArray[np.float64] | None:
        """Return the residuals of `Squares.residuals`."""
        factor = _cholesky(self._K, alpha)
        if factor is None:
            return None
        (invert,) = scipy.linalg.get_lapack_funcs(("potri",), (factor,))
        P, failed = invert(factor, lower=1, overwrite_c=1)  # its lower triangle
        if failed:
            return None
        (multiply,) = scipy.linalg.get_blas_funcs(("symm",), (P,))
        product = multiply(1.0, P, self.centred.astype(P.dtype), lower=1)
        result = np.zeros_like(self.targets)
        for held in map(np.sort, folds):  # so that the lower triangle stays one
            common = self.roots[held] * self.roots[held].T / (self.total * alpha)
            block = P[np.ix_(held, held)].astype(np.float64) - common
            result[held] = _solved(block, product[held])
        return result


class PrimalSquares(Squares):
    """Least squares on centred points, of shape (n_samples, n_dimensions).

    Parameters
    ----------
    X : ndarray of float32 or float64, shape (n_samples, n_dimensions)
        Centred points.
    y : ndarray of int32, shape (n_samples,)
        Classes, from 0 on without gaps.
    """

    def __init__(
        self, X: NDArray[Any], y: NDArray[np.int32], masses: NDArray[np.float64] | None = None
    ) -> None:
        super().__init__(y, masses)
        if self.is_weighted:
            self._centre = self.shares @ X
            X = (X - self._centre.astype(X.dtype)) * self.roots.astype(X.dtype)
        self._X = X
        self._products = X.T @ X
        self._right = self._transposed(self.centred)

    def _of_centre(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(self._centre @ weights)

    def weights(self, alpha: float) -> NDArray[np.float64]:
        """Return the weights of the dimensions."""
        factor = _cholesky(self._products, alpha)
        return _refined(factor, self._right, alpha, self._multiply)

    def _multiply(self, w: NDArray[np.float64]) -> NDArray[np.float64]:
        total = np.zeros_like(w)
        for span in _spans(len(self._X)):
            block = self._X[span].astype(np.float64)
            total += block.T @ (block @ w)
        return total

    def _transposed(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return Xᵀ times values of the images."""
        total = np.zeros((self._X.shape[1], values.shape[1]))
        for span in _spans(len(self._X)):
            total += self._X[span].T.astype(np.float64) @ values[span]
        return total

    def residuals(
        self, alpha: float, folds: Sequence[NDArray[np.intp]]
    ) -> NDArray[np.float64] | None:
        """Return the residuals of `Squares.residuals`."""
        factor = _cholesky(self._products, alpha)
        if factor is None:
            return None
        X = self._X
        weights = _back(factor, self._right.astype(X.dtype))
        errors = self.centred - X @ weights
        result = np.zeros_like(self.targets)
        small = [held for held in folds if len(held) <= _BLOCK]
        for batch in _batches(small):
            mapped = _back(factor, X[np.concatenate(batch)].T)
            ends = np.cumsum([len(held) for held in batch])
            for held, stop in zip(batch, ends, strict=True):
                hat = X[held] @ mapped[:, stop - len(held) : stop]
                common = self.roots[held] * self.roots[held].T / self.total
                block = np.eye(len(held)) - hat.astype(np.float64) - common
                result[held] = _solved(block, errors[held])
        for held in folds:
            if len(held) > _BLOCK:
                without = self._residuals_without(alpha, held)
                if without is None:
                    return None
                result[held] = without
        return result

    def _residuals_without(
        self, alpha: float, held: NDArray[np.intp]
    ) -> NDArray[np.float64] | None:
        """Return the residuals of many images, by a fit without them."""
        part, targets, roots = self._X[held], self.centred[held], self.roots[held]
        n = self.total - float((roots**2).sum())
        centre = -(roots * part).sum(axis=0, dtype=np.float64) / n  # of the other images
        mean = -(roots * targets).sum(axis=0) / n
        products = self._products - part.T @ part
        products -= (n * np.outer(centre, centre)).astype(products.dtype)
        right = self._right - part.T @ targets - n * np.outer(centre, mean)
        factor = _cholesky(products, alpha, overwrite=True)
        if factor is None:
            return None
        weights = _back(factor, right.astype(products.dtype))
        residuals: NDArray[np.float64] = (
            targets - roots * mean - (part @ weights - roots * (centre @ weights))
        )
        return residuals


def fit_ridge(
    squares: Squares,
    *,
    C: float | str,
    temperature: float | None = None,
    random_state: Any = None,
    groups: ArrayLike | None = None,
    n_averaged: int = 1,
) -> RidgeFit:
    """Fit least squares, choose the strength of its penalty for ``"auto"``, and its temperature.

    Parameters
    ----------
    squares : Squares
        The images.
    C : float or "auto"
        Inverse strength of the penalty, 1/α in scikit-learn's Ridge; ``"auto"`` chooses it by
        log loss in cross-validation, each at its own temperature.
    temperature : float, optional
        By which logits are divided. By default it has the least log loss of fits that leave one
        image out, or one group.
    random_state : int, RandomState or None
        Seed of the folds.
    groups : array-like, shape (n_samples,), optional
        Images of the same group are left out together.
    n_averaged : int
        As for `solve`; C and temperature are those of the means.

    Returns
    -------
    RidgeFit
        The fit on all images.

    Raises
    ------
    TrainingError
        C is so weak a penalty that rounding hides the solution.
    """
    scores: dict[float, float] = {}
    accuracy = None
    if C == "auto":
        folds = [held for _, held in stratified_folds(squares.y, _N_FOLDS, random_state, groups)]
        C, scores, accuracy = _choose(squares, folds, n_averaged)
    alpha = 1 / float(C)
    weights = squares.weights(alpha)
    errors: dict[str, float] = {}
    if temperature is None:
        single = squares.out_of_fold(alpha, _of_groups(squares.y, groups), n_averaged)
        temperature = 1.0 if single is None else single.temperature()
        if single is not None:
            errors = {
                "before": single.calibration_error(),
                "after": single.calibration_error(temperature),
            }
    solution = Solution(
        weights / temperature,
        squares.intercept(weights) / temperature,
        float(C),
        scores,
        0,
        frozenset(scores),
        accuracy,
    )
    return RidgeFit(solution, temperature, errors)


def _choose(
    squares: Squares, folds: Sequence[NDArray[np.intp]], n_averaged: int
) -> tuple[float, dict[float, float], float | None]:
    """Choose the strength: from the first the search goes on while the log loss falls.

    Returns
    -------
    C : float
        The strength.
    scores : dict of float to float
        Mean log loss of each that was tried, at its temperature.
    accuracy : float or None
        Accuracy of the chosen one; None where nothing can be scored.
    """
    tried: dict[float, tuple[float, float]] = {}

    def loss(step: int) -> float:
        strength = float(f"{FIRST_C * STEP**step:.6g}")
        if strength not in tried:
            each = squares.out_of_fold(1 / strength, folds, n_averaged)
            tried[strength] = (
                (math.inf, 0.0)
                if each is None
                else (each.loss(each.temperature()), each.accuracy())
            )
        return tried[strength][0]

    if math.isinf(loss(0)):
        return FIRST_C, {}, None
    best = 0
    for sign in (1, -1):
        while abs(best + sign) <= MAX_STEPS and loss(best + sign) < loss(best):
            best += sign
        if best:
            break
    scores = {each: tried[each][0] for each in sorted(tried) if math.isfinite(tried[each][0])}
    chosen = min(scores, key=lambda each: scores[each])
    return chosen, scores, tried[chosen][1]


def _of_groups(y: NDArray[np.int32], groups: ArrayLike | None) -> list[NDArray[np.intp]]:
    """Return the images of each group, or each image; nothing where all are of one group."""
    numbers = np.arange(len(y)) if groups is None else np.asarray(groups)
    order = np.argsort(numbers, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)
    return parts if len(parts) > 1 else []


def _cholesky(K: NDArray[Any], alpha: float, *, overwrite: bool = False) -> NDArray[Any] | None:
    """Factor K + αI into L Lᵀ, in L's lower triangle; None where rounding makes it singular."""
    regular = K if overwrite else K.copy()
    np.fill_diagonal(regular, K.diagonal() + K.dtype.type(alpha))
    # The transpose, equal to it, is contiguous by columns, as LAPACK needs it.
    (factor_of,) = scipy.linalg.get_lapack_funcs(("potrf",), (regular,))
    factor, failed = factor_of(regular.T, lower=1, clean=0, overwrite_a=1)
    return None if failed else np.asarray(factor)


def _back(factor: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
    """Solve L Lᵀ x = right."""
    solution: NDArray[Any] = scipy.linalg.cho_solve((factor, True), right, check_finite=False)
    return solution


def _refined(
    factor: NDArray[Any] | None, right: NDArray[np.float64], alpha: float, multiply: Any
) -> NDArray[np.float64]:
    """Solve (K + αI) x = right by a rough factor, where `multiply` multiplies by K in float64."""
    size = float(np.abs(right).max()) or 1.0
    x, error = np.zeros_like(right), math.inf
    while factor is not None:
        residual = right - multiply(x) - alpha * x
        before, error = error, float(np.abs(residual).max()) / size
        if error <= _ENOUGH or not error <= before / 2:  # each step divides it by far more
            break
        x += _back(factor, residual.astype(factor.dtype))
    if not error <= _TOLERATED:
        raise TrainingError(
            f"C = {1 / alpha:g} is so weak a penalty for least squares that rounding hides the "
            "result; use a smaller C, or the estimator logistic"
        )
    return x


def _solved(block: NDArray[np.float64], right: NDArray[Any]) -> NDArray[np.float64]:
    """Solve for one fold, from the lower triangle of a positive definite block."""
    if block.shape == (1, 1):
        return np.asarray(right / block)
    return np.asarray(scipy.linalg.solve(block, right, lower=True, assume_a="pos"))


def _spans(n: int) -> list[slice]:
    return [slice(start, start + _BLOCK) for start in range(0, n, _BLOCK)]


def _batches(folds: Sequence[NDArray[np.intp]]) -> Iterator[list[NDArray[np.intp]]]:
    """Put folds together until they have about `_BLOCK` rows."""
    batch: list[NDArray[np.intp]] = []
    n_rows = 0
    for held in folds:
        batch.append(held)
        n_rows += len(held)
        if n_rows >= _BLOCK:
            yield batch
            batch, n_rows = [], 0
    if batch:
        yield batch
