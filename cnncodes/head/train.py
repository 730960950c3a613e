"""Training a head: split, standardise, fit, fold, measure, write.

``logistic`` and ``sgd`` become a matrix and a bias on codes as they are stored, any other
estimator the graph that it is converted to, so what is measured is what the written file computes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncodes._version import created_with
from cnncodes.bounds import (
    MAX_ENTRIES_BYTES,
    MAX_MODEL_BYTES,
    MAX_TRAINING_IMAGES,
)
from cnncodes.errors import ParameterError, TrainingError
from cnncodes.extract.store import CodeStore
from cnncodes.head.chosen import GRAM
from cnncodes.head.data import TrainingData
from cnncodes.head.earlier import EarlierHead, Growth
from cnncodes.head.estimators import EstimatorHead, check_estimator, name_of
from cnncodes.head.groups import NOTHING_TESTED
from cnncodes.head.joined import open_codes
from cnncodes.head.labels import few_images_allowed
from cnncodes.head.linear import LinearHead
from cnncodes.head.logistic.solve import check_strength
from cnncodes.head.memory import BY_SGD, check_memory, needed_memory
from cnncodes.head.multilabel.train import (
    LabelSettings,
    check_plain,
    check_settings,
    train_labels,
)
from cnncodes.head.recipe import Fit, Recipe, Score
from cnncodes.head.rows import CodeRows
from cnncodes.head.sgd.fit import check_descent
from cnncodes.head.sgd.softmax import Epoch
from cnncodes.head.split import METHODS, Split
from cnncodes.head.unknown import UnknownScore, describe_unknown, fit_unknown
from cnncodes.head.writing import head_info, write_head
from cnncodes.images.class_maps import ENTRY, ClassMap
from cnncodes.images.path_lists import PathList
from cnncodes.output import MODEL, check_output
from cnncodes.parameters import (
    COUNT,
    REFUSED_SHARE,
    SEED,
    TRAIN_SHARE,
    WAYS,
    as_path,
    check_choice,
    check_class_weight,
    one_or_more_paths,
)
from cnncodes.progress import NoProgress, Progress
from cnncodes.text import counted

LINEAR = (*GRAM, "sgd")


@dataclass(frozen=True)
class Training:
    """A trained head.

    Attributes
    ----------
    path : Path
        The head's file.
    estimator : str
        The name of the estimator, or the class of an object.
    weights : str
        Origin of the backbone's weights, such as ``"imagenet"``.
    labels : list of str
        The classes.
    train, test : Score
        On the training and the test images; `LabelScore` where images may have several labels.
    majority : float or None
        Test accuracy of always predicting the class most common in training.
    seconds : float
        Duration of the fit, reading the codes and, if there is one, the conversion included.
    fitted : dict
        Results of the fit; of a scikit-learn estimator its ``parameters``.
    notes : list of str
        Notes on the data and the fit, for the user.
    unknown : dict or None
        Of the score of "none of these", if there is one: the ``share`` refused by its threshold,
        ``n_images`` and ``n_components`` of its fit, ``test_refused``, and of images of `none`
        what `describe_unknown` returns.
    growth : Growth or None
        What became of the earlier head that the training went on from, if any.
    """

    path: Path
    estimator: str
    weights: str
    labels: list[str]
    train: Score
    test: Score
    majority: float | None
    seconds: float
    fitted: dict[str, Any]
    notes: list[str]
    unknown: dict[str, Any] | None = None
    growth: Growth | None = None


def train_head(
    codes: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    estimator: Any = "auto",
    normalize: str = "none",
    train_fraction: float = 0.7,
    refit: bool = False,
    split: str = "stratified",
    per_class: int | None = None,
    seed: int = 0,
    exclude: str | Path | None = None,
    keep_together: str | Path | None = None,
    overwrite: bool = False,
    C: float | str = "auto",
    class_weight: str | None = None,
    sgd: dict[str, Any] | None = None,
    tta: bool = False,
    unknown: float | None = None,
    none: str | None = None,
    earlier: str | Path | None = None,
    classes: str | Path | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    progress: Progress | None = None,
) -> Training:
    """Train a head on stored codes and write it as ONNX.

    Parameters
    ----------
    codes : str or Path, or sequence of them
        A codes file, or several. Those of one network are stacked, as if they were one file;
        those of the same images by different networks are put side by side.
    output : str or Path
        The head to write.
    estimator : {"logistic", "ridge", "auto", "sgd", "svm", "knn"} or estimator
        Multinomial logistic regression to convergence; least squares on the classes, at a
        temperature; ``"auto"`` the former, or the latter where it is better by more than chance in
        cross-validation on the training part, as in `fit_linear`; a softmax by mini-batch SGD; an
        SVM or nearest neighbours, as in `fit_estimator`; or a clone of any scikit-learn
        classifier, or Pipeline that ends in one, which has ``predict_proba`` once fitted and
        which skl2onnx can convert. ``"sgd"`` reads the codes in parts, as do ``"logistic"`` and
        ``"ridge"`` where there are fewer training images than codes per image; otherwise all
        training codes are in memory, as float32.
    normalize : {"none", "sqrt", "length", "sqrt+length", "standardize", "sqrt+standardize", "auto"}
        What a logistic or ridge head does to codes before its weights; ``"auto"`` chooses it in
        the same cross-validation, for six times the time.
    train_fraction : float
        Share of each class that is trained on; the rest is the test part. With 1 all images are
        trained on, and measured by cross-validation: heads that are each fitted as the one that
        is written, but without a fold, are tested on that fold.
    refit : bool
        Whether the head that is written is fitted on all labelled images, with the kind,
        normalisation, C and temperature of the training part. What is measured is the head of
        the training part. Not for ``"sgd"``, nor with a `train_fraction` of 1.
    split : {"stratified", "first"}
        Whether the training images of a class are random, or the first in the order of names.
    per_class : int, optional
        Maximum number of training images per class.
    seed : int
        Seed of the split and of the estimator.
    exclude : str or Path, optional
        A list of images to leave out, as for `PathList`.
    keep_together : str or Path, optional
        An ``overlap.csv`` of these images: those of a pair stay on one side of every split.
    overwrite : bool
        Whether a file at `output` may be replaced.
    C : float or "auto"
        Inverse strength of the penalty of a logistic or ridge head (1/α of scikit-learn's Ridge),
        on codes of mean squared length one; ``"auto"`` chooses it by log loss in
        cross-validation on the training part. The temperature of ridge is fitted in any case.
    class_weight : "balanced" or None
        Whether, in the logistic head, rare classes weigh as much as common ones.
    sgd : dict, optional
        Parameters of `SGDSoftmax`, for ``"sgd"``.
    tta : bool
        Whether scores are those of the mean of the logits over the views of each image, of which
        the codes must have several. All views of the training images train, in any case.
    unknown : float, optional
        Whether the head gets a second output, ``unknown``: how unlike the training images an image
        is, as `fit_unknown`. This share of new images of the classes is refused by it.
    none : str, optional
        With `unknown`, a class whose images are of none of the classes: they do not train, and
        the score is measured on them.
    earlier : str or Path, optional
        A logistic, ridge or sgd head of the same network, from whose weights the fit starts, and
        whose kind, normalisation and C (or parameters of SGD) are kept. Its training images train;
        it is compared with the new head on the test images.
    classes : str or Path, optional
        A table of new names of classes, as for `ClassMap`; it is recorded in the head.
    on_epoch : callable, optional
        Called with each `Epoch` of SGD when it ends.
    progress : Progress, optional
        Counts the work of a logistic head or SGD.

    Returns
    -------
    Training
        The head and its metrics.

    Raises
    ------
    FileFormatError
        The codes file is not one.
    TrainingError
        The codes have fewer than two classes or are not finite; the estimator
        cannot be fitted or converted, or takes more memory than there is.
    ParameterError
        A parameter is out of range, or belongs to another estimator.
    MissingDependencyError
        The estimator needs skl2onnx, which is not installed.
    OutputError
        The head cannot be written.
    """
    progress = progress or NoProgress()
    class_map = None if classes is None else ClassMap.read(classes)
    paths, output = one_or_more_paths(codes, "codes"), as_path(output, "output")
    grown = None if earlier is None else EarlierHead(as_path(earlier, "earlier"))
    if grown is not None:
        _check_grown(train_fraction, per_class)
        estimator, normalize, C, sgd = grown.choices(estimator, normalize, C, sgd)
    _check_parameters(estimator, normalize, C, class_weight, sgd)
    split = check_choice(split, METHODS, "split")
    train_fraction = TRAIN_SHARE.check(train_fraction, "train_fraction")
    per_class = COUNT.check_or_none(per_class, "per_class")
    seed = SEED.check(seed, "seed")
    if refit:
        _check_refit(estimator, train_fraction)
    unknown = None if unknown is None else REFUSED_SHARE.check(unknown, "unknown")
    if none is not None and unknown is None:
        raise ParameterError(f"none={none!r} is for the score of none of these; pass unknown too")
    inputs = paths if grown is None else [*paths, grown.path]
    check_output(output, overwrite=overwrite, inputs=inputs, endings=MODEL)
    excluded = None if exclude is None else PathList(exclude, "exclude")
    together = None if keep_together is None else PathList(keep_together, "keep_together")
    with open_codes(paths) as store, few_images_allowed():
        progress.print_line("reading the codes and training …")
        if store.label_matrix is not None:
            settings = LabelSettings(
                normalize, train_fraction, split, per_class, seed, tta, C, class_weight, refit
            )
            check_plain(store, earlier=earlier is not None, classes=classes is not None)
            check_settings(estimator, settings, unknown)
            return Training(
                **train_labels(
                    store,
                    output,
                    settings,
                    excluded=excluded,
                    together=together,
                    overwrite=overwrite,
                    progress=progress,
                )
            )
        data = TrainingData.of(
            store,
            tta=tta,
            train_fraction=train_fraction,
            split=split,
            per_class=per_class,
            seed=seed,
            excluded=excluded,
            together=together,
            none=none,
            class_map=class_map,
            grown=grown,
        )
        parts, is_linear = data.parts, estimator in LINEAR
        notes = data.notes + data.weighting.notes(parts.train, are_soft=is_linear)
        # Those of the head that is written, whose other images are measured on before.
        trained = data.weighting.trained(np.flatnonzero(data.y >= 0) if refit else parts.train)
        shape = (len(data.views.training_rows(trained)), math.prod(store.codes.shape[1:]))
        _check_head(store, shape[1], len(trained), len(data.names), linear=is_linear)
        needed = needed_memory(estimator, *shape)
        check_memory(store.path, name_of(estimator), needed, *shape, remedy=BY_SGD)
        store.release()  # paths, digests and the like of all images
        recipe = Recipe(
            store=store,
            views=data.views,
            y=data.y,
            groups=data.groups,
            weighting=data.weighting,
            estimator=estimator,
            linear={"normalize": normalize, "C": C, "class_weight": class_weight},
            sgd=sgd,
            seed=seed,
            on_epoch=on_epoch,
            progress=progress,
            start=None if grown is None else grown.start(data.names),
        )
        heads = _fit(
            recipe,
            data,
            refitted=trained if refit else None,
            is_validated=train_fraction == 1,
            unknown=unknown,
            none=none,
            grown=grown,
        )
        fit, written, growth = heads.measured, heads.written, heads.growth
        converters = ("skl2onnx",) if isinstance(written.head, EstimatorHead) else ()
        info = head_info(
            store,
            data.views,
            labels=data.names,
            estimator=fit.estimator,
            fitted=fit.fitted,
            split={
                "method": split,
                "train_fraction": train_fraction,
                "per_class": per_class,
                "seed": seed,
            },
            scores=heads.scores,
            trained=trained,
            measured=parts.test if refit else parts.test[:0],
            created_with=created_with("sklearn", *converters),
            entries={
                **({"measured_by": "cross-validation"} if train_fraction == 1 else {}),
                **({"refit": {"n_images": len(trained)}} if refit else {}),
                **({} if heads.unknown is None else {"unknown": heads.unknown}),
                **({} if growth is None else {"from": growth.entry}),
                **({} if data.class_map is None else {ENTRY: dict(data.class_map.names)}),
            },
        )
        code_shape = store.codes.shape[1:]
        model = written.head.to_onnx(code_shape, info)
        if heads.score is not None:
            heads.score.add_to(model, code_shape)
        write_head(model, store, output, overwrite=overwrite)
        return Training(
            path=output,
            estimator=fit.estimator,
            weights=store.backbone.weights,
            labels=data.names,
            train=heads.scores[0],
            test=heads.scores[1],
            majority=majority_accuracy(data.y, parts),
            seconds=heads.seconds,
            fitted=fit.fitted,
            notes=notes + heads.notes,
            unknown=heads.unknown,
            growth=growth,
        )


@dataclass(frozen=True)
class _Heads:
    """The head that is measured, the one that is written, and what was found.

    Attributes
    ----------
    measured, written : Fit
        The heads; the same one without `refit`.
    scores : tuple of Score
        On the training and the test images.
    seconds : float
        Duration of the fits.
    score : UnknownScore or None
        The score of "none of these" for `written`.
    unknown, growth
        As in `Training`.
    notes : list of str
        Notes on the fits.
    """

    measured: Fit
    written: Fit
    scores: tuple[Score, Score]
    seconds: float
    score: UnknownScore | None
    unknown: dict[str, Any] | None
    growth: Growth | None
    notes: list[str]


def _fit(
    recipe: Recipe,
    data: TrainingData,
    *,
    refitted: NDArray[np.intp] | None,
    is_validated: bool,
    unknown: float | None,
    none: str | None,
    grown: EarlierHead | None,
) -> _Heads:
    """Fit and measure a head, and fit the one that is written to `refitted`, if there are any.

    The codes of networks side by side are scaled for the last fit: all that a head is measured by
    is read before the next.
    """
    store, parts, groups = recipe.store, data.parts, data.groups

    def score_none(images: NDArray[np.intp]) -> UnknownScore | None:
        if unknown is None:
            return None
        themselves = CodeRows(store, data.views.first_rows(images))
        return fit_unknown(themselves, store.codes.shape[1:], unknown, groups[images])

    started = time.monotonic()
    validated = recipe.cross_validated(parts.train) if is_validated else None
    fit = recipe.fit(parts.train, parts.test)
    seconds = time.monotonic() - started
    notes = [] if recipe.estimator in LINEAR else _notes_on_folds(recipe, groups[parts.train])
    notes += fit.notes
    if grown is not None and unknown is None:
        notes += grown.notes_without_unknown()
    score = score_none(parts.train)
    described = None if score is None else describe_unknown(score, store, parts.test, none)
    train, test = (recipe.score(part, fit.head) for part in (parts.train, parts.test))
    growth = None
    if grown is not None and isinstance(fit.head, LinearHead):
        growth = grown.compare(recipe, fit.head, parts.test, data.names)
    if validated is not None:
        test = validated
        notes += _notes_on_validation(validated, len(parts.train))
    written = fit
    if refitted is not None:
        started = time.monotonic()
        written = recipe.fit(refitted, refitted[:0], like=fit)
        seconds += time.monotonic() - started
        notes += [note for note in written.notes if note not in notes]
        chosen = ", with what was chosen on the training part" if fit.estimator in GRAM else ""
        notes.append(
            f"the head that is written is trained on all {counted(len(refitted), 'image')}{chosen};"
            " the scores are of the head of the training part"
        )
        score = score_none(refitted)
        if score is not None and described is not None:
            described |= score.size
    return _Heads(fit, written, (train, test), seconds, score, described, growth, notes)


def _check_parameters(
    estimator: Any,
    normalize: str,
    C: float | str,
    class_weight: str | None,
    sgd: dict[str, Any] | None,
) -> None:
    if estimator not in LINEAR:
        check_estimator(estimator)
    check_strength(C)
    check_class_weight(class_weight)
    check_choice(normalize, (*WAYS, "auto"), "normalize")
    if estimator not in GRAM and (C != "auto" or normalize != "none"):
        raise ParameterError("C and normalize are for the estimators logistic and ridge only")
    if estimator not in ("auto", "logistic") and class_weight is not None:
        raise ParameterError("class_weight is for the estimator logistic only")
    if normalize == "auto" and C != "auto":
        raise ParameterError("normalize auto is chosen along with C; leave C at auto, or name one")
    if estimator == "sgd":
        check_descent(sgd)
    elif sgd:
        raise ParameterError("the parameters sgd are for the estimator sgd only")


def _check_refit(estimator: Any, train_fraction: float) -> None:
    if train_fraction == 1:
        raise ParameterError(
            "train_fraction=1 trains the head that is written on all images; leave out refit=True"
        )
    if estimator == "sgd":
        raise ParameterError(
            "refit is not for the estimator sgd, whose epochs need images held out; use logistic"
        )


def _check_grown(train_fraction: float, per_class: int | None) -> None:
    """Refuse parameters by which there is nothing to compare, or training images are left out."""
    if train_fraction == 1:
        raise ParameterError(
            "with train_fraction=1 no image is left to compare the earlier head on; leave it out, "
            "and pass refit=True to train on all images in the end"
        )
    if per_class is not None:
        raise ParameterError(
            "per_class would leave out images that the earlier head was trained on; leave it out"
        )


def _notes_on_validation(score: Score, n_images: int) -> list[str]:
    """Report how all images were measured that also train."""
    if not score.n_images:
        return [NOTHING_TESTED]
    notes = [
        "measured by cross-validation: on each fold by a head fitted in the same way without it; "
        "the head that is written is trained on all of these images"
    ]
    if score.n_images < n_images:
        notes.append(
            f"{counted(n_images - score.n_images, 'image')} could not be measured: without their "
            "fold a class has no image left"
        )
    return notes


def _check_head(
    store: CodeStore, n_features: int, n_images: int, n_classes: int, *, linear: bool
) -> None:
    """Refuse codes whose head could be trained, but not written or opened.

    Raises
    ------
    TrainingError
        There are more training images than a head can list, or it would be too large.
    """
    if n_images > MAX_TRAINING_IMAGES:
        raise TrainingError(
            f"{store.path}: {n_images:,} training images are more than the "
            f"{MAX_TRAINING_IMAGES:,} that a head can list; lower per_class or train_fraction"
        )
    n_bytes = 4 * n_classes * (n_features + 1)
    if linear and n_bytes + MAX_ENTRIES_BYTES > MAX_MODEL_BYTES:
        raise TrainingError(
            f"{store.path}: its head would have {n_bytes / 1e9:.1f} GB, and ONNX ends at 2 GB; "
            "extract with a backbone exported with pool avg, or use fewer classes"
        )


def _notes_on_folds(recipe: Recipe, groups: NDArray[np.intp]) -> list[str]:
    """Warn of an estimator that splits the training images into folds itself."""
    estimator = recipe.estimator
    has_folds = not isinstance(estimator, str) and any(
        name.rpartition("__")[2] == "cv" for name in estimator.get_params()
    )
    if not has_folds or len(np.unique(groups)) == len(groups):
        return []
    return [
        f"{name_of(estimator)} has folds of its own, which may separate copies and groups: what it "
        "chooses by them may suit these images better than new ones"
    ]


def majority_accuracy(y: NDArray[np.int32], parts: Split) -> float | None:
    """Return the test accuracy of always predicting the class most common in training.

    It is None where the test part is empty.
    """
    if len(parts.test) == 0:
        return None
    return float((y[parts.test] == np.bincount(y[parts.train]).argmax()).mean())
