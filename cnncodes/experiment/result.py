"""The figures of an experiment, and its JSON file, which has no durations."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cnncodes.experiment.published import PUBLISHED, Published

FORMAT = "1"


@dataclass(frozen=True)
class Point:
    """Classifiers that were trained on the same images.

    Attributes
    ----------
    per_class : int or None
        Training images per class, at most; None where all are used.
    n_train : int
        Training images of all classes.
    softmax : dict of int to float
        Test accuracy of the softmax layer after each number of epochs.
    logistic : float
        Test accuracy of the logistic head, trained to convergence.
    C : float
        Inverse strength of its penalty.
    """

    per_class: int | None
    n_train: int
    softmax: dict[int, float]
    logistic: float
    C: float


@dataclass(frozen=True)
class NetworkResult:
    """The figures of a network.

    Attributes
    ----------
    name : str
        Name of its file without the ending, and of its files in the folder.
    backbone, weights, weights_file, precision : str
        As for `BackboneInfo`.
    backbone_sha256 : str
        SHA-256 of its file.
    code_shape : tuple of int
        Shape of an image's codes.
    points : tuple of Point
        In increasing order of training images; the last is of all.
    """

    name: str
    backbone: str
    weights: str
    weights_file: str
    precision: str
    backbone_sha256: str
    code_shape: tuple[int, ...]
    points: tuple[Point, ...]

    @property
    def published(self) -> Published | None:
        """The published figures of this network."""
        return PUBLISHED.get(self.backbone)


@dataclass(frozen=True)
class Times:
    """Durations of a network, in seconds.

    Attributes
    ----------
    codes : float or None
        Computing the codes; None where they were there before.
    n_images : int
        Images whose codes were computed in that time.
    softmax : dict of int to float
        Training the softmax layer on all training images, by its epochs.
    logistic : float
        Training the logistic head on all training images, with the choice of C.
    """

    codes: float | None
    n_images: int
    softmax: dict[int, float]
    logistic: float


@dataclass(frozen=True)
class Experiment:
    """The figures of all networks.

    Attributes
    ----------
    source : str
        Name of the folder or CSV file of the images.
    images_sha256 : str
        `digest_images` of all images with codes.
    n_classes, n_train, n_test : int
        Numbers of classes, and of training and test images.
    majority : float
        Test accuracy of always predicting the class most common in training.
    seed : int
        Seed of the softmax layers and of the cross-validation.
    is_caltech101 : bool
        Whether the classes are those of Caltech-101, so that published figures compare.
    networks : tuple of NetworkResult
        In the order in which they were named.
    notes : tuple of str
        Remarks on the data.
    created_with : str
        Versions of the packages.
    times : tuple of Times
        One for each network; not in the JSON file.
    """

    source: str
    images_sha256: str
    n_classes: int
    n_train: int
    n_test: int
    majority: float
    seed: int
    is_caltech101: bool
    networks: tuple[NetworkResult, ...]
    notes: tuple[str, ...]
    created_with: str
    times: tuple[Times, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as JSON types: the same for the same images, networks and seed."""
        content = asdict(self)
        del content["times"]
        for network, each in zip(content["networks"], self.networks, strict=True):
            published = each.published if self.is_caltech101 else None
            network["published"] = None if published is None else asdict(published)
        return {"format": FORMAT, "kind": "experiment", **content}
