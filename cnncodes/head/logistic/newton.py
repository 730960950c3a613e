"""Logistic regression on weighted images of doubtful labels, by Newton's method.

An image counts for each class by its mass there: its weight times the probability of the class.
With masses M of row sums m, points X and logits Z = XV + b the weights minimise

    c Σᵢ (mᵢ log Σₖ exp Zᵢₖ − Σₖ Mᵢₖ Zᵢₖ) + ½ ‖V‖²,

where c is C. That is what scikit-learn's LogisticRegression minimises on images that are repeated
once a class, with M as their sample weights. With two classes it has the weights of one logit, and
its penalty on them is twice that on both: there c is C/2.

Newton's equations are solved by conjugate gradients, whose products are computed in the precision
of the points, and each step is halved until the objective falls (Nocedal and Wright, "Numerical
Optimization", 2006, chapter 7). The gradient bounds the error, since the penalty makes the
objective strongly convex.

`refine` removes the error of points that have the inner products K + εI instead of K, those of
`gram.rotate`: optimal weights are Xᵀα with α = c (M − mP), whose probabilities P are those of the
logits Kα + b, and Kα = Xα' − εα, for α' = Xᵀα.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from cnncodes.head.linear import log_softmax

TOLERANCE = 1e-6  # of the weights, relative to their length
MAX_STEPS = 50
_MAX_PRODUCTS = 200  # of one step
_FORCING = 0.03  # what is left of the residual of Newton's equations
_MAX_HALVINGS = 30
_MAX_REFINEMENTS = 5
_ROUNDING = 1e-9  # of the objective: a step that lowers it by less may be rounding alone
_SUFFICIENT = 1e-4  # of the decrease that the gradient promises
Float64 = NDArray[np.float64]


def masses_of(
    y: NDArray[Any],
    n_classes: int,
    weights: NDArray[Any] | None = None,
    probabilities: NDArray[Any] | None = None,
) -> Float64:
    """Return how much each image counts for each class.

    Parameters
    ----------
    y : ndarray of int, shape (n_images,)
        Labels, indices of classes.
    n_classes : int
        Number of classes.
    weights : ndarray, shape (n_images,), optional
        How much each image counts; by default 1.
    probabilities : ndarray, shape (n_images,), optional
        How probable each label is; by default 1. The rest goes evenly to the other classes.

    Returns
    -------
    ndarray of float64, shape (n_images, n_classes)
        The masses; a row adds up to the weight of its image.
    """
    sure = np.ones(len(y)) if probabilities is None else np.asarray(probabilities, np.float64)
    masses = np.repeat(((1 - sure) / max(n_classes - 1, 1))[:, np.newaxis], n_classes, axis=1)
    masses[np.arange(len(y)), y] = sure
    return masses if weights is None else masses * np.asarray(weights, np.float64)[:, np.newaxis]


def weighted_by_class(masses: Float64, class_weight: Any) -> Float64:
    """Multiply masses by the weights of their classes, as scikit-learn does."""
    if class_weight is None:
        return masses
    of_class = masses.sum(axis=0)
    if class_weight == "balanced":
        factors = masses.sum() / ((of_class > 0).sum() * np.where(of_class > 0, of_class, 1))
    else:
        factors = np.array([class_weight.get(number, 1) for number in range(len(of_class))])
    return np.asarray(masses * factors)


@dataclass(frozen=True)
class _Problem:
    """The objective of the module's docstring."""

    points: NDArray[Any]
    masses: Float64
    c: float

    def times(self, weights: Float64, intercept: Float64) -> Float64:
        """Return the logits."""
        product = self.points @ weights.astype(self.points.dtype)
        return np.asarray(product.astype(np.float64) + intercept)

    def transposed(self, values: Float64) -> Float64:
        """Return Xᵀ times values of the images."""
        product = self.points.T @ values.astype(self.points.dtype)
        return np.asarray(product, np.float64)

    def objective(self, logits: Float64, squared_length: float) -> float:
        return float(-self.c * (self.masses * log_softmax(logits)).sum() + squared_length / 2)

    def coefficients(self, logits: Float64) -> tuple[Float64, Float64]:
        """Return the probabilities, and c (M − mP): the images' coefficients at the optimum."""
        probabilities = np.exp(log_softmax(logits))
        total = self.masses.sum(axis=1, keepdims=True)
        return probabilities, self.c * (self.masses - total * probabilities)

    def curvature(self, probabilities: Float64, change: Float64) -> Float64:
        """Return the change of the coefficients, negative, with that of the logits."""
        total = self.masses.sum(axis=1, keepdims=True)
        mean = (probabilities * change).sum(axis=1, keepdims=True)
        return np.asarray(self.c * total * probabilities * (change - mean))

    def step(
        self, probabilities: Float64, right: Float64, right_intercept: Float64
    ) -> tuple[Float64, Float64]:
        """Solve Newton's equations by conjugate gradients."""
        # One number added to all intercepts changes no probability: along it the loss is flat,
        # so what rounding leaves of it is taken out, here and in each product.
        residual = np.vstack([right, right_intercept - right_intercept.mean()])
        x = np.zeros_like(residual)
        direction, square = residual.copy(), float((residual**2).sum())
        enough = _FORCING**2 * square
        for _ in range(_MAX_PRODUCTS):
            if square <= enough:
                break
            change = self.curvature(probabilities, self.times(direction[:-1], direction[-1]))
            slope = change.sum(axis=0)
            product = np.vstack([direction[:-1] + self.transposed(change), slope - slope.mean()])
            bend = float((direction * product).sum())
            if not bend > 0:  # probabilities of 0 and 1: nothing to gain along the intercepts
                break
            size = square / bend
            x += size * direction
            residual -= size * product
            before, square = square, float((residual**2).sum())
            direction = residual + square / before * direction
        return x[:-1], x[-1]

    def is_solved(
        self, right: Float64, right_intercept: Float64, weights: Float64, tolerance: float
    ) -> bool:
        """Return whether a gradient is so small that weights are within the tolerance."""
        length = max(float(np.linalg.norm(weights)), float(np.finfo(np.float32).tiny))
        total = self.c * float(self.masses.sum())
        return (
            float(np.linalg.norm(right)) <= tolerance * length
            and float(np.linalg.norm(right_intercept)) <= tolerance * total
        )


def _problem(points: NDArray[Any], masses: Float64, C: float) -> _Problem:
    return _Problem(points, masses, C / 2 if masses.shape[1] == 2 else C)


def minimise(
    points: NDArray[Any],
    masses: Float64,
    C: float,
    start: tuple[Float64, Float64] | None = None,
    tolerance: float = TOLERANCE,
    flat: float = 0.0,
) -> tuple[Float64, Float64, int]:
    """Fit a logistic regression.

    Parameters
    ----------
    points : ndarray of float32 or float64, shape (n_samples, n_dimensions)
        Images.
    masses : ndarray of float64, shape (n_samples, n_classes)
        How much each counts for each class; every class has some.
    C : float
        Inverse strength of the penalty.
    start : tuple of ndarray, optional
        Weights and intercept to start from; by default zeros.
    tolerance : float
        Largest error of the weights, relative to their length.
    flat : float
        Largest derivative of the mean loss at which the fit ends as well, as ``tol`` of
        scikit-learn's solvers; 0 for the tolerance alone.

    Returns
    -------
    weights : ndarray of float64, shape (n_dimensions, n_classes)
        Weights of the logits.
    intercept : ndarray of float64, shape (n_classes,)
        Bias of the logits.
    n_steps : int
        Steps that were made, fewer than the tolerance wants where rounding hides their effect.
    """
    problem, n_classes = _problem(points, masses, C), masses.shape[1]
    weights, intercept = start or (np.zeros((points.shape[1], n_classes)), np.zeros(n_classes))
    logits = problem.times(weights, intercept)
    least, fell = problem.c * float(masses.sum()) * flat, np.inf
    length = np.inf
    for n_steps in range(MAX_STEPS):
        probabilities, coefficients = problem.coefficients(logits)
        right = problem.transposed(coefficients) - weights
        right_intercept = coefficients.sum(axis=0)
        if problem.is_solved(right, right_intercept, weights, tolerance):
            return weights, intercept, n_steps
        if max(np.abs(right).max(), np.abs(right_intercept).max()) <= least:
            return weights, intercept, n_steps
        # Near the optimum a step leaves a small part of the gradient, unless that is rounding.
        norms = np.linalg.norm(right), np.linalg.norm(right_intercept)
        length, previous = float(np.hypot(*norms)), length
        if fell <= _ROUNDING and length > previous / 2:
            return weights, intercept, n_steps
        step, shift = problem.step(probabilities, right, right_intercept)
        change = problem.times(step, shift)
        promised = float((right * step).sum() + right_intercept @ shift)
        before = problem.objective(logits, float((weights**2).sum()))
        size = 1.0
        for _ in range(_MAX_HALVINGS):
            trial = weights + size * step
            after = problem.objective(logits + size * change, float((trial**2).sum()))
            if after <= before - _SUFFICIENT * size * promised + 1e-12 * abs(before):
                break
            size /= 2
        fell = (before - after) / max(abs(before), 1e-300)
        weights, intercept = weights + size * step, intercept + size * shift
        logits = problem.times(weights, intercept)
    return weights, intercept, MAX_STEPS


def refine(
    points: NDArray[Any],
    masses: Float64,
    C: float,
    weights: NDArray[Any],
    intercept: NDArray[Any],
    alpha: NDArray[Any],
    jitter: float,
) -> tuple[Float64, Float64]:
    """Improve a fit on the points of `gram.rotate` to that on the images themselves.

    Parameters
    ----------
    points : ndarray, shape (n_samples, n_samples)
        Points of the inner products K + `jitter` · I.
    masses : ndarray of float64, shape (n_samples, n_classes)
        As for `minimise`.
    C : float
        Inverse strength of the penalty.
    weights, intercept, alpha : ndarray
        A fit on the points: their weights and intercept, and the coefficients of the images.
    jitter : float
        What the diagonal has too much.

    Returns
    -------
    alpha : ndarray of float64, shape (n_samples, n_classes)
        Coefficients of the images, whose columns have sum zero.
    intercept : ndarray of float64, shape (n_classes,)
        Bias of the logits.
    """
    problem = _problem(points, masses, C)
    V, b, a = weights.astype(np.float64), intercept.astype(np.float64), alpha.astype(np.float64)
    best, least = (a, b), np.inf
    for _ in range(_MAX_REFINEMENTS):
        with np.errstate(over="ignore", invalid="ignore"):  # not less, so not kept
            probabilities, wanted = problem.coefficients(problem.times(V, b) - jitter * a)
            right, right_intercept = problem.transposed(wanted - a), wanted.sum(axis=0)
            error = float(np.hypot(np.linalg.norm(right), np.linalg.norm(right_intercept)))
        if not error < least:
            break
        best, least = (a, b), error
        if problem.is_solved(right, right_intercept, V, TOLERANCE):
            break
        step, shift = problem.step(probabilities, right, right_intercept)
        a = wanted - problem.curvature(probabilities, problem.times(step, shift))
        a -= a.mean(axis=0)
        V, b = problem.transposed(a), b + shift
    return best


class SoftLogisticRegression(LogisticRegression):  # type: ignore[misc]
    """Logistic regression on the masses of images, with the parameters C, class_weight and tol.

    The latter is the largest derivative of the mean loss, as in scikit-learn, or ten times the
    largest error of the weights, relative to their length.
    """

    coef_: NDArray[Any]
    intercept_: NDArray[Any]

    def fit(self, X: NDArray[Any], masses: Float64) -> SoftLogisticRegression:
        """Fit to points; `classes_` are the columns of `masses` that have some."""
        classes = np.flatnonzero(masses.sum(axis=0) > 0)
        start = None
        if self.warm_start and np.array_equal(getattr(self, "classes_", ()), classes):
            start = (self.coef_.T, self.intercept_)
        kept = weighted_by_class(masses, self.class_weight)[:, classes]
        weights, self.intercept_, n_steps = minimise(
            X, kept, float(self.C), start, tolerance=self.tol / 10, flat=self.tol
        )
        self.classes_, self.coef_ = classes, weights.T
        self.n_iter_, self.n_features_in_ = np.array([n_steps]), X.shape[1]
        return self
