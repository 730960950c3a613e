"""Training a head: split, standardise, fit, fold, measure, write.

``logistic`` and ``sgd`` become a matrix and a bias on codes as they are stored, any other
estimator the graph that it is converted to, so what is measured is what the written file computes.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
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
    fault_of_labels,
)
from cnncodes.errors import ParameterError, TrainingError
from cnncodes.extract.store import CodeStore
from cnncodes.head.estimators import EstimatorHead, check_estimator, fit_estimator, name_of
from cnncodes.head.groups import groups_of, notes_on_split
from cnncodes.head.joined import JoinedStore, open_codes
from cnncodes.head.linear import LinearHead
from cnncodes.head.logistic.fit import fit_logistic
from cnncodes.head.logistic.solve import check_strength
from cnncodes.head.rows import CodeRows
from cnncodes.head.sgd.fit import check_descent, fit_sgd
from cnncodes.head.sgd.softmax import Epoch
from cnncodes.head.split import METHODS, Split, split_by_class
from cnncodes.head.unknown import describe_unknown, fit_unknown, images_of_class
from cnncodes.head.views import ImageViews
from cnncodes.images.path_lists import PathList
from cnncodes.models.checksum import save_checked
from cnncodes.models.metadata import HeadInfo, image_key
from cnncodes.output import MODEL, check_output, replacing
from cnncodes.parameters import (
    COUNT,
    REFUSED_SHARE,
    SEED,
    TRAIN_FRACTION,
    as_path,
    check_choice,
    check_class_weight,
    one_or_more_paths,
)
from cnncodes.progress import NoProgress, Progress
from cnncodes.text import counted

LINEAR = ("logistic", "sgd")
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
    unknown : dict or None
        Of the score of "none of these", if there is one: the ``share`` refused by its threshold,
        ``n_images`` and ``n_components`` of its fit, ``test_refused``, and of images of `none`
        what `describe_unknown` returns.
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


def train_head(
    codes: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    estimator: Any = "logistic",
    train_fraction: float = 0.7,
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
    on_epoch: Callable[[Epoch], None] | None = None,
    progress: Progress | None = None,
) -> Training:
    """Train a head on stored codes and write it as ONNX.

    Parameters
    ----------
    codes : str or Path, or sequence of them
        A codes file; or several of the same images by different networks, whose codes are put
        side by side.
    output : str or Path
        The head to write.
    estimator : {"logistic", "sgd", "svm", "knn"} or estimator
        Multinomial logistic regression to convergence; a softmax by mini-batch SGD; an SVM or
        nearest neighbours, as in `fit_estimator`; or a clone of any scikit-learn classifier, or
        Pipeline that ends in one, which has ``predict_proba`` once fitted and which skl2onnx can
        convert. ``"sgd"`` reads the codes in parts, as does ``"logistic"`` where there are fewer
        training images than codes per image; otherwise all training codes are in memory, as
        float32.
    train_fraction : float
        Share of each class that is trained on; the rest is the test part.
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
        Inverse strength of the logistic head's penalty, on codes of mean squared length one;
        ``"auto"`` chooses it by log loss in cross-validation on the training part.
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
    paths, output = one_or_more_paths(codes, "codes"), as_path(output, "output")
    _check_parameters(estimator, C, class_weight, sgd)
    split = check_choice(split, METHODS, "split")
    train_fraction = TRAIN_FRACTION.check(train_fraction, "train_fraction")
    per_class = COUNT.check_or_none(per_class, "per_class")
    seed = SEED.check(seed, "seed")
    unknown = None if unknown is None else REFUSED_SHARE.check(unknown, "unknown")
    if none is not None and unknown is None:
        raise ParameterError(f"none={none!r} is for the score of none of these; pass unknown too")
    check_output(output, overwrite=overwrite, inputs=paths, endings=MODEL)
    excluded = None if exclude is None else PathList(exclude, "exclude")
    together = None if keep_together is None else PathList(keep_together, "keep_together")
    with open_codes(paths) as store, warnings.catch_warnings():
        progress.print_line("reading the codes and training …")
        # scikit-learn takes classes of few images for continuous targets.
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        views = ImageViews(store, tta=tta)
        classes, y, notes = labelled_classes(store, excluded, none)
        notes += store.notes
        groups = groups_of(store, together)
        if together is not None:
            notes.append(f"images of a pair of {together.path.name} stay on one side of the split")
        parts = split_by_class(
            y, train_fraction, method=split, per_class=per_class, seed=seed, groups=groups
        )
        notes += notes_on_split(store, classes, y, parts, train_fraction, per_class)
        notes += views.notes(len(parts.train))
        trained = views.training_rows(parts.train)
        if isinstance(store, JoinedStore):
            store.scale(trained)
        rows = CodeRows(store, trained)
        targets, own = views.repeat(y[parts.train]), views.repeat(groups[parts.train])
        code_shape = store.codes.shape[1:]
        _check_head(store, rows, len(parts.train), len(classes), linear=estimator in LINEAR)
        names = store.class_names
        started = time.monotonic()
        head: LinearHead | EstimatorHead
        if estimator == "logistic":
            weights, bias, fitted = fit_logistic(
                rows,
                targets,
                C=C,
                class_weight=class_weight,
                seed=seed,
                groups=own,
                progress=progress,
            )
            head = LinearHead(weights, bias)
        elif estimator == "sgd":
            weights, bias, fitted = fit_sgd(
                rows,
                targets,
                seed=seed,
                groups=own,
                parameters=sgd,
                on_epoch=on_epoch,
                progress=progress,
            )
            head = LinearHead(weights, bias, remedy="lower the learning rate")
        else:
            sample = CodeRows(store, views.tested_rows(_sample(parts)))
            head = fit_estimator(
                estimator, rows, targets, sample, code_shape, seed=seed, groups=own
            )
            notes += _notes_on_folds(estimator, groups[parts.train])
            fitted = {"parameters": head.parameters}
        seconds = time.monotonic() - started
        notes += fitted.pop("notes", [])
        score = None
        if unknown is not None:
            themselves = CodeRows(store, views.first_rows(parts.train))
            score = fit_unknown(themselves, code_shape, unknown, groups[parts.train])
        scores = [_score(store, views, part, y[part], head) for part in (parts.train, parts.test)]
        training = Training(
            path=output,
            estimator=name_of(estimator),
            weights=store.backbone.weights,
            labels=[names[number] for number in classes],
            train=scores[0],
            test=scores[1],
            majority=majority_accuracy(y, parts),
            seconds=seconds,
            fitted=fitted,
            notes=notes,
            unknown=None if score is None else describe_unknown(score, store, parts.test, none),
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
                **views.training_entries,
                "train": asdict(training.train),
                "test": asdict(training.test),
                **({} if score is None else {"unknown": training.unknown}),
            },
            backbone=store.backbone,
            backbone_sha256=store.backbone_sha256,
            training_images=frozenset(map(image_key, rows.digests())),
            created_with=created_with("sklearn", *converters),
            white=store.white,
            parts=store.parts if isinstance(store, JoinedStore) else (),
        )
        model = head.to_onnx(code_shape, info)
        if score is not None:
            score.add_to(model, code_shape)
        if isinstance(store, JoinedStore):
            store.write_scales(model)  # in front of all that reads the codes
    with replacing(output, overwrite=overwrite) as temporary:
        save_checked(model, temporary)
    return training


def _check_parameters(
    estimator: Any, C: float | str, class_weight: str | None, sgd: dict[str, Any] | None
) -> None:
    if estimator not in LINEAR:
        check_estimator(estimator)
    check_strength(C)
    check_class_weight(class_weight)
    if estimator != "logistic" and (C != "auto" or class_weight is not None):
        raise ParameterError("C and class_weight are for the estimator logistic only")
    if estimator == "sgd":
        check_descent(sgd)
    elif sgd:
        raise ParameterError("the parameters sgd are for the estimator sgd only")


def _check_head(
    store: CodeStore, rows: CodeRows, n_images: int, n_classes: int, *, linear: bool
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
    n_bytes = 4 * n_classes * (rows.n_features + 1)
    if linear and n_bytes + MAX_ENTRIES_BYTES > MAX_MODEL_BYTES:
        raise TrainingError(
            f"{store.path}: its head would have {n_bytes / 1e9:.1f} GB, and ONNX ends at 2 GB; "
            "extract with a backbone exported with pool avg, or use fewer classes"
        )


def labelled_classes(
    store: CodeStore, excluded: PathList | None = None, none: str | None = None
) -> tuple[NDArray[np.int32], NDArray[np.int32], list[str]]:
    """Return the classes that have images.

    Parameters
    ----------
    store : CodeStore
        An open codes file.
    excluded : PathList, optional
        Images to leave out.
    none : str, optional
        A class to leave out.

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
    ParameterError
        There is no class `none`.
    """
    labels, notes = store.of_images(store.labels).copy(), []
    n_without = int((labels < 0).sum())
    if none is not None:
        labels[images_of_class(store, none)] = -1
    if excluded is not None:
        rows = excluded.among(store.of_images(store.paths))
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
    if empty := len(names) - len(classes) - (none is not None):
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


def _score(
    store: CodeStore,
    views: ImageViews,
    images: NDArray[np.intp],
    y: NDArray[np.int32],
    head: LinearHead | EstimatorHead,
) -> Score:
    if len(images) == 0:
        return Score(0, None, None)
    loss, correct = 0.0, 0
    for span, block in CodeRows(store, views.tested_rows(images)).blocks():
        logarithms, truth = views.average(head.log_probabilities(block)), y[views.tested(span)]
        loss -= float(logarithms[np.arange(len(truth)), truth].sum())
        correct += int((logarithms.argmax(axis=1) == truth).sum())
    if not math.isfinite(loss):
        raise TrainingError("the head gives probabilities that are not finite; choose another one")
    return Score(len(images), loss / len(images), correct / len(images))


def majority_accuracy(y: NDArray[np.int32], parts: Split) -> float | None:
    """Return the test accuracy of always predicting the class most common in training.

    It is None where the test part is empty.
    """
    if len(parts.test) == 0:
        return None
    return float((y[parts.test] == np.bincount(y[parts.train]).argmax()).mean())
