"""Weights from which the fit of a logistic regression starts, those of an earlier head.

The optimum does not depend on them; the number of iterations does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from cnncodes.head.rows import CodeRows
from cnncodes.head.scaling import Scaling

Point = tuple[NDArray[Any], NDArray[Any]]  # weights (n_dimensions, n_classes) and intercept


@dataclass(frozen=True)
class Start:
    """Logits to start from: rows · weights + bias.

    Attributes
    ----------
    weights : ndarray of float32, shape (n_features, n_classes)
        On codes, after their normalisation where there is one.
    bias : ndarray of float32, shape (n_classes,)
        Bias of the logits.
    """

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]

    def standardised(self, scaling: Scaling) -> Point:
        """Return weights and intercept of the same logits on standardised codes."""
        intercept = self.bias + scaling.mean.astype(np.float64) @ self.weights
        return self.weights * np.float32(scaling.scale), intercept.astype(np.float32)

    def rotated(self, rows: CodeRows, points: NDArray[Any]) -> Point:
        """Return weights and intercept on the points of `gram.rotate`, of these rows.

        Points R have the inner products of the centred rows X, so X = RQ with orthonormal rows Q.
        Weights that are combinations of X have the coordinates Q · weights, of which the logits
        are R Q · weights.
        """
        logits = np.empty((len(rows), len(self.bias)), np.float32)
        for span, block in rows.blocks():
            with np.errstate(over="ignore", invalid="ignore"):
                logits[span] = block @ self.weights + self.bias
        intercept = logits.mean(axis=0, dtype=np.float64).astype(np.float32)
        centred = logits - intercept
        if points.shape[1] < len(points) or not np.isfinite(centred).all():
            return np.zeros((points.shape[1], len(self.bias)), np.float32), np.zeros_like(self.bias)
        weights = scipy.linalg.solve_triangular(points, centred, lower=True, check_finite=False)
        return np.ascontiguousarray(weights, np.float32), intercept
