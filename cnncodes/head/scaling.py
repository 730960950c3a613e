"""Centring and scaling of codes, and folding both into a linear head.

Codes are centred by the mean of the training images and divided by one number, which gives a
training image a mean squared length of one. One number, not one a feature: dividing each
feature by its own deviation would raise the noise of features that are nearly always zero.
With that length the strength of the penalty (C) and the learning rate mean the same for every
backbone, whatever the number and size of its codes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncodes.head.rows import CodeRows


@dataclass(frozen=True)
class Scaling:
    """What the training images show of the codes' place and size.

    Attributes
    ----------
    mean : ndarray of float32, shape (n_features,)
        Mean code.
    scale : float
        Root mean squared length of a centred code.
    """

    mean: NDArray[np.float32]
    scale: float

    @classmethod
    def of(cls, blocks: Iterable[NDArray[np.float32]]) -> Scaling:
        """Measure codes that come in blocks, each of shape (n, n_features), in one pass."""
        near, total = np.zeros((), np.float32), np.zeros(())
        n_images, squares = 0, 0.0
        for X in blocks:
            if n_images == 0:
                near = X.mean(axis=0, dtype=np.float64).astype(np.float32)
            centred = X - near  # sums of squares around the mean lose no digits
            n_images += len(X)
            total = total + centred.sum(axis=0, dtype=np.float64)
            squares += float(np.einsum("ij,ij->i", centred, centred).sum(dtype=np.float64))
        shift = total / n_images
        variance = max(squares / n_images - float(np.square(shift).sum()), 0.0)
        return cls((near + shift).astype(np.float32), float(np.sqrt(variance)) or 1.0)

    def apply(self, X: NDArray[np.float32]) -> None:
        """Centre and scale codes in place."""
        for row in X:  # which fits in the processor's cache
            row -= self.mean
            row /= self.scale

    def fold(
        self, weights: NDArray[np.floating[Any]], bias: NDArray[np.floating[Any]]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Turn a linear map of standardised codes into the same map of codes as they are.

        Parameters
        ----------
        weights : ndarray, shape (n_features, n_classes)
            Weights on standardised codes.
        bias : ndarray, shape (n_classes,)
            Bias on standardised codes.

        Returns
        -------
        weights : ndarray of float32, shape (n_features, n_classes)
            Weights on codes.
        bias : ndarray of float32, shape (n_classes,)
            Bias on codes.
        """
        folded = np.asarray(weights, np.float64) / self.scale
        return (
            folded.astype(np.float32),
            (bias - self.mean.astype(np.float64) @ folded).astype(np.float32),
        )


def read_all(rows: CodeRows) -> NDArray[np.float32]:
    """Read codes into one float32 array of shape (n_images, n_features)."""
    X = np.empty((len(rows), rows.n_features), np.float32)
    for places, block in rows.blocks():
        X[places] = block
    return X
