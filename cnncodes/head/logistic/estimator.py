"""Logistic regression by way of the Gram matrix as a scikit-learn estimator on arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_array, validate_data

from cnncodes.head.linear import LinearSoftmax
from cnncodes.head.logistic.gram import (
    combine,
    gram_matrix,
    reference_of,
    rows_that_stay,
    solve_gram,
)
from cnncodes.head.logistic.newton import masses_of
from cnncodes.head.logistic.solve import (
    DEFAULT_CS,
    MAX_ITERATIONS,
    SOLVER_TOLERANCE,
    Solution,
    check_strength,
    new_solver,
    solve,
)
from cnncodes.parameters import COUNT, STRENGTH_UNSCALED


def _pieces(X: NDArray[Any], size: int = 256) -> Iterator[tuple[slice, NDArray[Any]]]:
    for start in range(0, len(X), size):
        rows = slice(start, start + size)
        yield rows, X[rows]


def _masses(
    features: NDArray[Any],
    labels: NDArray[Any],
    sample_weight: ArrayLike | None,
    targets: ArrayLike | None,
) -> NDArray[np.float64]:
    """Return how much each sample counts for each class of the labels.

    Raises
    ------
    ValueError
        A weight or a probability is below 0 or not finite, or there are more or fewer of them than
        of samples and classes.
    """
    weights: NDArray[np.float64] = _check_sample_weight(
        sample_weight, features, dtype=np.float64, ensure_non_negative=True
    )
    classes, numbers = np.unique(labels, return_inverse=True)
    if targets is None:
        return masses_of(numbers, len(classes), weights)
    probabilities = check_array(targets, dtype=np.float64)
    if probabilities.shape != (len(labels), len(classes)):
        raise ValueError(
            f"targets must have the shape {(len(labels), len(classes))}, a column for each class "
            f"in y, not {probabilities.shape}"
        )
    if probabilities.min() < 0 or np.abs(probabilities.sum(axis=1) - 1).max() > 1e-6:
        raise ValueError("targets must be probabilities, of which each row adds up to 1")
    return np.asarray(probabilities * weights[:, np.newaxis])


class GramLogisticRegression(LinearSoftmax):
    """Multinomial logistic regression with an L2 penalty, quick on many features.

    With fewer samples than features the problem is solved in the space of the samples, which is
    exact; otherwise scikit-learn's LogisticRegression solves it as it is. `gram` describes the
    method.

    Parameters
    ----------
    C : float or "auto"
        Inverse strength of the penalty, on X as it is, as in scikit-learn; ``"auto"`` chooses it by
        log loss in cross-validation. The C of ``cnncodes train`` is that on codes scaled to a mean
        squared length of one: divide it by ``((X - X.mean(0)) ** 2).sum(1).mean()`` for the same
        head here.
    Cs : sequence of float
        The strengths that ``"auto"`` tries first, as in `solve`.
    n_folds : int
        Folds of the cross-validation.
    class_weight : dict, "balanced" or None
        As in scikit-learn.
    max_iter : int
        Maximum number of iterations.
    tol : float
        Tolerance of the solver, as in scikit-learn, whose default is ten times as much.
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
        self,
        X: ArrayLike,
        y: ArrayLike,
        groups: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        targets: ArrayLike | None = None,
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
        sample_weight : array-like, shape (n_samples,), optional
            How much each sample counts in training; by default 1. In the cross-validation all
            count 1 where they are tested.
        targets : array-like, shape (n_samples, n_classes), optional
            How probable each class is, in the sorted order of the classes in `y`; by default each
            sample is of its class in `y`, of which it is in any case where it is tested.

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
        labels: NDArray[Any]
        features, labels = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(labels)
        masses = None
        if sample_weight is not None or targets is not None:
            masses = _masses(features, labels, sample_weight, targets)
            counting = np.flatnonzero(masses.any(axis=1))
            features, labels, masses = features[counting], labels[counting], masses[counting]
            groups = None if groups is None else np.asarray(groups)[counting]
            masses = masses[:, masses.any(axis=0)]
        self.classes_ = np.unique(labels)
        if masses is not None and masses.shape[1] != len(self.classes_):
            raise ValueError("a class has probability, but no sample in y with a weight above 0")
        if len(self.classes_) < 2:
            raise ValueError(f"{len(self.classes_)} class in the data; two or more are needed")

        def solved(points: NDArray[Any]) -> Solution:
            return solve(
                points,
                labels,
                new_solver(class_weight=self.class_weight, max_iter=self.max_iter, tol=self.tol),
                C=self.C,
                Cs=self.Cs,
                n_folds=self.n_folds,
                random_state=self.random_state,
                groups=groups,
                masses=masses,
            )

        if len(features) < features.shape[1]:
            K = gram_matrix(
                lambda start, stop: features[start:stop],
                len(features),
                block=rows_that_stay(features.shape[1], features.itemsize),
                dtype=features.dtype,
            )
            fit = solve_gram(K, solved, scaled=False)
            solution = fit.solution
            weights, origin = combine(_pieces(features), fit.alpha)
        else:
            origin = reference_of(features)
            solution = solved(features - origin)
            weights = solution.weights
        shift = origin.astype(np.float64) @ weights.astype(np.float64)
        self.coef_ = weights.T
        self.intercept_ = (solution.intercept - shift).astype(weights.dtype)
        self.C_, self.scores_ = solution.C, solution.scores
        self.n_iter_ = solution.n_iterations
        return self
