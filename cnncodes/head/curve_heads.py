"""The heads of a learning curve: many fits at little more than the cost of one.

All heads of a curve are tested on the same images, and come from one Gram matrix: that of every
image which trains any of them or tests. Each head is fitted on a part of it, as `logistic` does
on the whole, and its test logits are read off the rows of the test images.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from cnncodes.errors import ParameterError, TrainingError
from cnncodes.extract.images import digest_images
from cnncodes.extract.store import CodeStore
from cnncodes.head.charts import check_figure, learning_curve_figure, save_figure
from cnncodes.head.curve import MAX_COUNT, Curve, CurvePoint, save_curves
from cnncodes.head.gram import (
    gram_matrix,
    rotate,
    rotate_back,
    rows_that_stay,
    standardise,
)
from cnncodes.head.rows import CodeRows
from cnncodes.head.scaling import SAME_CODES
from cnncodes.head.solve import new_solver, solve
from cnncodes.head.split import Split, split_by_class
from cnncodes.head.train import check_strength, labelled_classes, notes_on_split, versions
from cnncodes.machine import available_threads
from cnncodes.output import check_output
from cnncodes.progress import Progress
from cnncodes.text import listed

DEFAULT_SIZES = (5, 10, 15, 20, 25, 30)


@dataclass(frozen=True)
class _Plan:
    """What one curve is measured on, all of it places in the codes file.

    Attributes
    ----------
    path : Path
        The codes file.
    names : list of str
        The classes.
    y : ndarray of int32, shape (n_images,)
        Places in `names`, −1 for images without a label.
    test : ndarray of intp
        The test part.
    train : dict of int to list of ndarray of intp
        For each number of images a class the training images of each seed.
    split, train_fraction, seed
        How they were split and drawn, as for `split_by_class`.
    notes : list of str
        What the user should know of the data.
    """

    path: Path
    names: list[str]
    y: NDArray[np.int32]
    test: NDArray[np.intp]
    train: dict[int, list[NDArray[np.intp]]]
    split: str
    train_fraction: float
    seed: int
    notes: list[str]


def learning_curves(
    codes: Sequence[str | Path],
    output: str | Path,
    *,
    plot: str | Path | None = None,
    per_class: Sequence[int] = DEFAULT_SIZES,
    seeds: int = 5,
    seed: int = 0,
    train_fraction: float = 0.7,
    split: str = "stratified",
    C: float | str = "auto",
    class_weight: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[Curve]:
    """Measure how the accuracy of the logistic head grows with the number of training images.

    Parameters
    ----------
    codes : sequence of str or Path
        Codes files, each of which gets a curve.
    output : str or Path
        The JSON file to write.
    plot : str or Path, optional
        The chart to write, a ``.png`` or ``.svg`` file.
    per_class : sequence of int
        Numbers of training images a class, in any order.
    seeds : int
        How many times the training images of each number are drawn.
    seed : int
        Seed of the split and of the draws. The first draw is that of `train_head` with this
        seed; within a draw a larger number has all the images of a smaller one.
    train_fraction : float
        Share of each class from which the training images are drawn; the rest tests.
    split : {"stratified", "first"}
        As for `train_head`. With ``"first"`` there is nothing to draw, and one seed does.
    C : float or "auto"
        As for `train_head`. ``"auto"`` chooses it for each number of images, by cross-validation
        on the first draw.
    class_weight : "balanced" or None
        Whether rare classes weigh as much as common ones.
    overwrite : bool
        Whether files at `output` and `plot` may be replaced.
    progress : Progress, optional
        Told how many heads are measured.

    Returns
    -------
    list of Curve
        One for each codes file.

    Raises
    ------
    FileFormatError
        A codes file is not one.
    TrainingError
        Codes have fewer than two classes, or nothing to test on, or are not finite.
    ParameterError
        A parameter is out of range, or a codes file is named twice.
    MissingDependencyError
        A chart is asked for and matplotlib is not installed.
    OutputError
        A result cannot be written.
    """
    paths, output = [Path(each) for each in codes], Path(output)
    chart = None if plot is None else Path(plot)
    check_output(output, overwrite=overwrite, inputs=paths)
    if chart is not None:
        check_figure(chart, overwrite=overwrite)
        check_output(chart, overwrite=overwrite, inputs=paths)
        if chart.resolve() == output.resolve():
            raise ParameterError(f"{chart}: is both the result and its chart; name two files")
    if not paths:
        raise ParameterError("there is no codes file to measure; name one or more")
    sizes = sorted(set(per_class))
    if not sizes or not 1 <= sizes[0] <= sizes[-1] <= MAX_COUNT:
        raise ParameterError(f"the images per class must be 1 to {MAX_COUNT:,}, not {per_class}")
    if seeds < 1:
        raise ParameterError(f"the seeds must be 1 or more, not {seeds}")
    check_strength(C)
    plans = [_plan(path, sizes, train_fraction, split, seeds, seed) for path in paths]
    _compare(plans)
    if progress:
        progress.begin(sum(len(draws) for plan in plans for draws in plan.train.values()))
    curves = [_measure(plan, C, class_weight, progress) for plan in plans]
    save_curves(curves, output, overwrite=overwrite)
    if chart is not None:
        save_figure(learning_curve_figure(curves), chart, overwrite=overwrite)
    return curves


def _plan(
    path: Path, sizes: Sequence[int], train_fraction: float, split: str, seeds: int, seed: int
) -> _Plan:
    """Choose the images of one curve."""
    with CodeStore.open(path) as store:
        classes, y, notes = labelled_classes(store)
        if split == "first" and seeds > 1:
            notes.append("the first images are the same for every seed: one seed is used")
            seeds = 1
        parts, draws = draw_images(y, sizes, train_fraction, split, seeds, seed)
        if not len(parts.test):
            raise TrainingError(
                f"{path}: no class has two images, so nothing is left to test on; extract more"
            )
        names = [store.class_names[number] for number in classes]
        notes += notes_on_split(store, classes, y, parts)
    notes += _notes_on_sizes(sizes, np.bincount(y[parts.train]), names)
    return _Plan(path, names, y, parts.test, draws, split, train_fraction, seed, notes)


def draw_images(
    y: NDArray[np.int32],
    sizes: Sequence[int],
    train_fraction: float,
    split: str,
    seeds: int,
    seed: int,
) -> tuple[Split, dict[int, list[NDArray[np.intp]]]]:
    """Split the images once, and draw from the training part for each size and seed.

    Parameters
    ----------
    y : ndarray of int32, shape (n_images,)
        Classes, negative for images without a label.
    sizes : sequence of int
        Training images a class, at most.
    train_fraction, split, seed
        As for `split_by_class`.
    seeds : int
        Number of draws. The first is that of `split_by_class`; in each, a larger size has all
        the images of a smaller one.

    Returns
    -------
    parts : Split
        What is drawn from, and what tests every head.
    draws : dict of int to list of ndarray of intp
        For each size the training images of each draw, places in `y`, increasing.

    Raises
    ------
    ParameterError
        The fraction or the split is out of range.
    """
    parts = split_by_class(y, train_fraction, method=split, seed=seed)
    orders = [
        np.random.default_rng((seed, number)).permutation(parts.train) for number in range(1, seeds)
    ]
    draws = {}
    for size in sizes:
        first = split_by_class(y, train_fraction, method=split, per_class=size, seed=seed)
        draws[size] = [first.train, *(_leading(order, y, size) for order in orders)]
    return parts, draws


def _leading(order: NDArray[np.intp], y: NDArray[np.int32], size: int) -> NDArray[np.intp]:
    """Return the first `size` images of each class in an order, sorted."""
    members = [order[y[order] == label][:size] for label in np.unique(y[order])]
    return np.sort(np.concatenate(members))


def _notes_on_sizes(
    sizes: Sequence[int], available: NDArray[np.intp], names: list[str]
) -> list[str]:
    """Tell which classes have fewer training images than asked for."""
    notes = []
    for size in sizes:
        if available.max() < size:
            notes.append(
                f"no class has {size} training images: all {available.sum()} there are train"
            )
        elif available.min() < size:
            few = np.flatnonzero(available < size)
            notes.append(
                f"{len(few)} of {len(names)} classes have fewer than {size} training images: "
                f"{listed([names[number] for number in few])}"
            )
    return notes


def _compare(plans: list[_Plan]) -> None:
    """Refuse a file that is given twice, and note where classes differ."""
    for plan, other in combinations(plans, 2):
        if plan.path.samefile(other.path):
            raise ParameterError(f"{other.path}: is given twice; name each codes file once")
    for plan in plans[1:]:
        if plan.names != plans[0].names:
            plan.notes.append(
                f"has other classes than {plans[0].path}: the accuracies cannot be compared"
            )


def _measure(
    plan: _Plan, C: float | str, class_weight: str | None, progress: Progress | None
) -> Curve:
    """Fit and test every head of a curve."""
    rows = np.unique(np.concatenate([plan.test, *chain.from_iterable(plan.train.values())]))
    with CodeStore.open(plan.path) as store:
        codes, backbone, sha256 = CodeRows(store, rows), store.backbone, store.backbone_sha256
        images_sha256 = digest_images(codes.digests())
        block = rows_that_stay(codes.n_features)
        K = gram_matrix(codes.read, len(rows), block=block, dtype=np.float32)
    if not K.any():
        plan.notes.append(SAME_CODES)
    test, truth = np.searchsorted(rows, plan.test), plan.y[plan.test]
    model = new_solver(class_weight=class_weight)

    def measure(draw: NDArray[np.intp], C: float | str) -> tuple[float, float]:
        train = np.searchsorted(rows, draw)
        logits, used = fit_part(K, train, test, plan.y[draw], model, C, plan.seed)
        return float((logits.argmax(axis=1) == truth).mean()), used

    points = []
    threads = available_threads()
    workers = min(2, threads)
    for size, draws in plan.train.items():
        first = measure(draws[0], C)
        strength, accuracies = first[1], []
        # Two heads at a time in half the threads each are done before one by one.
        with threadpool_limits(threads // workers, "blas"), ThreadPoolExecutor(workers) as pool:
            others = pool.map(partial(measure, C=strength), draws[1:])
            for accuracy, _ in chain([first], others):
                accuracies.append(accuracy)
                if progress:
                    progress.advance(1)
        points.append(CurvePoint(size, len(draws[0]), strength, tuple(accuracies)))
    return Curve(
        codes=str(plan.path),
        backbone=backbone.backbone,
        weights=backbone.weights,
        backbone_sha256=sha256,
        images_sha256=images_sha256,
        split=plan.split,
        train_fraction=plan.train_fraction,
        seed=plan.seed,
        class_weight=class_weight,
        created_with=versions(),
        n_classes=len(plan.names),
        n_test=len(plan.test),
        points=tuple(points),
        notes=tuple(plan.notes),
    )


def fit_part(
    K: NDArray[np.float32],
    train: NDArray[np.intp],
    test: NDArray[np.intp],
    y: NDArray[np.int32],
    model: LogisticRegression,
    C: float | str,
    seed: int = 0,
    groups: NDArray[np.intp] | None = None,
) -> tuple[NDArray[np.float32], float]:
    """Fit a logistic head on some of the images of a Gram matrix, and apply it to others.

    Parameters
    ----------
    K : ndarray of float32, shape (n_images, n_images)
        Inner products of the codes, from which any one vector may be subtracted.
    train, test : ndarray of intp
        Places in `K`.
    y : ndarray of int32, shape (n_train,)
        Classes of the training images.
    model : LogisticRegression
        What is fitted, but for its C.
    C : float or "auto"
        Inverse strength of the penalty on standardised codes.
    seed : int
        Seed of the folds that choose C.
    groups : ndarray of intp, shape (n_train,), optional
        Images of the same group are in the same fold.

    Returns
    -------
    logits : ndarray of float32, shape (n_test, n_classes)
        What the head of `fit_logistic` on the same images gives for the test images.
    C : float
        The strength that was used.

    Notes
    -----
    A head's weights are W = Xᵀα, where the rows of α add up to zero. So the logits of an image x
    are (Xx − Xm)ᵀα plus the intercept, with the mean m of the training images: Xx is a row of K,
    and Xm the mean of K over the training images.
    """
    own = K[np.ix_(train, train)]
    mean = own.mean(axis=0, dtype=np.float64).astype(np.float32)
    length = standardise(own)
    points = rotate(own)
    solution = solve(points, y, model, C=C, random_state=seed % 2**32, groups=groups)
    alpha = rotate_back(points, solution.weights.astype(np.float32)) / np.float32(length or 1.0)
    logits = (K[np.ix_(test, train)] - mean) @ alpha + solution.intercept.astype(np.float32)
    return logits, solution.C
