"""How far probabilities are from accuracies, in bins of equal width."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

N_BINS = 15
EDGES = np.linspace(0, 1, N_BINS + 1)


def bins_of(confidence: NDArray[Any]) -> NDArray[np.intp]:
    """Return the bin of each confidence, from 0 on; an upper edge belongs to its bin."""
    bins = np.searchsorted(EDGES, confidence, side="left") - 1
    return np.clip(bins, 0, N_BINS - 1)


def calibration_error(probabilities: NDArray[Any], y: NDArray[Any]) -> float:
    """Return the expected calibration error of Guo et al., over bins of equal width.

    Source: Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017.

    Parameters
    ----------
    probabilities : ndarray, shape (n_images, n_classes)
        Rows have sum 1; at least one image.
    y : ndarray of int, shape (n_images,)
        The true classes.
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == y
    differences = np.bincount(bins_of(confidence), weights=confidence - right, minlength=N_BINS)
    return float(np.abs(differences).sum() / len(y))
