"""Centring and scaling of codes, and folding both into a linear head.

Codes are centred by the mean of the training images and divided by one number, so that training
images have a mean squared length of one. One number, not one per feature: dividing each
feature by its own deviation would amplify the noise of features that are nearly always zero.
With that length the strength of the penalty (C) and the learning rate mean the same for every
backbone, whatever the number and size of its codes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncodes.errors import TrainingError
from cnncodes.head.rows import CodeRows

# Of the size of codes: below it rounding changes probabilities by several hundredths.
SMALLEST_SPREAD = 1e-5
SAME_CODES = (
    "the codes of all training images are the same, so the head knows only how common each class "
    "is; look at the images, or extract codes as float32"
)
TOO_LARGE = (
    "the codes are so large that their squares overflow; use another layer of the network, or "
    "divide its output by a number"
)


@dataclass(frozen=True)
class Scaling:
    """Mean and spread of the codes of the training images.

    Attributes
    ----------
    mean : ndarray of float32, shape (n_features,)
        Mean code.
    spread : float
        Root mean squared length of a centred code; 0 where the codes do not differ.
    """

    mean: NDArray[np.float32]
    spread: float

    @property
    def scale(self) -> float:
        """Divisor of centred codes."""
        return self.spread or 1.0

    @classmethod
    def of(cls, blocks: Iterable[NDArray[np.float32]]) -> Scaling:
        """Compute mean and spread in one pass over blocks of shape (n, n_features).

        Raises
        ------
        TrainingError
            A squared length overflows.
        """
        reference, total = np.zeros((), np.float32), np.zeros(())
        n_images, squares = 0, 0.0
        for X in blocks:
            if n_images == 0:
                reference = X.mean(axis=0, dtype=np.float64).astype(np.float32)
            with np.errstate(over="ignore", invalid="ignore"):  # the squares show it
                centred = X - reference  # near the mean, so that squares lose no digits
                total = total + centred.sum(axis=0, dtype=np.float64)
                lengths = np.einsum("ij,ij->i", centred, centred)
            n_images += len(X)
            squares += float(lengths.sum(dtype=np.float64))
        if not np.isfinite(squares):
            raise TrainingError(TOO_LARGE)
        shift = total / n_images
        variance = max(squares / n_images - float(np.square(shift).sum()), 0.0)
        return cls((reference + shift).astype(np.float32), float(np.sqrt(variance)))

    def apply(self, X: NDArray[np.float32]) -> None:
        """Centre and scale codes in place."""
        for row in X:  # one row fits in the processor's cache
            row -= self.mean
            row /= self.scale

    def fold(
        self, weights: NDArray[np.floating[Any]], bias: NDArray[np.floating[Any]]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Fold centring and scaling into a linear map of standardised codes.

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
            Bias on codes. Numbers beyond float32 are infinite, as are the logits then.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            rounded = (np.asarray(weights, np.float64) / self.scale).astype(np.float32)
            # Of the rounded weights, so that the bias corrects their rounding at the mean.
            shift = self.mean.astype(np.float64) @ rounded.astype(np.float64)
            return rounded, (bias - shift).astype(np.float32)


def notes_on_spread(mean: NDArray[np.floating[Any]], spread: float) -> list[str]:
    """Report training codes that differ by too little for a head in float32.

    A linear head computes codes · weights + bias in float32. Where codes differ by a millionth
    of their size, both terms are a million times their sum, which is then mostly rounding error.

    Parameters
    ----------
    mean : ndarray, shape (n_features,)
        Mean code.
    spread : float
        Root mean squared length of a centred code.

    Returns
    -------
    list of str
        Notes for the user.
    """
    size = float(np.linalg.norm(mean.astype(np.float64)))
    if spread == 0:
        return [SAME_CODES]
    if spread < SMALLEST_SPREAD * size:
        return [
            f"the codes of the training images differ by {spread / size:.0e} of their size, "
            "which float32 hardly resolves: the head's probabilities are rough"
        ]
    return []


def read_all(rows: CodeRows) -> NDArray[np.float32]:
    """Read codes into one float32 array of shape (n_images, n_features)."""
    X = np.empty((len(rows), rows.n_features), np.float32)
    for span, block in rows.blocks():
        X[span] = block
    return X
