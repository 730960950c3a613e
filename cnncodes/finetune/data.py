"""The images of a fine-tuning: their classes, and which of them train, validate and test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnncodes.errors import SourceError, TrainingError
from cnncodes.extract.store import CodeStore
from cnncodes.head.groups import groups_of, notes_on_split
from cnncodes.head.labels import labelled_classes
from cnncodes.head.split import hold_out, split_by_class
from cnncodes.images.path_lists import PathList
from cnncodes.images.sources import Source

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

    @property
    def fitted(self) -> Rows:
        """The training part: the images that are trained on and those held out of it."""
        return np.sort(np.concatenate([self.train, self.validation]))

    def targets(self) -> NDArray[np.float32]:
        """Return for each image the probabilities of the classes: 1 for its own."""
        return np.eye(len(self.labels), dtype=np.float32)[self.y]

    def weights(self, class_weight: str | None) -> NDArray[np.float32]:
        """Return the weight of each image; with ``"balanced"`` those of all classes are equal."""
        weights = np.ones(len(self.y), np.float32)
        if class_weight is not None:
            counts = np.bincount(self.y[self.train], minlength=len(self.labels))
            of_class = len(self.train) / (len(self.labels) * np.maximum(counts, 1))
            weights = of_class.astype(np.float32)[self.y]
        return weights


def check_labels(images: Source) -> None:
    """Refuse images without two classes before their activations are computed.

    Raises
    ------
    SourceError
        None has a label, or all have the same.
    """
    if images.flags:
        raise SourceError(
            f"{images.root}: its images have more than one label each, and finetune is for one; "
            "cnncodes train makes a head of several"
        )
    labels = {label for label in images.labels if label >= 0}
    if not labels:
        raise SourceError(
            f"{images.root}: none of its images has a label; name a folder of class folders or a "
            "CSV file with the columns path and label"
        )
    if len(labels) == 1:
        raise SourceError(
            f"{images.root}: all its images are of one class, {images.class_names[labels.pop()]}; "
            "a classifier needs two or more"
        )


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
        Share of the training images of each class that is held out of training.
    excluded, together : PathList, optional
        Images to leave out, and pairs of images that stay on one side.

    Raises
    ------
    TrainingError
        There are fewer than two classes, or too few images to hold out or to test.
    """
    classes, y, notes = labelled_classes(store, excluded)
    groups = groups_of(store, together)
    parts = split_by_class(y, train_fraction, method=split, seed=seed, groups=groups)
    notes += notes_on_split(store, classes, y, parts, train_fraction)
    trained = y[parts.train].astype(np.intp)
    held = hold_out(trained, validation_fraction, seed=seed, groups=groups[parts.train])
    for part, what, name in (
        (held.test, "hold out of training", "train_fraction"),
        (parts.test, "test on", "1 - train_fraction"),
    ):
        if len(part) == 0:
            raise TrainingError(
                f"{store.source}: no image is left to {what}; add images, or raise {name}"
            )
    return Data(
        labels=[store.class_names[number] for number in classes],
        y=y,
        groups=groups,
        train=parts.train[held.train],
        validation=parts.train[held.test],
        test=parts.test,
        paths=store.of_images(store.paths),
        digests=store.of_images(store.digests),
        notes=notes,
    )
