"""The images of a fine-tuning: their classes, and which of them train, validate and test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnncodes.errors import TrainingError
from cnncodes.extract.store import CodeStore
from cnncodes.head.groups import groups_of, notes_on_split
from cnncodes.head.labels import labelled_classes
from cnncodes.head.logistic.newton import masses_of
from cnncodes.head.split import hold_out, split_by_class
from cnncodes.head.weighting import Weighting
from cnncodes.images.path_lists import PathList

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Data:
    """Labelled images in three parts; numbers of images count from 0 on, whatever their views.

    Attributes
    ----------
    labels : list of str
        The classes that have images.
    y : ndarray of int32, shape (n_images,)
        For each image the index of its class, −1 where it is left out.
    groups : ndarray of intp, shape (n_images,)
        Images with equal numbers belong together.
    train, validation, test : ndarray of intp
        The images that are trained on, held out of the training part, and tested.
    paths, digests : list of str
        Of each image.
    notes : list of str
        Notes for the user.
    weighting : Weighting
        How much each image counts in training, and how probable its label is.
    """

    labels: list[str]
    y: NDArray[np.int32]
    groups: Rows
    train: Rows
    validation: Rows
    test: Rows
    paths: list[str]
    digests: list[str]
    notes: list[str]
    weighting: Weighting

    @property
    def fitted(self) -> Rows:
        """The training part: the images that are trained on and those held out of it."""
        return np.sort(np.concatenate([self.train, self.validation]))

    def targets(self) -> NDArray[np.float32]:
        """Return for each image the probabilities of the classes, those of its label."""
        probabilities = self.weighting.probabilities
        return masses_of(self.y, len(self.labels), None, probabilities).astype(np.float32)

    def fit_options(self, images: Rows) -> dict[str, NDArray[np.float64]]:
        """Return weights and soft targets of images for `GramLogisticRegression.fit`, if any."""
        options = {}
        if self.weighting.weights is not None:
            options["sample_weight"] = self.weighting.weights[images]
        if self.weighting.probabilities is not None:
            options["targets"] = self.targets()[images].astype(np.float64)
        return options

    def weights(self, class_weight: str | None) -> NDArray[np.float32]:
        """Return the weight of each image; with ``"balanced"`` those of all classes are equal."""
        weights = np.ones(len(self.y), np.float32)
        own = self.weighting.weights
        if class_weight is not None:
            trained = None if own is None else own[self.train]
            counts = np.bincount(self.y[self.train], trained, minlength=len(self.labels))
            of_class = counts.sum() / (len(self.labels) * np.where(counts > 0, counts, 1))
            weights = of_class.astype(np.float32)[self.y]
        return weights if own is None else weights * own.astype(np.float32)


def read_data(
    store: CodeStore,
    *,
    train_fraction: float,
    split: str,
    validation_fraction: float,
    seed: int,
    excluded: PathList | None,
    together: PathList | None,
) -> Data:
    """Split the images of a codes file, the same way as ``cnncodes train``.

    Parameters
    ----------
    store : CodeStore
        An open codes file.
    train_fraction, split, seed
        As for `train_head`.
    validation_fraction : float
        Share of the training images of each class that is held out of training; may be 0.
    excluded, together : PathList, optional
        Images to leave out, and pairs of images that stay on one side.

    Raises
    ------
    TrainingError
        There are fewer than two classes, too few images to hold out or to test, or none of a class
        has a weight above 0.
    """
    classes, y, notes = labelled_classes(store, excluded)
    groups = groups_of(store, together)
    parts = split_by_class(y, train_fraction, method=split, seed=seed, groups=groups)
    notes += notes_on_split(store, classes, y, parts, train_fraction)
    labels = [store.class_names[number] for number in classes]
    weighting = Weighting.of(store, y, labels)
    notes += weighting.notes(parts.train)
    trained = y[parts.train].astype(np.intp)
    held = hold_out(trained, validation_fraction, seed=seed, groups=groups[parts.train])
    for part, what, name in (
        (held.test, "hold out of training", "train_fraction"),
        (parts.test, "test on", "1 - train_fraction"),
    ):
        if len(part) == 0 and (part is parts.test or validation_fraction > 0):
            raise TrainingError(
                f"{store.source}: no image is left to {what}; add images, or raise {name}"
            )
    weighting.trained(parts.train[held.train])  # refused where a class has weights of 0 only
    return Data(
        labels=labels,
        y=y,
        groups=groups,
        train=parts.train[held.train],
        validation=parts.train[held.test],
        test=parts.test,
        paths=store.of_images(store.paths),
        digests=store.of_images(store.digests),
        notes=notes,
        weighting=weighting,
    )
