"""Metrics of a classifier, from its probabilities and the true classes.

They are those of scikit-learn where it has them; the expected calibration error is that of Guo,
Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from cnncodes.head.calibration import EDGES, N_BINS, bins_of, calibration_error

_IMAGES_PER_BIN = 10
TOP = 5


@dataclass(frozen=True)
class ClassMetrics:
    """The metrics of one class.

    Attributes
    ----------
    label : str
        The class.
    n_images : int
        Images of the class: its support.
    n_predicted : int
        Images for which the class was predicted.
    precision : float or None
        Share of its predictions that are right; None where there are none.
    recall : float or None
        Share of its images that were predicted as such; None where there are none.
    f1 : float or None
        Harmonic mean of precision and recall; None where there are no images.
    """

    label: str
    n_images: int
    n_predicted: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class Bin:
    """The predictions whose probability is between two bounds.

    Attributes
    ----------
    lower, upper : float
        The bounds; `upper` is in the bin, `lower` in the one before.
    n_images : int
        Predictions in the bin.
    confidence : float or None
        Mean probability of the predicted class; None where the bin is empty.
    accuracy : float or None
        Share of right predictions; None where the bin is empty.
    """

    lower: float
    upper: float
    n_images: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Confusion:
    """The number of images of class `label` that were predicted as class `predicted`."""

    label: str
    predicted: str
    n_images: int


@dataclass(frozen=True)
class Metrics:
    """The metrics of a classifier.

    Attributes
    ----------
    n_images : int
        Number of images.
    accuracy : float
        Share of images whose likeliest class is the true one.
    top5_accuracy : float or None
        Share of images whose true class is among the five likeliest; None for five classes or
        fewer, where it is always 1.
    balanced_accuracy : float
        Mean recall of the classes that have images.
    log_loss : float
        Mean cross-entropy, in nats; probabilities are clipped at 2.2e-16.
    calibration_error : float
        Expected calibration error: the mean distance of `Bin.accuracy` from `Bin.confidence`,
        weighted by the images of each bin.
    majority : float
        Accuracy of always predicting `majority_label`.
    majority_label : str
        The class with most images.
    classes : list of ClassMetrics
        In the order of the probabilities.
    confusion_matrix : list of list of int
        Images by true class (rows) and predicted class (columns).
    bins : list of Bin
        15 bins of equal width.
    """

    n_images: int
    accuracy: float
    top5_accuracy: float | None
    balanced_accuracy: float
    log_loss: float
    calibration_error: float
    majority: float
    majority_label: str
    classes: list[ClassMetrics]
    confusion_matrix: list[list[int]]
    bins: list[Bin]

    def worst_classes(self) -> list[ClassMetrics]:
        """Return the classes that have images, the lowest F1 first."""
        present = [each for each in self.classes if each.f1 is not None]
        return sorted(present, key=lambda each: each.f1 or 0.0)

    def confusions(self, n: int) -> list[Confusion]:
        """Return the `n` most frequent confusions, most frequent first."""
        matrix = np.array(self.confusion_matrix)
        np.fill_diagonal(matrix, 0)
        order = np.argsort(-matrix, axis=None, kind="stable")[:n]
        labels = [each.label for each in self.classes]
        return [
            Confusion(labels[row], labels[column], int(matrix[row, column]))
            for row, column in zip(*np.unravel_index(order, matrix.shape), strict=True)
            if matrix[row, column]
        ]


def measure(probabilities: NDArray[np.float32], y: NDArray[np.intp], labels: list[str]) -> Metrics:
    """Compute all metrics.

    Parameters
    ----------
    probabilities : ndarray of float32, shape (n_images, n_classes)
        Rows have sum 1 but for rounding; at least one image and two classes.
    y : ndarray of intp, shape (n_images,)
        The true classes, as columns of `probabilities`; some classes may have no images.
    labels : list of str
        Names of the classes.

    Returns
    -------
    Metrics
    """
    p = probabilities.astype(np.float64)
    p /= p.sum(axis=1, keepdims=True)  # scikit-learn warns of sums that float32 rounded
    numbers = np.arange(len(labels))
    predicted = p.argmax(axis=1)
    precision, recall, f1, support = precision_recall_fscore_support(
        y, predicted, labels=numbers, zero_division=np.nan
    )
    n_predicted = np.bincount(predicted, minlength=len(labels))
    bins = _bins(p.max(axis=1), predicted == y)
    top5 = top_k_accuracy_score(y, p, k=TOP, labels=numbers) if len(labels) > TOP else None
    return Metrics(
        n_images=len(y),
        accuracy=float((predicted == y).mean()),
        top5_accuracy=None if top5 is None else float(top5),
        balanced_accuracy=float(recall[support > 0].mean()),
        log_loss=float(log_loss(y, p, labels=numbers)),
        calibration_error=calibration_error(p, y),
        majority=float(support.max() / len(y)),
        majority_label=labels[support.argmax()],
        classes=[
            ClassMetrics(
                label=labels[number],
                n_images=int(support[number]),
                n_predicted=int(n_predicted[number]),
                precision=float(precision[number]) if n_predicted[number] else None,
                recall=float(recall[number]) if support[number] else None,
                f1=float(f1[number]) if support[number] else None,
            )
            for number in numbers
        ],
        confusion_matrix=confusion_matrix(y, predicted, labels=numbers).tolist(),
        bins=bins,
    )


def _bins(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> list[Bin]:
    bin_of, bins = bins_of(confidence), []
    for number in range(N_BINS):
        inside = bin_of == number
        n = int(inside.sum())
        bins.append(
            Bin(
                lower=float(EDGES[number]),
                upper=float(EDGES[number + 1]),
                n_images=n,
                confidence=float(confidence[inside].mean()) if n else None,
                accuracy=float(right[inside].mean()) if n else None,
            )
        )
    return bins


def drawn_bins(bins: Sequence[Bin]) -> list[Bin]:
    """Return the bins to draw: of few images, each three joined into one.

    Parameters
    ----------
    bins : sequence of Bin
        As in `Metrics.bins`.

    Returns
    -------
    list of Bin
        A third of them where they have fewer than `_IMAGES_PER_BIN` images on average, and where
        three divides their number; else the same.
    """
    if sum(each.n_images for each in bins) >= _IMAGES_PER_BIN * len(bins) or len(bins) % 3:
        return list(bins)
    return [_joined(bins[first : first + 3]) for first in range(0, len(bins), 3)]


def _joined(bins: Sequence[Bin]) -> Bin:
    filled = [each for each in bins if each.n_images]
    n_images = sum(each.n_images for each in filled)

    def mean(values: Iterable[float | None]) -> float | None:
        pairs = zip(values, filled, strict=True)
        total = sum(value * each.n_images for value, each in pairs if value is not None)
        return total / n_images if n_images else None

    return replace(
        bins[0],
        upper=bins[-1].upper,
        n_images=n_images,
        confidence=mean(each.confidence for each in filled),
        accuracy=mean(each.accuracy for each in filled),
    )


def accuracy_interval(accuracy: float, n_images: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of an accuracy, after Wilson.

    Parameters
    ----------
    accuracy : float
        The share of right predictions.
    n_images : int
        The number of predictions, at least 1.

    Returns
    -------
    low, high : float
        Between 0 and 1.

    References
    ----------
    E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.
    """
    z = 1.96  # standard deviations
    centre = accuracy + z**2 / (2 * n_images)
    margin = z * math.sqrt(accuracy * (1 - accuracy) / n_images + (z / (2 * n_images)) ** 2)
    scale = 1 + z**2 / n_images
    return max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale)
