"""How well a model recognises images that are of none of its classes."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnncodes.errors import SourceError
from cnncodes.head.unknown import auroc, refused_share
from cnncodes.images.class_maps import recorded_names
from cnncodes.models.metadata import HeadInfo, image_key
from cnncodes.text import counted, listed


@dataclass(frozen=True)
class ForeignImages:
    """Images of no class, with their scores.

    Attributes
    ----------
    path : str
        Where they are.
    class_names : sequence of str
        The folders or labels that they have there.
    labels : ndarray of int, shape (n_images,)
        Indices into `class_names`, −1 for an image without a label.
    scores : ndarray of float32, shape (n_images,)
        The model's output ``unknown``.
    notes : list of str
        Reports what was left out.
    """

    path: str
    class_names: Sequence[str]
    labels: NDArray[np.int32]
    scores: NDArray[np.float32]
    notes: list[str]


@dataclass(frozen=True)
class ForeignClass:
    """The metrics of images of one kind.

    Attributes
    ----------
    label : str
        Its folder or label.
    n_images : int
        Number of its images.
    auroc : float
        As in `UnknownMetrics`.
    refused : float
        Share of them that the model refuses.
    """

    label: str
    n_images: int
    auroc: float
    refused: float


@dataclass(frozen=True)
class UnknownMetrics:
    """Metrics of the score of "none of these".

    Attributes
    ----------
    refused_known : float
        Share of the evaluated images, all of the classes, that the model refuses.
    path : str or None
        Where the images of no class are, None where there are none.
    n_images : int
        Number of images of no class.
    auroc : float or None
        Area under the ROC curve: the probability that an image of no class has a higher score
        than one of the classes.
    refused : float or None
        Share of the images of no class that the model refuses.
    classes : list of ForeignClass
        The same for each kind of them.
    """

    refused_known: float
    path: str | None
    n_images: int
    auroc: float | None
    refused: float | None
    classes: list[ForeignClass]


def measure_unknown(known: NDArray[np.float32], foreign: ForeignImages | None) -> UnknownMetrics:
    """Measure the score on images of the classes and, if there are any, of none.

    Parameters
    ----------
    known : ndarray of float32, shape (n_images,)
        Scores of the images of the classes, one or more.
    foreign : ForeignImages, optional
        Images of no class.

    Returns
    -------
    UnknownMetrics
    """
    refused_known = refused_share(known) or 0.0
    if foreign is None:
        return UnknownMetrics(refused_known, None, 0, None, None, [])
    classes = []
    for number in np.unique(foreign.labels[foreign.labels >= 0]):
        scores = foreign.scores[foreign.labels == number]
        area, refused = auroc(known, scores) or 0.0, refused_share(scores) or 0.0
        classes.append(ForeignClass(foreign.class_names[number], len(scores), area, refused))
    return UnknownMetrics(
        refused_known=refused_known,
        path=foreign.path,
        n_images=len(foreign.scores),
        auroc=auroc(known, foreign.scores),
        refused=refused_share(foreign.scores),
        classes=classes,
    )


def choose_foreign(
    path: Path,
    info: HeadInfo,
    labels: NDArray[np.int32],
    class_names: Sequence[str],
    notes: list[str],
) -> NDArray[np.intp]:
    """Return the images of no class: all but those of a class that the model knows.

    Parameters
    ----------
    path : Path
        Where they are; named in errors.
    info : HeadInfo
        The metadata of the model.
    labels : ndarray of int32, shape (n_images,)
        Indices into `class_names`, −1 for an image without a label.
    class_names : sequence of str
        Their classes.
    notes : list of str
        Gets a note on those that are left out.

    Returns
    -------
    ndarray of intp
        Indices of images.

    Raises
    ------
    SourceError
        There are none.
    """
    own_names = recorded_names(info, class_names)
    shared = [number for number, name in enumerate(own_names) if name in info.labels]
    of_class = np.isin(labels, shared)
    if of_class.any():
        names = listed([class_names[number] for number in shared])
        images = counted(int(of_class.sum()), "image")
        notes.append(f"{path}: {images} of classes of the model left out: {names}")
    if of_class.all():
        raise SourceError(f"{path}: has no image of no class; name others ({'; '.join(notes)})")
    return np.flatnonzero(~of_class)


def check_foreign(path: Path, chosen: Sized) -> None:
    """Refuse images of no class of which none is left.

    Raises
    ------
    SourceError
        `chosen` is empty.
    """
    if not len(chosen):
        raise SourceError(
            f"{path}: has no image left to measure, since those that can be used trained the "
            "model; name others"
        )


class TrainingImages:
    """The images that a model was trained on, as a container of SHA-256.

    Parameters
    ----------
    info : HeadInfo
        The metadata of the model.
    """

    def __init__(self, info: HeadInfo) -> None:
        self._keys = info.training_images

    def __contains__(self, digest: object) -> bool:
        return image_key(str(digest)) in self._keys
