"""The heads of a learning curve: many fits at little more than the cost of one.

All heads of a curve have the same test images, and come from one block of a Gram matrix: the
products of all images with those that train any head. Each head is fitted on a part of its
training rows, as `logistic` does on the whole, and its test logits follow from the test rows.
The products of test images with each other are never computed: for 100,000 images of which 1,500
train, the block takes 0.2 GB instead of 4.0. Where there are as many training images as features,
it would be larger than the codes, and each head is fitted on the codes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from cnncodes._version import created_with
from cnncodes.errors import ParameterError
from cnncodes.evaluate.charts import check_figure, learning_curve_figure, save_figure
from cnncodes.evaluate.curve import MAX_HEADS, Curve, CurvePoint, save_curves
from cnncodes.evaluate.curve_plan import HEADS_AT_ONCE, Plan, compare_plans, images_of, plan_curve
from cnncodes.extract.store import CodeStore
from cnncodes.head.joined import JoinedStore, open_codes
from cnncodes.head.labels import few_images_allowed
from cnncodes.head.linear import LinearHead, check_logits
from cnncodes.head.logistic.fit import fit_logistic
from cnncodes.head.logistic.gram import (
    gram_matrix,
    rows_that_stay,
    solve_gram,
)
from cnncodes.head.logistic.solve import check_strength, new_solver, solve
from cnncodes.head.rows import CodeRows
from cnncodes.head.scaling import SAME_CODES
from cnncodes.head.split import METHODS
from cnncodes.head.views import ImageViews
from cnncodes.images.class_maps import ClassMap
from cnncodes.images.decoding import digest_images
from cnncodes.images.path_lists import PathList
from cnncodes.machine import available_threads
from cnncodes.output import RESULT, check_output
from cnncodes.parameters import (
    COUNT,
    DRAWS,
    SEED,
    TRAIN_FRACTION,
    as_path,
    as_paths,
    check_choice,
    check_class_weight,
)
from cnncodes.progress import NoProgress, Progress

_TEST_ROWS = 4096  # of a Gram matrix, copied at a time
# Fits a head on a draw with a C or "auto"; returns its test accuracy and the C that was used.
_Measure = Callable[[NDArray[np.intp], "float | str"], tuple[float, float]]


def learning_curves(
    codes: Sequence[str | Path],
    output: str | Path,
    *,
    plot: str | Path | None = None,
    per_class: Sequence[int] | None = None,
    seeds: int = 5,
    seed: int = 0,
    train_fraction: float = 0.7,
    split: str = "stratified",
    C: float | str = "auto",
    class_weight: str | None = None,
    exclude: str | Path | None = None,
    keep_together: str | Path | None = None,
    classes: str | Path | None = None,
    join: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[Curve]:
    """Measure how the accuracy of the logistic head grows with the number of training images.

    Parameters
    ----------
    codes : sequence of str or Path
        Codes files, each of which gets a curve unless `join` is True.
    output : str or Path
        The JSON file to write.
    plot : str or Path, optional
        The chart to write, a ``.png`` or ``.svg`` file.
    per_class : sequence of int, optional
        Numbers of training images per class, in any order. Those that no class has are left out.
        By default `default_sizes` of the largest class.
    seeds : int
        Draws of the training images for each number.
    seed : int
        Seed of the split and of the draws. The first draw is that of `train_head` with this
        seed; within a draw a larger number has all the images of a smaller one. Where all
        training images are used there is nothing to draw, and one head is trained.
    train_fraction : float
        Share of each class from which the training images are drawn; the rest tests.
    split : {"stratified", "first"}
        As for `train_head`. With ``"first"`` there is nothing to draw, and one seed is used.
    C : float or "auto"
        As for `train_head`. ``"auto"`` chooses it for each number of images, by cross-validation
        on the first draw.
    class_weight : "balanced" or None
        Whether rare classes weigh as much as common ones.
    exclude, keep_together : str or Path, optional
        As for `train_head`; of each codes file.
    classes : str or Path, optional
        A table of new names of classes, as for `ClassMap`.
    join : bool
        Whether all files give one curve, of their codes stacked or side by side, as for
        `train_head`.
    overwrite : bool
        Whether files at `output` and `plot` may be replaced.
    progress : Progress, optional
        Counts the heads.

    Returns
    -------
    list of Curve
        One for each codes file, or one of all.

    Raises
    ------
    FileFormatError
        A file is not a codes file.
    TrainingError
        Codes have fewer than two classes, or nothing to test on, or are not finite; or the heads
        take more memory than there is.
    ParameterError
        A parameter is out of range, no class has as many images as the smallest number of
        `per_class`, or a codes file is named twice.
    MissingDependencyError
        A chart is asked for and matplotlib is not installed.
    OutputError
        A result cannot be written.
    """
    progress = progress or NoProgress()
    sizes = None if per_class is None else COUNT.check_each(per_class, "per_class")
    seeds = DRAWS.check(seeds, "seeds")
    seed = SEED.check(seed, "seed")
    train_fraction = TRAIN_FRACTION.check(train_fraction, "train_fraction")
    check_strength(C)
    class_weight = check_class_weight(class_weight)
    split = check_choice(split, METHODS, "split")
    paths, output = list(as_paths(codes, "codes")), as_path(output, "output")
    chart = None if plot is None else as_path(plot, "plot")
    check_output(output, overwrite=overwrite, inputs=paths, endings=RESULT)
    if chart is not None:
        check_figure(chart, overwrite=overwrite)
        check_output(chart, overwrite=overwrite, inputs=paths)
        if chart.resolve() == output.resolve():
            raise ParameterError(f"{chart}: is both the result and its chart; name two files")
    if not paths:
        raise ParameterError("there is no codes file to measure; name one or more")
    excluded = None if exclude is None else PathList(exclude, "exclude")
    together = None if keep_together is None else PathList(keep_together, "keep_together")
    class_map = None if classes is None else ClassMap.read(classes)
    plans = [
        plan_curve(files, sizes, train_fraction, split, seeds, seed, excluded, together, class_map)
        for files in ([paths] if join else [[path] for path in paths])
    ]
    compare_plans(plans)
    n_heads = sum(len(draws) for plan in plans for draws in plan.train.values())
    if n_heads > MAX_HEADS:
        raise ParameterError(
            f"{n_heads:,} heads are more than the {MAX_HEADS:,} that a file of curves can hold; "
            "pass fewer seeds, or fewer numbers per_class"
        )
    progress.print_line("reading the codes and training …")
    progress.begin(n_heads)
    curves = [_measure(plan, C, class_weight, progress) for plan in plans]
    save_curves(curves, output, overwrite=overwrite)
    if chart is not None:
        save_figure(learning_curve_figure(curves), chart, overwrite=overwrite)
    return curves


def _measure(plan: Plan, C: float | str, class_weight: str | None, progress: Progress) -> Curve:
    """Fit and test every head of a curve."""
    trained = images_of(plan.train)
    with open_codes(plan.files) as store, few_images_allowed():
        views, digests = ImageViews(store), store.of_images(store.digests)
        rows = views.training_rows(trained)
        networks = [(store.backbone, store.backbone_sha256)]
        if isinstance(store, JoinedStore):
            store.scale(rows)
            networks = [(part.backbone, part.sha256) for part in store.parts]
        codes = CodeRows(store, np.concatenate([rows, views.tested_rows(plan.test)]))
        images_sha256 = digest_images([digests[i] for i in (*trained, *plan.test)])
        if len(rows) < codes.n_features:
            measure = _on_gram_matrix(codes, rows, views, plan, class_weight)
        else:
            measure = _on_codes(store, plan, class_weight)
        points = _points(plan, measure, C, progress)
    return Curve(
        codes=str(plan.path),
        backbone=" + ".join(each.backbone for each, _ in networks),
        weights=" + ".join(dict.fromkeys(each.weights for each, _ in networks)),
        backbone_sha256=" + ".join(sha256 for _, sha256 in networks),
        images_sha256=images_sha256,
        split=plan.split,
        train_fraction=plan.train_fraction,
        seed=plan.seed,
        class_weight=class_weight,
        created_with=created_with("sklearn"),
        n_classes=len(plan.names),
        n_test=len(plan.test),
        points=points,
        notes=tuple(plan.notes),
        majority=plan.majority,
        weights_file=" + ".join(each.weights_file for each, _ in networks if each.weights_file),
        precision=" + ".join(dict.fromkeys(each.precision for each, _ in networks)),
    )


def _on_gram_matrix(
    codes: CodeRows,
    trained: NDArray[np.intp],
    views: ImageViews,
    plan: Plan,
    class_weight: str | None,
) -> _Measure:
    """Prepare to measure heads by a Gram matrix; `codes` are those of `trained`, then the test."""
    block = rows_that_stay(codes.n_features)
    K = gram_matrix(codes.read, len(codes), block=block, dtype=np.float32, n_columns=len(trained))
    if not K.any():
        plan.notes.append(SAME_CODES)
    test, truth = np.arange(len(trained), len(codes)), plan.y[plan.test]
    model = new_solver(class_weight=class_weight)

    def measure(draw: NDArray[np.intp], C: float | str) -> tuple[float, float]:
        draw, masses = _counting(plan, views, draw)
        train = np.searchsorted(trained, views.training_rows(draw))
        y, groups = views.repeat(plan.y[draw]), views.repeat(plan.groups[draw])
        logits, used = fit_part(
            K, train, test, y, model, C, plan.seed, groups=groups, masses=masses
        )
        return float((logits.argmax(axis=1) == truth).mean()), used

    return measure


def _on_codes(store: CodeStore, plan: Plan, class_weight: str | None) -> _Measure:
    """Prepare to measure heads that are each fitted as `train` does."""
    views, truth = ImageViews(store), plan.y[plan.test]
    test = CodeRows(store, views.tested_rows(plan.test))

    def measure(draw: NDArray[np.intp], C: float | str) -> tuple[float, float]:
        draw, masses = _counting(plan, views, draw)
        rows = CodeRows(store, views.training_rows(draw))
        weights, bias, fitted = fit_logistic(
            rows,
            views.repeat(plan.y[draw]),
            C=C,
            class_weight=class_weight,
            seed=plan.seed,
            groups=views.repeat(plan.groups[draw]),
            masses=masses,
        )
        n_right, head = 0, LinearHead(weights, bias)
        for _, X in rows.blocks():
            head.logits(X)  # refused where they overflow, as `train` does
        for span, X in test.blocks():
            n_right += int((head.logits(X).argmax(axis=1) == truth[span]).sum())
        return n_right / len(truth), fitted["C"]

    return measure


def _counting(
    plan: Plan, views: ImageViews, draw: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.float64] | None]:
    """Return the images of a draw that count in training, and the masses of their rows."""
    draw = plan.weighting.trained(draw)
    masses = plan.weighting.masses(draw)
    return draw, None if masses is None else views.repeat(masses)


def _points(
    plan: Plan, measure: _Measure, C: float | str, progress: Progress
) -> tuple[CurvePoint, ...]:
    """Measure the heads of each size."""
    points = []
    threads = available_threads()
    workers = min(HEADS_AT_ONCE, threads)
    for size, draws in plan.train.items():
        first = measure(draws[0], C)
        strength, accuracies = first[1], []
        # Two heads at a time in half the threads each take less time than one after the other.
        with threadpool_limits(threads // workers, "blas"), ThreadPoolExecutor(workers) as pool:
            others = pool.map(measure, draws[1:], repeat(strength))
            for accuracy, _ in chain([first], others):
                accuracies.append(accuracy)
                progress.advance(1)
        points.append(CurvePoint(size, len(draws[0]), strength, tuple(accuracies)))
    return tuple(points)


def fit_part(
    K: NDArray[np.float32],
    train: NDArray[np.intp],
    test: NDArray[np.intp],
    y: NDArray[np.int32],
    model: LogisticRegression,
    C: float | str,
    seed: int = 0,
    groups: NDArray[np.intp] | None = None,
    masses: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float32], float]:
    """Fit a logistic head on some of the images of a Gram matrix, and apply it to others.

    Parameters
    ----------
    K : ndarray of float32, shape (n_images, n_columns)
        Inner products of the codes, from which any one vector may be subtracted, with those of
        the first `n_columns` images.
    train, test : ndarray of intp
        Rows of `K`; those that train are below `n_columns`.
    y : ndarray of int32, shape (n_train,)
        Classes of the training images.
    model : LogisticRegression
        The estimator; its C is replaced.
    C : float or "auto"
        Inverse strength of the penalty on standardised codes.
    seed : int
        Seed of the folds that choose C.
    groups : ndarray of int, shape (n_train,), optional
        Training images with equal numbers are in one fold.
    masses : ndarray of float64, shape (n_train, n_classes), optional
        How much each training image counts for each class, as for `solve`.

    Returns
    -------
    logits : ndarray of float32, shape (n_test, n_classes)
        Those of the head of `fit_logistic` on the same images.
    C : float
        The C that was used.

    Raises
    ------
    LogitsError
        The codes are so large that logits overflow.

    Notes
    -----
    The weights are W = Xᵀα, where the columns of α have sum zero. So the logits of an image x
    are (Xx − Xm)ᵀα plus the intercept, with the mean m of the training images: Xx is a row of K,
    and Xm the mean of K over the training images.
    """
    solver = partial(
        solve, y=y, estimator=model, C=C, random_state=seed, groups=groups, masses=masses
    )
    fit = solve_gram(K[np.ix_(train, train)], solver)
    means, intercept = fit.means.astype(np.float32), fit.solution.intercept.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        logits = np.concatenate(
            [
                (K[np.ix_(test[start : start + _TEST_ROWS], train)] - means) @ fit.alpha + intercept
                for start in range(0, len(test), _TEST_ROWS)
            ]
        )
    for each in (fit.logits, logits):  # as `train` does
        check_logits(each)
    return logits, fit.solution.C
