"""Metrics of several labels per image, by scikit-learn.

They are of the labels that are known: what is unknown counts neither as right nor as wrong. A
label that no image has is left out of means over labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

SMALLEST = float(np.finfo(np.float32).eps)  # a probability of 0 counts as that


@dataclass(frozen=True)
class LabelMetrics:
    """The metrics of one label.

    Attributes
    ----------
    label : str
        The label.
    n_images : int
        Images of which it is known whether they have it.
    n_with : int
        Those that have it: its support.
    n_predicted : int
        Those that are predicted to have it.
    threshold : float
        Probability from which that is so.
    average_precision : float or None
        Area under the curve of precision and recall; None without images that have the label.
    precision, recall, f1 : float or None
        Of the threshold; None where they are of no images.
    """

    label: str
    n_images: int
    n_with: int
    n_predicted: int
    threshold: float
    average_precision: float | None
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class MultiLabelMetrics:
    """The metrics of a classifier of several labels.

    Attributes
    ----------
    n_images : int
        Number of images.
    mean_average_precision : float or None
        Mean of the average precisions; None where no image has a label.
    micro_f1 : float or None
        F1 of all labels of all images together.
    macro_f1 : float or None
        Mean of the F1 of the labels that some image has.
    exact : float
        Share of images of which all known labels are right.
    log_loss : float
        Mean over the labels, in nats, of the mean binary cross-entropy of each.
    labels : list of LabelMetrics
        In the order of the probabilities.
    """

    n_images: int
    mean_average_precision: float | None
    micro_f1: float | None
    macro_f1: float | None
    exact: float
    log_loss: float
    labels: list[LabelMetrics]

    @property
    def guessing(self) -> float | None:
        """The mean average precision of guessing: the mean share of images with a label."""
        return _mean([each.n_with / each.n_images for each in self.labels if each.n_with])

    def worst_labels(self) -> list[LabelMetrics]:
        """Return the labels that some image has, the lowest F1 first."""
        present = [each for each in self.labels if each.n_with]
        return sorted(present, key=lambda each: each.f1 or 0.0)


def measure_labels(
    probabilities: NDArray[np.float32],
    targets: NDArray[np.bool_],
    known: NDArray[np.bool_],
    thresholds: Sequence[float],
    names: Sequence[str],
) -> MultiLabelMetrics:
    """Compute all metrics.

    Parameters
    ----------
    probabilities : ndarray of float32, shape (n_images, n_labels)
        One image at least.
    targets, known : ndarray of bool, shape (n_images, n_labels)
        Which images have each label, and of which that is known.
    thresholds : sequence of float, of length n_labels
        Probabilities from which an image has a label.
    names : sequence of str
        The labels.

    Returns
    -------
    MultiLabelMetrics
    """
    predicted = probabilities >= np.array(thresholds, np.float32)
    p = probabilities.astype(np.float64).clip(SMALLEST, 1 - SMALLEST)
    losses = -np.log(np.where(targets, p, 1 - p))
    labels = [
        _measure_label(
            name,
            threshold,
            *(values[known[:, column], column] for values in (probabilities, targets, predicted)),
        )
        for column, (name, threshold) in enumerate(zip(names, thresholds, strict=True))
    ]
    present = [each for each in labels if each.average_precision is not None]
    n_known = known.sum(axis=0)
    of_label = np.divide(
        (losses * known).sum(axis=0), n_known, where=n_known > 0, out=n_known * 0.0
    )
    return MultiLabelMetrics(
        n_images=len(targets),
        mean_average_precision=_mean([each.average_precision for each in present]),
        micro_f1=_f1(targets[known], predicted[known]),
        macro_f1=_mean([each.f1 for each in present]),
        exact=float(((targets == predicted) | ~known).all(axis=1).mean()),
        log_loss=float(of_label[n_known > 0].mean()),
        labels=labels,
    )


def _measure_label(
    name: str,
    threshold: float,
    probabilities: NDArray[np.float32],
    targets: NDArray[np.bool_],
    predicted: NDArray[np.bool_],
) -> LabelMetrics:
    n_with, n_predicted = int(targets.sum()), int(predicted.sum())
    precision = recall = f1 = average = None
    if n_with:
        average = float(average_precision_score(targets, probabilities))
        recall, f1 = (float(each) for each in _prf(targets, predicted)[1:])
    if n_predicted:
        precision = float(_prf(targets, predicted)[0])
    return LabelMetrics(
        name, len(targets), n_with, n_predicted, threshold, average, precision, recall, f1
    )


def _f1(targets: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> float | None:
    return float(_prf(targets, predicted)[2]) if targets.any() else None


def _prf(targets: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Return precision, recall and F1."""
    precision, recall, f1, _ = precision_recall_fscore_support(
        targets, predicted, average="binary", zero_division=0.0
    )
    return precision, recall, f1


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if numbers else None
