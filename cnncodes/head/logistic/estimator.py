"""Logistic regression by way of the Gram matrix as a scikit-learn estimator on arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from cnncodes.head.linear import LinearSoftmax
from cnncodes.head.logistic.gram import (
    combine,
    gram_matrix,
    reference_of,
    rows_that_stay,
    solve_gram,
)
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

        def solved(points: NDArray[Any]) -> Solution:
            return solve(
                points,
                targets,
                new_solver(class_weight=self.class_weight, max_iter=self.max_iter, tol=self.tol),
                C=self.C,
                Cs=self.Cs,
                n_folds=self.n_folds,
                random_state=self.random_state,
                groups=groups,
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
