"""Training a head for images with several labels: split, fit, measure, write."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from cnncodes._version import created_with
from cnncodes.bounds import MAX_ENTRIES_BYTES, MAX_MODEL_BYTES, MAX_TRAINING_IMAGES
from cnncodes.errors import ParameterError, TrainingError
from cnncodes.extract.store import CodeStore
from cnncodes.extract.writing import WEIGHTING
from cnncodes.head.groups import groups_of
from cnncodes.head.head_onnx import build_head
from cnncodes.head.joined import JoinedStore
from cnncodes.head.linear import check_logits
from cnncodes.head.memory import OF_FEWER, check_memory, needed_by_labels
from cnncodes.head.multilabel.data import Labels, note_on_left_out, split_strata
from cnncodes.head.multilabel.fit import LabelFit, fit_labels
from cnncodes.head.multilabel.scores import measure_labels
from cnncodes.head.normalize import NormalizedRows, normalized
from cnncodes.head.recipe import Score
from cnncodes.head.rows import CodeRows
from cnncodes.head.split import Split, split_by_class
from cnncodes.head.views import ImageViews, mean_logits
from cnncodes.head.writing import head_info, write_head
from cnncodes.images.path_lists import PathList
from cnncodes.parameters import STANDARDIZE
from cnncodes.progress import Progress
from cnncodes.text import counted

ESTIMATOR = "logistic"
SEVERAL = "images with more than one label each"


@dataclass(frozen=True)
class LabelScore(Score):
    """Metrics of a head of several labels on some images; None where they have no labels.

    `loss` is the mean binary cross-entropy of a label, and `accuracy` the share of images of which
    all known labels are right.

    Attributes
    ----------
    mean_average_precision, micro_f1, macro_f1 : float or None
        As in `MultiLabelMetrics`.
    guessing : float or None
        The mean average precision of guessing, which is the mean share of images with a label.
    """

    mean_average_precision: float | None = None
    micro_f1: float | None = None
    macro_f1: float | None = None
    guessing: float | None = None


@dataclass(frozen=True)
class LabelSettings:
    """The parameters of `train_head` that a head of several labels has.

    Attributes
    ----------
    normalize, train_fraction, split, per_class, seed, tta, C, class_weight, refit
        As for `train_head`. `per_class` is the number of images of each stratum.
    """

    normalize: str
    train_fraction: float
    split: str
    per_class: int | None
    seed: int
    tta: bool
    C: float | str
    class_weight: str | None
    refit: bool


def check_settings(estimator: Any, settings: LabelSettings, unknown: float | None) -> None:
    """Refuse what is not for heads of several labels.

    Raises
    ------
    ParameterError
        It names the parameter.
    """
    several = SEVERAL
    if estimator not in ("auto", ESTIMATOR):
        raise ParameterError(f"for {several} the estimator is logistic alone; leave it at that")
    if settings.normalize == "auto" or STANDARDIZE in settings.normalize:
        raise ParameterError(
            f"normalize={settings.normalize!r} is not for {several}; name another, such as sqrt"
        )
    if settings.train_fraction == 1:
        raise ParameterError(
            f"train_fraction=1 is not for {several}; leave some to test on, and pass refit=True to "
            "train on all in the end"
        )
    if unknown is not None:
        raise ParameterError(
            f"unknown='SHARE' is not for {several}, which may have none of the labels; leave it out"
        )


def check_plain(store: CodeStore, *, earlier: bool, classes: bool) -> None:
    """Refuse an earlier head, new names of classes, and weights of images.

    Raises
    ------
    ParameterError
        There is one of these.
    """
    for parameter, is_used in (("earlier='HEAD'", earlier), ("classes='MAP'", classes)):
        if is_used:
            raise ParameterError(f"{parameter} is not for {SEVERAL}; leave it out")
    for name in WEIGHTING:
        if (getattr(store, name) != 1).any():
            raise ParameterError(
                f"{store.path}: has {name}, which are not for {SEVERAL}; leave the columns weight "
                "and probability out of their table, and run cnncodes extract --update again"
            )


class LabelTrainer:
    """A codes file of images with several labels, from which heads are fitted.

    Parameters
    ----------
    store : CodeStore
        The open file.
    settings : LabelSettings
        How they are fitted.
    excluded, together : PathList, optional
        As ``exclude`` and ``keep_together`` of `train_head`.
    progress : Progress
        Counts the work.

    Attributes
    ----------
    notes : list of str
        Notes on the data and the fits, for the user.
    labels : Labels
        Those that are trained.
    parts : Split
        The training and test images.
    usable : ndarray of intp
        All images that are not left out.
    """

    def __init__(
        self,
        store: CodeStore,
        settings: LabelSettings,
        excluded: PathList | None,
        together: PathList | None,
        progress: Progress,
    ) -> None:
        self._store, self._settings, self._progress = store, settings, progress
        self.views = ImageViews(store, tta=settings.tta)
        self._groups = groups_of(store, together)
        labels = Labels.of(store)
        strata, self.notes = split_strata(store, labels, excluded)
        self.notes += store.notes
        if together is not None:
            self.notes.append(together.note_on_pairs(store.of_images(store.paths)))
        self.usable = np.flatnonzero(strata >= 0)
        self.parts: Split = split_by_class(
            strata,
            settings.train_fraction,
            method=settings.split,
            per_class=settings.per_class,
            seed=settings.seed,
            groups=self._groups,
        )
        self.notes += note_on_left_out(labels, self.parts.train)
        self.labels = labels.only(np.flatnonzero(labels.trainable(self.parts.train)))
        if not self.labels.names:
            raise TrainingError(
                f"{store.path}: there is no label that some training images have and others have "
                "not; add images"
            )
        self.notes += self.views.notes(len(self.parts.train))
        self._check_size()
        self._check_memory()

    def fit(self, images: NDArray[np.intp], like: LabelFit | None = None) -> LabelFit:
        """Fit a head to some images, with C and thresholds of another fit if there is one."""
        trained = self.views.training_rows(images)
        if isinstance(self._store, JoinedStore):
            self._store.scale(trained)
        rows, settings = CodeRows(self._store, trained), self._settings
        if settings.normalize != "none":
            rows = NormalizedRows(rows, settings.normalize)
        return fit_labels(
            rows,
            self._of_rows(self.labels.targets[images]),
            self._of_rows(self.labels.known[images]),
            self.labels.names,
            C=settings.C if like is None else like.fitted["C"],
            thresholds=None if like is None else like.thresholds,
            class_weight=settings.class_weight,
            groups=self.views.repeat(self._groups[images]),
            n_averaged=self.views.n_averaged,
            seed=settings.seed,
            progress=self._progress,
        )

    def score(self, images: NDArray[np.intp], fit: LabelFit) -> LabelScore:
        """Measure a head, the last that was fitted, on some images."""
        if len(images) == 0:
            return LabelScore(0, None, None)
        targets, known = self.labels.targets[images], self.labels.known[images]
        outputs = []
        for _, block in CodeRows(self._store, self.views.tested_rows(images)).blocks():
            with np.errstate(over="ignore", invalid="ignore"):
                X = normalized(block, self._settings.normalize)
                logits = X @ fit.weights + fit.bias
            check_logits(logits)
            outputs.append(logits)
        logits = np.concatenate(outputs)
        probabilities = expit(mean_logits(logits, self.views.n_averaged))
        metrics = measure_labels(probabilities, targets, known, fit.thresholds, self.labels.names)
        return LabelScore(
            len(images),
            metrics.log_loss,
            metrics.exact,
            metrics.mean_average_precision,
            metrics.micro_f1,
            metrics.macro_f1,
            metrics.guessing,
        )

    def _of_rows(self, values: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return what is known of each image for each of its training rows."""
        return np.asarray(values[self.views.repeat(np.arange(len(values)))])

    def _check_size(self) -> None:
        n_features = int(np.prod(self._store.codes.shape[1:]))
        n_bytes = 4 * len(self.labels.names) * (n_features + 1)
        if n_bytes + MAX_ENTRIES_BYTES > MAX_MODEL_BYTES or len(self.usable) > MAX_TRAINING_IMAGES:
            raise TrainingError(
                f"{self._store.path}: a head of {len(self.labels.names):,} labels on "
                f"{len(self.usable):,} images could not be written; extract with a backbone "
                "exported with pool avg, or use fewer labels or images"
            )

    def _check_memory(self) -> None:
        refit = self._settings.refit
        trained = self.views.training_rows(self.usable if refit else self.parts.train)
        shape = (len(trained), int(np.prod(self._store.codes.shape[1:])))
        remedy = f"{OF_FEWER}, without refit=True" if refit else OF_FEWER
        check_memory(self._store.path, ESTIMATOR, needed_by_labels(*shape), *shape, remedy=remedy)


def train_labels(
    store: CodeStore,
    output: Path,
    settings: LabelSettings,
    *,
    excluded: PathList | None,
    together: PathList | None,
    overwrite: bool,
    progress: Progress,
) -> dict[str, Any]:
    """Train a head on codes of images with several labels, and write it.

    Parameters
    ----------
    store : CodeStore
        An open codes file with a `label_matrix`.
    output : Path
        The head.
    settings, excluded, together, progress
        As for `LabelTrainer`.
    overwrite : bool
        Whether a file at `output` may be replaced.

    Returns
    -------
    dict
        The fields of `Training`.

    Raises
    ------
    TrainingError
        No label can be trained, codes are not finite, the head would be too large, or training
        takes more memory than there is.
    OutputError
        The head cannot be written.
    """
    trainer = LabelTrainer(store, settings, excluded, together, progress)
    views, parts = trainer.views, trainer.parts
    started = time.monotonic()
    fit = trainer.fit(parts.train)
    seconds = time.monotonic() - started
    notes = trainer.notes + fit.notes
    train, test = (trainer.score(part, fit) for part in (parts.train, parts.test))
    written, trained = fit, parts.train
    if settings.refit:
        started = time.monotonic()
        trained = trainer.usable
        written = trainer.fit(trained, like=fit)
        seconds += time.monotonic() - started
        notes += [note for note in written.notes if note not in notes]
        notes.append(
            f"the head that is written is trained on all {counted(len(trained), 'image')}, with "
            "what was chosen on the training part; the scores are of the head of the training part"
        )
    if settings.normalize != "none":
        fit.fitted["normalize"] = settings.normalize
    chosen = {name: getattr(settings, name) for name in ("train_fraction", "per_class", "seed")}
    info = head_info(
        store,
        views,
        labels=trainer.labels.names,
        estimator=ESTIMATOR,
        fitted=fit.fitted,
        split={"method": settings.split, **chosen},
        scores=(train, test),
        trained=trained,
        measured=parts.test if settings.refit else parts.test[:0],
        created_with=created_with("sklearn"),
        entries={"refit": {"n_images": len(trained)}} if settings.refit else {},
        thresholds=written.thresholds,
    )
    code_shape = store.codes.shape[1:]
    model = build_head(written.weights, written.bias, code_shape, info, settings.normalize)
    write_head(model, store, output, overwrite=overwrite)
    return {
        "path": output,
        "estimator": ESTIMATOR,
        "weights": store.backbone.weights,
        "labels": trainer.labels.names,
        "train": train,
        "test": test,
        "majority": None,
        "seconds": seconds,
        "fitted": {**fit.fitted, "thresholds": list(fit.thresholds)},
        "notes": notes,
    }
