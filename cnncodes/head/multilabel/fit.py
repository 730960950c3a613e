"""C, weights and thresholds of all labels, by one Gram matrix and one cross-validation.

Codes are centred and scaled as for `head.logistic.fit`, and an image whose label is unknown is
left out of that label's loss and threshold alone.

Every label has a C of its own: the smallest whose log loss in cross-validation is the lowest, but
for 1 % of it. Of ten labels, one may want a hundred times the C of another (docs/labels.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.metrics import precision_recall_curve
from sklearn.utils.class_weight import compute_sample_weight
from threadpoolctl import threadpool_limits

from cnncodes.head.logistic.gram import (
    centre,
    combine,
    gram_matrix,
    rotate,
    rotate_back,
    rows_that_stay,
    scale,
)
from cnncodes.head.logistic.solve import DEFAULT_CS, FALLBACK_C, stratified_folds
from cnncodes.head.multilabel.newton import MAX_STEPS, Problems
from cnncodes.head.rows import CodeRows
from cnncodes.head.scaling import Scaling, notes_on_spread, read_all
from cnncodes.head.views import mean_logits
from cnncodes.machine import available_threads
from cnncodes.progress import NoProgress, Progress
from cnncodes.text import listed, shown

N_FOLDS = 5
N_BEYOND = 4  # strengths beyond either end of the grid
TOLERANCE = 0.01  # of a log loss: a lower one is worth a weaker penalty if it is lower by more
DEFAULT_THRESHOLD = 0.5  # where cross-validation has no image with the label
# Relative errors of weights: where only a threshold depends on them, in the choice of C, and in
# the end.
NEAR, VALIDATED, EXACT = 1e-2, 1e-3, 1e-7
EXACT_BYTES = 2**29  # of points in float64; more are fitted in float32


@dataclass(frozen=True)
class LabelFit:
    """Logistic regressions of several labels.

    Attributes
    ----------
    weights : ndarray of float32, shape (n_features, n_labels)
        Weights of the logits, on codes as they are.
    bias : ndarray of float32, shape (n_labels,)
        Bias of the logits.
    thresholds : tuple of float
        For each label the probability from which an image has it.
    fitted : dict
        ``C``, a list with that of each label, and ``n_iterations``.
    notes : list of str
        Notes on the fit, for the user.
    """

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    thresholds: tuple[float, ...]
    fitted: dict[str, Any]
    notes: list[str]


def fit_labels(
    rows: CodeRows,
    targets: NDArray[np.bool_],
    known: NDArray[np.bool_],
    names: Sequence[str],
    *,
    C: float | str | Sequence[float] = "auto",
    thresholds: Sequence[float] | None = None,
    class_weight: str | None = None,
    groups: NDArray[np.intp] | None = None,
    n_averaged: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> LabelFit:
    """Fit a logistic regression with an L2 penalty for each label, and choose its threshold.

    Parameters
    ----------
    rows : CodeRows
        The training images.
    targets, known : ndarray of bool, shape (n_images, n_labels)
        Which images have each label, and of which that is known. Among these, each label has
        images with it and without.
    names : sequence of str
        The labels, for notes.
    C : float, "auto" or sequence of float
        Inverse strength of the penalty on standardised codes; ``"auto"`` chooses that of each
        label by log loss in cross-validation.
    thresholds : sequence of float, optional
        Those of a fit on other images, with C from it too; then nothing is cross-validated.
    class_weight : "balanced" or None
        Whether images with a label weigh as much, together, as those without.
    groups : ndarray of intp, shape (n_images,), optional
        Images of the same group are in the same fold of the cross-validation.
    n_averaged : int
        Number of rows, one after the other, that are views of one image, of one group. It is
        tested by the mean of their logits.
    seed : int
        Seed of the folds.
    progress : Progress, optional
        Counts rows of the Gram matrix, then fits of the cross-validation.

    Returns
    -------
    LabelFit
        The weights are those of scikit-learn's ``OneVsRestClassifier(LogisticRegression())`` on
        standardised codes, to a millionth.

    Raises
    ------
    TrainingError
        Codes are not finite, or so large that they cannot be squared.
    """
    progress = progress or NoProgress()
    by_gram = len(rows) < rows.n_features
    dtype = dtype_of_points(len(rows), rows.n_features)
    if by_gram:
        block = rows_that_stay(rows.n_features)
        K = gram_matrix(rows.read, len(rows), block=block, dtype=dtype, progress=progress)
        centre(K)
        length = scale(K) or 1.0
        points, _ = rotate(K)
    else:
        scaling = Scaling.of(X for _, X in rows.blocks())
        X = read_all(rows)
        scaling.apply(X)
        points = np.asarray(X, dtype)
    single = points.astype(np.float32, copy=False)
    validation = None
    if thresholds is None:
        validation = _Validation(
            single, targets, known, class_weight, groups, n_averaged, seed, progress
        )
    if validation is not None and C == "auto":
        strengths = validation.choose()
    else:
        strengths = np.broadcast_to(np.asarray(C, float), len(names))
    sample_weights = _sample_weights(targets, known, class_weight)
    solved_weights, solved_bias, n_steps = _solve(
        single, points, targets, sample_weights, strengths
    )
    taken = list(thresholds or ())
    if validation is not None:
        if C != "auto":
            validation.score_near(solved_weights, solved_bias, float(strengths[0]))
        probabilities = validation.probabilities(strengths)
        tested = targets[::n_averaged], known[::n_averaged]
        columns = zip(probabilities.T, *(each.T for each in tested), strict=True)
        taken = [best_threshold(*each) for each in columns]
    is_open = np.flatnonzero(n_steps[-1] >= MAX_STEPS)
    if by_gram:
        alpha = rotate_back(points, solved_weights) / points.dtype.type(length)
        with threadpool_limits(1, "blas"):  # the other threads are better used for reading
            weights, mean = combine(rows.blocks(), alpha)
        spread = math.sqrt(length)
        weights = weights.astype(np.float32)
        bias = (solved_bias - mean @ weights.astype(np.float64)).astype(np.float32)
    else:
        weights, bias = scaling.fold(solved_weights, solved_bias)
        mean, spread = scaling.mean.astype(np.float64), scaling.spread
    return LabelFit(
        weights,
        bias,
        tuple(float(f"{each:.6g}") for each in taken),
        {"C": [float(each) for each in strengths], "n_iterations": int(n_steps.sum(axis=0).max())},
        notes_on_spread(mean, spread)
        + _notes_on_steps([names[label] for label in is_open.tolist()]),
    )


def dtype_of_points(n_rows: int, n_features: int) -> np.dtype[Any]:
    """Return the dtype of the points: float64, unless they would take too much memory in it."""
    n_bytes = 8 * n_rows * min(n_rows, n_features)
    return np.dtype(np.float64 if n_bytes <= EXACT_BYTES else np.float32)


def _solve(
    single: NDArray[np.float32],
    points: NDArray[Any],
    targets: NDArray[np.bool_],
    sample_weights: NDArray[np.float64],
    strengths: NDArray[np.float64],
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.intp]]:
    """Solve the problems of all labels on points in float32, then on the same in float64.

    Also returns the number of steps of each label in either, of shape (2, n_labels).
    """

    def solve(which: NDArray[np.intp]) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.intp]]:
        problems = Problems.of(single, targets[:, which], sample_weights[:, which])
        n_steps = [problems.solve(strengths[which], tolerance=VALIDATED)] * 2
        if points.dtype == np.float64:
            problems = problems.on(points)
            n_steps[1] = problems.solve(strengths[which], tolerance=EXACT)
        else:
            n_steps[0] = 0
        return problems.weights, problems.bias, np.repeat([n_steps], len(which), axis=0).T

    threads = available_threads()
    some = [each for each in np.array_split(np.arange(len(strengths)), threads) if len(each)]
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as workers:
        parts = list(workers.map(solve, some))
    weights, bias, n_steps = zip(*parts, strict=True)
    return (
        np.concatenate(weights, axis=1),
        np.concatenate(bias),
        np.concatenate(n_steps, axis=1),
    )


def best_threshold(
    probabilities: NDArray[Any], targets: NDArray[np.bool_], known: NDArray[np.bool_]
) -> float:
    """Return the probability from which taking images to have a label has the highest F1.

    It is in the middle between the least probability above it and the greatest below.

    Parameters
    ----------
    probabilities : ndarray, shape (n_images,)
        Those of heads that have not seen the image; NaN where there is none.
    targets, known : ndarray of bool, shape (n_images,)
        Which images have the label, and of which that is known.

    Returns
    -------
    float
        `DEFAULT_THRESHOLD` where no image with the label has a probability.
    """
    scored = known & np.isfinite(probabilities)
    p, y = probabilities[scored].astype(np.float64), targets[scored]
    if not y.any():
        return DEFAULT_THRESHOLD
    precision, recall, thresholds = precision_recall_curve(y, p)
    with np.errstate(invalid="ignore"):  # 0 / 0 where nothing is right
        f1 = np.nan_to_num(2 * precision * recall / (precision + recall))[:-1]
    least = thresholds[int(f1.argmax())]
    below = p[p < least]
    return float((least + (below.max() if len(below) else 0.0)) / 2)


def _sample_weights(
    targets: NDArray[np.bool_], known: NDArray[np.bool_], class_weight: str | None
) -> NDArray[np.float64]:
    """Return the weight of each image in the loss of each label, 0 where it is unknown."""
    weights = known.astype(np.float64)
    if class_weight is not None:
        for label, rows in enumerate(known.T):
            balanced = compute_sample_weight(class_weight, targets[rows, label])
            weights[rows, label] = balanced
    return weights


class _Validation:
    """The cross-validation of all labels, each with folds of its own.

    Parameters
    ----------
    points : ndarray of float32, shape (n_rows, n_dimensions)
        The rows.
    targets, known, class_weight, groups, n_averaged, seed, progress
        As for `fit_labels`.

    Attributes
    ----------
    held_out : dict of float to ndarray of float32, shape (n_images, n_labels)
        For each C the logits of fits that have not seen the image; NaN where there is none.
    """

    def __init__(
        self,
        points: NDArray[np.float32],
        targets: NDArray[np.bool_],
        known: NDArray[np.bool_],
        class_weight: str | None,
        groups: NDArray[np.intp] | None,
        n_averaged: int,
        seed: int,
        progress: Progress,
    ) -> None:
        self._points, self._targets, self._progress = points, targets, progress
        self._n_averaged = n_averaged
        self._weights = _sample_weights(targets, known, class_weight)
        self._fold_of = _fold_of(targets, known, groups, seed)
        self._weights_of = [
            _sample_weights(targets, known & (self._fold_of != fold), class_weight)
            for fold in range(N_FOLDS)
        ]
        self.held_out: dict[float, NDArray[np.float32]] = {}

    def choose(self) -> NDArray[np.float64]:
        """Return the C of each label, and score all that were tried."""
        problems = self._from_zero()
        self._score(DEFAULT_CS, problems)
        for _ in range(N_BEYOND):
            end = max(self.held_out)
            self._score([_tripled(end)], problems, np.flatnonzero(self._best() == end))
        for _ in range(N_BEYOND):
            end = min(self.held_out)
            below = float(f"{1 / _tripled(1 / end):.6g}")
            self._score([below], self._from_zero(), np.flatnonzero(self._best() == end))
        return self._best()

    def score_near(self, weights: NDArray[Any], bias: NDArray[Any], C: float) -> None:
        """Score one C by fits that start from that of all images.

        They are not far from it, and end where they would from zero.
        """
        problems = self._from_zero()
        for each in problems:
            each.weights[:], each.bias[:] = weights, bias
        self._score([C], problems, tolerance=NEAR)

    def probabilities(self, strengths: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the held-out probabilities of each label at its C; NaN where there is none."""
        columns = [self.held_out[C][:, label] for label, C in enumerate(strengths.tolist())]
        probabilities: NDArray[np.float32] = expit(np.stack(columns, axis=1))
        return probabilities

    def losses(self) -> NDArray[np.float64]:
        """Return the mean log loss, (n_strengths, n_labels), by increasing C; NaN without any."""
        table = []
        tested = slice(None, None, self._n_averaged)
        for _, logits in sorted(self.held_out.items()):
            weights = np.where(np.isfinite(logits), self._weights[tested], 0)
            signed = np.nan_to_num(np.where(self._targets[tested], -logits, logits))
            losses = np.logaddexp(0, signed, dtype=np.float64)
            with np.errstate(invalid="ignore"):  # 0 / 0 where nothing was held out
                table.append((losses * weights).sum(axis=0) / weights.sum(axis=0))
        return np.stack(table)

    def _best(self) -> NDArray[np.float64]:
        table, Cs = self.losses(), np.array(sorted(self.held_out))
        table[np.isnan(table)] = np.inf
        best: NDArray[np.float64] = Cs[
            (table <= table.min(axis=0) * (1 + TOLERANCE)).argmax(axis=0)
        ]
        best[np.isinf(table).all(axis=0)] = FALLBACK_C
        return best

    def _from_zero(self) -> list[Problems]:
        return [Problems.of(self._points, self._targets, each) for each in self._weights_of]

    def _score(
        self,
        Cs: Sequence[float],
        problems: Sequence[Problems],
        which: NDArray[np.intp] | None = None,
        *,
        tolerance: float = VALIDATED,
    ) -> None:
        """Score strengths, which increase: each fit starts where the one before ended."""
        if which is not None and not len(which):
            return
        n_before = len(self.held_out) * N_FOLDS
        self._progress.begin(n_before + len(Cs) * N_FOLDS, n_before, unit="fits")
        held_out = {C: np.full(self._targets.shape, np.nan, np.float32) for C in Cs}
        scored = np.zeros(self._targets.shape[1], bool)
        scored[slice(None) if which is None else which] = True

        def fit(fold: int) -> None:
            for C in Cs:
                strengths = np.full(self._targets.shape[1], C)
                problems[fold].solve(strengths, tolerance=tolerance, which=which)
                in_fold = (self._fold_of == fold) & scored
                np.copyto(held_out[C], problems[fold].logits(), where=in_fold)

        # Products of small matrices wait for each other in several threads: a fold has one.
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(available_threads()) as workers:
            for _ in workers.map(fit, range(N_FOLDS)):
                self._progress.advance(len(Cs))
        self.held_out |= {C: mean_logits(each, self._n_averaged) for C, each in held_out.items()}


def _tripled(C: float) -> float:
    """Return the strength that follows one of 0.1, 0.3, 1, 3 and so on."""
    return float(f"{C * (3 if f'{C:e}'.startswith('1') else 10 / 3):.6g}")


def _fold_of(
    targets: NDArray[np.bool_],
    known: NDArray[np.bool_],
    groups: NDArray[np.intp] | None,
    seed: int,
) -> NDArray[np.int8]:
    """Return for each image and label its fold; −1 where it is unknown or cannot be held out."""
    fold_of = np.full(targets.shape, -1, np.int8)
    for label in range(targets.shape[1]):
        rows = np.flatnonzero(known[:, label])
        own_groups = None if groups is None else groups[rows]
        folds = stratified_folds(targets[rows, label], N_FOLDS, seed, own_groups)
        for fold, (_, held_out) in enumerate(folds):
            fold_of[rows[held_out], label] = fold
    return fold_of


def _notes_on_steps(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    return [
        f"the fit of {listed([shown(name) for name in names])} did not converge in {MAX_STEPS} "
        "steps: C is so weak a penalty that rounding gets in the way; a smaller one will"
    ]
