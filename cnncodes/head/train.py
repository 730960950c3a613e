"""Training a head: split, standardise, fit, fold, measure, write.

``logistic`` and ``sgd`` become a matrix and a bias on codes as they are stored, any other
estimator the graph that it is converted to, so what is measured is what the written file computes.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncodes._version import created_with
from cnncodes.bounds import (
    MAX_ENTRIES_BYTES,
    MAX_MODEL_BYTES,
    MAX_TRAINING_IMAGES,
    NORMALIZATIONS,
    fault_of_labels,
)
from cnncodes.errors import ParameterError, TrainingError
from cnncodes.extract.store import CodeStore
from cnncodes.head.chosen import fit_linear
from cnncodes.head.estimators import EstimatorHead, check_estimator, fit_estimator, name_of
from cnncodes.head.groups import groups_of, notes_on_split
from cnncodes.head.linear import LinearHead
from cnncodes.head.logistic.solve import check_strength, stratified_folds
from cnncodes.head.rows import CodeRows
from cnncodes.head.sgd.fit import check_descent, fit_sgd
from cnncodes.head.sgd.softmax import Epoch
from cnncodes.head.split import METHODS, Split, split_by_class, whole_split
from cnncodes.images.path_lists import PathList
from cnncodes.models.checksum import save_checked
from cnncodes.models.metadata import HeadInfo, image_key
from cnncodes.output import MODEL, check_output, replacing
from cnncodes.parameters import (
    COUNT,
    SEED,
    TRAIN_SHARE,
    as_path,
    check_choice,
    check_class_weight,
)
from cnncodes.progress import NoProgress, Progress
from cnncodes.text import counted

GRAM = ("auto", "logistic", "ridge")
LINEAR = (*GRAM, "sgd")
N_FOLDS = 5
N_COMPARED = 200  # images of either part on which an estimator is compared with its graph


@dataclass(frozen=True)
class Score:
    """Loss and accuracy of a head on some images.

    Attributes
    ----------
    n_images : int
        Number of images.
    loss : float or None
        Mean cross-entropy; None without images.
    accuracy : float or None
        Share of images whose most probable class is the true one; None without images.
    """

    n_images: int
    loss: float | None
    accuracy: float | None


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
        On the training and the test images.
    majority : float or None
        Test accuracy of always predicting the class most common in training.
    seconds : float
        Duration of the fit, reading the codes and, if there is one, the conversion included.
    fitted : dict
        Results of the fit; of a scikit-learn estimator its ``parameters``.
    notes : list of str
        Notes on the data and the fit, for the user.
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


def train_head(
    codes: str | Path,
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
    on_epoch: Callable[[Epoch], None] | None = None,
    progress: Progress | None = None,
) -> Training:
    """Train a head on stored codes and write it as ONNX.

    Parameters
    ----------
    codes : str or Path
        A codes file.
    output : str or Path
        The head to write.
    estimator : {"auto", "logistic", "ridge", "sgd", "svm", "knn"} or estimator
        Multinomial logistic regression to convergence; least squares on the classes, at a
        temperature; ``"auto"`` the former, or the latter where it is better by more than chance in
        cross-validation on the training part, as in `fit_linear`; a softmax by mini-batch SGD; an
        SVM or nearest neighbours, as in `fit_estimator`; or a clone of any scikit-learn
        classifier, or Pipeline that ends in one, which has ``predict_proba`` once fitted and
        which skl2onnx can convert. ``"sgd"`` reads the codes in parts, as do ``"logistic"`` and
        ``"ridge"`` where there are fewer training images than codes per image; otherwise all
        training codes are in memory, as float32.
    normalize : {"none", "sqrt", "length", "sqrt+length", "auto"}
        What a logistic or ridge head does to codes before its weights; ``"auto"`` chooses it in
        the same cross-validation, for four times the time.
    train_fraction : float
        Share of each class that is trained on; the rest is the test part. With 1 all images are
        trained on, and measured by cross-validation: heads that are each fitted as the one that
        is written, but without a fold, are tested on that fold.
    refit : bool
        Whether the head that is written is fitted on all labelled images, with what was chosen on
        the training part. What is measured is the head of the training part.
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
        cross-validation on the training part, which then sets a temperature too.
    class_weight : "balanced" or None
        Whether, in the logistic head, rare classes weigh as much as common ones.
    sgd : dict, optional
        Parameters of `SGDSoftmax`, for ``"sgd"``.
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
        cannot be fitted or converted.
    ParameterError
        A parameter is out of range, or belongs to another estimator.
    MissingDependencyError
        The estimator needs skl2onnx, which is not installed.
    OutputError
        The head cannot be written.
    """
    progress = progress or NoProgress()
    codes, output = as_path(codes, "codes"), as_path(output, "output")
    _check_parameters(estimator, normalize, C, class_weight, sgd, refit=refit)
    split = check_choice(split, METHODS, "split")
    train_fraction = TRAIN_SHARE.check(train_fraction, "train_fraction")
    per_class = COUNT.check_or_none(per_class, "per_class")
    seed = SEED.check(seed, "seed")
    check_output(output, overwrite=overwrite, inputs=[codes], endings=MODEL)
    excluded = None if exclude is None else PathList(exclude, "exclude")
    together = None if keep_together is None else PathList(keep_together, "keep_together")
    with CodeStore.open(codes) as store, warnings.catch_warnings():
        progress.print_line("reading the codes and training …")
        # scikit-learn takes classes of few images for continuous targets.
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        classes, y, notes = labelled_classes(store, excluded)
        groups = groups_of(store, together)
        if together is not None:
            notes.append(f"images of a pair of {together.path.name} stay on one side of the split")
        if train_fraction < 1:
            parts = split_by_class(
                y, train_fraction, method=split, per_class=per_class, seed=seed, groups=groups
            )
            notes += notes_on_split(store, classes, y, parts, train_fraction, per_class)
        else:
            parts = whole_split(y, per_class, method=split, seed=seed)
        rows = CodeRows(store, parts.train)
        code_shape = store.codes.shape[1:]
        _check_head(store, rows, len(classes), linear=estimator in LINEAR)
        names = store.class_names
        started = time.monotonic()

        def fit(
            train: NDArray[np.intp], held_out: NDArray[np.intp], **chosen: Any
        ) -> tuple[LinearHead | EstimatorHead, str, dict[str, Any]]:
            rows, targets, own = CodeRows(store, train), y[train], groups[train]
            if estimator in GRAM:
                options = {"estimator": estimator, "normalize": normalize, "C": C} | chosen
                return fit_linear(
                    rows,
                    targets,
                    class_weight=class_weight,
                    groups=own,
                    seed=seed,
                    progress=progress,
                    **options,
                )
            if estimator == "sgd":
                weights, bias, fitted = fit_sgd(
                    rows,
                    targets,
                    seed=seed,
                    groups=own,
                    parameters=sgd,
                    on_epoch=on_epoch,
                    progress=progress,
                )
                return LinearHead(weights, bias, remedy="lower the learning rate"), "sgd", fitted
            sample = CodeRows(store, _sample(Split(train, held_out)))
            other = fit_estimator(
                estimator, rows, targets, sample, code_shape, seed=seed, groups=own
            )
            return other, name_of(estimator), {"parameters": other.parameters}

        head, kind, fitted = fit(parts.train, parts.test)
        if estimator not in LINEAR:
            notes += _notes_on_folds(estimator, groups[parts.train])
        notes += fitted.pop("notes", [])
        scores = [
            _score(CodeRows(store, part), y[part], head) for part in (parts.train, parts.test)
        ]
        if train_fraction == 1:
            scores[1] = _cross_validated(store, y, parts.train, groups, seed, fit)
            notes.append(
                "measured by cross-validation: on each fold by a head fitted in the same way "
                "without it; the head that is written is trained on all of these images"
            )
        measured: list[str] = []
        if refit:
            measured = CodeRows(store, parts.test).digests()
            everything = np.flatnonzero(y >= 0)
            rows = CodeRows(store, everything)
            _check_head(store, rows, len(classes), linear=estimator in LINEAR)
            head, _, again = fit(everything, everything[:0], **_what_was_chosen(kind, fitted))
            notes += [note for note in again.pop("notes", []) if note not in notes]
            notes.append(
                f"the head that is written is trained on all {counted(len(rows), 'image')}, with "
                "what was chosen on the training part; the scores are of the head of that part"
            )
        seconds = time.monotonic() - started
        training = Training(
            path=output,
            estimator=kind,
            weights=store.backbone.weights,
            labels=[names[number] for number in classes],
            train=scores[0],
            test=scores[1],
            majority=majority_accuracy(y, parts),
            seconds=seconds,
            fitted=fitted,
            notes=notes,
        )
        converters = ("skl2onnx",) if isinstance(head, EstimatorHead) else ()
        info = HeadInfo(
            labels=tuple(training.labels),
            training={
                # The folder's name alone: who gets the head need not know what is around it.
                "data": PureWindowsPath(store.source).name,
                "estimator": training.estimator,
                "fitted": fitted,
                "split": {
                    "method": split,
                    "train_fraction": train_fraction,
                    "per_class": per_class,
                    "seed": seed,
                },
                "train": asdict(training.train),
                "test": asdict(training.test),
                **({"measured_by": "cross-validation"} if train_fraction == 1 else {}),
                **({"refit": {"n_images": len(rows)}} if refit else {}),
            },
            backbone=store.backbone,
            backbone_sha256=store.backbone_sha256,
            training_images=frozenset(map(image_key, rows.digests())),
            created_with=created_with("sklearn", *converters),
            white=store.white,
            measured_images=frozenset(map(image_key, measured)),
        )
        model = head.to_onnx(code_shape, info)
    with replacing(output, overwrite=overwrite) as temporary:
        save_checked(model, temporary)
    return training


def _check_parameters(
    estimator: Any,
    normalize: str,
    C: float | str,
    class_weight: str | None,
    sgd: dict[str, Any] | None,
    *,
    refit: bool,
) -> None:
    if estimator not in LINEAR:
        check_estimator(estimator)
    check_strength(C)
    check_class_weight(class_weight)
    check_choice(normalize, (*NORMALIZATIONS, "auto"), "normalize")
    if estimator not in GRAM and (C != "auto" or normalize != "none"):
        raise ParameterError("C and normalize are for the estimators logistic and ridge only")
    if estimator not in ("auto", "logistic") and class_weight is not None:
        raise ParameterError("class_weight is for the estimator logistic only")
    if normalize == "auto" and C != "auto":
        raise ParameterError("normalize auto is chosen along with C; leave C at auto, or name one")
    if refit and estimator == "sgd":
        raise ParameterError(
            "refit is not for the estimator sgd, whose epochs need images held out; use logistic"
        )
    if estimator == "sgd":
        check_descent(sgd)
    elif sgd:
        raise ParameterError("the parameters sgd are for the estimator sgd only")


def _what_was_chosen(kind: str, fitted: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of `fit_linear` by which a fit is repeated on other images."""
    if kind not in GRAM:
        return {}
    return {
        "estimator": kind,
        "normalize": fitted.get("normalize", "none"),
        "C": fitted["C"],
        "temperature": fitted.get("temperature"),
    }


def _cross_validated(
    store: CodeStore,
    y: NDArray[np.int32],
    trained: NDArray[np.intp],
    groups: NDArray[np.intp],
    seed: int,
    fit: Callable[..., tuple[LinearHead | EstimatorHead, str, dict[str, Any]]],
) -> Score:
    """Score heads that are each fitted without a fold on that fold; rare classes do not count."""
    scores = []
    for train, held_out in stratified_folds(y[trained], N_FOLDS, seed, groups[trained]):
        rows, tested = trained[train], trained[held_out]
        if len(np.unique(y[rows])) < len(np.unique(y[trained])):
            continue  # the head of these would have fewer classes
        head, _, _ = fit(rows, tested)
        scores.append(_score(CodeRows(store, tested), y[tested], head))
    n_images = sum(each.n_images for each in scores)
    if not n_images:
        return Score(0, None, None)
    loss, accuracy = (
        sum(each.n_images * (getattr(each, name) or 0.0) for each in scores) / n_images
        for name in ("loss", "accuracy")
    )
    return Score(n_images, loss, accuracy)


def _check_head(store: CodeStore, rows: CodeRows, n_classes: int, *, linear: bool) -> None:
    """Refuse codes whose head could be trained, but not written or opened.

    Raises
    ------
    TrainingError
        There are more training images than a head can list, or it would be too large.
    """
    if len(rows) > MAX_TRAINING_IMAGES:
        raise TrainingError(
            f"{store.path}: {len(rows):,} training images are more than the "
            f"{MAX_TRAINING_IMAGES:,} that a head can list; lower per_class or train_fraction"
        )
    n_bytes = 4 * n_classes * (rows.n_features + 1)
    if linear and n_bytes + MAX_ENTRIES_BYTES > MAX_MODEL_BYTES:
        raise TrainingError(
            f"{store.path}: its head would have {n_bytes / 1e9:.1f} GB, and ONNX ends at 2 GB; "
            "extract with a backbone exported with pool avg, or use fewer classes"
        )


def labelled_classes(
    store: CodeStore, excluded: PathList | None = None
) -> tuple[NDArray[np.int32], NDArray[np.int32], list[str]]:
    """Return the classes that have images.

    Parameters
    ----------
    store : CodeStore
        An open codes file.
    excluded : PathList, optional
        Images to leave out.

    Returns
    -------
    classes : ndarray of int32, shape (n_classes,)
        Indices of the store's `class_names`, increasing.
    y : ndarray of int32, shape (n_images,)
        For each image the index of its class in `classes`, −1 where it has no label.
    notes : list of str
        Reports images and classes that are left out.

    Raises
    ------
    TrainingError
        There are fewer than two classes, or their names cannot be stored in a head.
    """
    labels, notes = store.labels.copy(), []
    n_without = int((labels < 0).sum())
    if excluded is not None:
        rows = excluded.among(store.paths)
        labels[rows] = -1
        notes.append(excluded.note(len(rows)))
    classes, y = np.unique(labels[labels >= 0], return_inverse=True)
    if len(classes) == 0:
        raise TrainingError(
            f"{store.path}: none of its images has a label; extract a folder of class folders or "
            "a CSV file with the columns path and label"
        )
    if len(classes) == 1:
        raise TrainingError(
            f"{store.path}: all its images are of one class, {store.class_names[classes[0]]}; "
            "a classifier needs two or more"
        )
    names = store.class_names
    if fault := fault_of_labels([names[number] for number in classes]):
        raise TrainingError(f"{store.path}: {fault}; rename the classes and extract it again")
    targets = np.full(len(labels), -1, np.int32)
    targets[labels >= 0] = y
    if n_without:
        are = "is" if n_without == 1 else "are"
        notes.append(f"{counted(n_without, 'image')} without a label {are} left out")
    if empty := len(names) - len(classes):
        are = "is" if empty == 1 else "are"
        notes.append(f"{counted(empty, 'class', 'classes')} without a usable image {are} left out")
    return classes, targets, notes


def _notes_on_folds(estimator: Any, groups: NDArray[np.intp]) -> list[str]:
    """Warn of an estimator that splits the training images into folds itself."""
    has_folds = not isinstance(estimator, str) and any(
        name.rpartition("__")[2] == "cv" for name in estimator.get_params()
    )
    if not has_folds or len(np.unique(groups)) == len(groups):
        return []
    return [
        f"{name_of(estimator)} has folds of its own, which may separate copies and groups: what it "
        "chooses by them may suit these images better than new ones"
    ]


def _sample(parts: Split) -> NDArray[np.intp]:
    """Choose rows of both parts, evenly over the classes, by which rows are ordered."""
    some = [part[:: math.ceil(len(part) / N_COMPARED) or 1] for part in (parts.train, parts.test)]
    return np.sort(np.concatenate(some))


def _score(rows: CodeRows, y: NDArray[np.int32], head: LinearHead | EstimatorHead) -> Score:
    if len(rows) == 0:
        return Score(0, None, None)
    loss, correct = 0.0, 0
    for span, block in rows.blocks():
        logarithms = head.log_probabilities(block)
        loss -= float(logarithms[np.arange(len(block)), y[span]].sum())
        correct += int((logarithms.argmax(axis=1) == y[span]).sum())
    if not math.isfinite(loss):
        raise TrainingError("the head gives probabilities that are not finite; choose another one")
    return Score(len(rows), loss / len(rows), correct / len(rows))


def majority_accuracy(y: NDArray[np.int32], parts: Split) -> float | None:
    """Return the test accuracy of always predicting the class most common in training.

    It is None where the test part is empty.
    """
    if len(parts.test) == 0:
        return None
    return float((y[parts.test] == np.bincount(y[parts.train]).argmax()).mean())
