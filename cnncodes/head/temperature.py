"""The temperature of logits.

It is for the logits of least squares, which are no logarithms of odds. Those of logistic regression
are as they should be: its C is chosen by log loss, and a temperature on top of it, fitted to folds
that see a fifth less, made the probabilities of the whole fit worse (docs/heads.md).

Logits are divided by one number, the temperature, that minimises the log loss of images that did
not train them: Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML
2017. The most probable class stays the same. In a linear head the division is part of weights and
bias, so its graph has no more nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.optimize
from numpy.typing import NDArray

from cnncodes.head.calibration import calibration_error
from cnncodes.head.linear import log_softmax

_BOUNDS = (-8.0, 8.0)  # of the logarithm of the temperature


@dataclass(frozen=True)
class OutOfFold:
    """Logits of training images, each by a fit that did not see its fold.

    Attributes
    ----------
    logits : ndarray of float64, shape (n_scored, n_classes)
        At least one image.
    y : ndarray of int, shape (n_scored,)
        The true classes.
    """

    logits: NDArray[np.float64]
    y: NDArray[np.intp]

    def loss(self, temperature: float = 1.0) -> float:
        """Return the mean log loss at a temperature, in nats."""
        logarithms = log_softmax(self.logits / temperature)
        return float(-logarithms[np.arange(len(self.y)), self.y].mean())

    def accuracy(self) -> float:
        """Return the share of images whose largest logit is that of the true class."""
        return float((self.logits.argmax(axis=1) == self.y).mean())

    def calibration_error(self, temperature: float = 1.0) -> float:
        """Return `calibration.calibration_error` at a temperature."""
        return calibration_error(np.exp(log_softmax(self.logits / temperature)), self.y)

    def temperature(self) -> float:
        """Return the temperature of the lowest log loss.

        One image whose label is drawn at random is added to the others, as in Laplace's rule of
        succession: where all are right, the log loss alone would ask for a temperature of zero.
        """
        own = np.arange(len(self.y)), self.y

        def objective(logarithm: float) -> float:
            logarithms = log_softmax(self.logits / np.exp(logarithm))
            return -float(logarithms[own].sum() + logarithms.mean())

        found = scipy.optimize.minimize_scalar(
            objective, bounds=_BOUNDS, method="bounded", options={"xatol": 1e-6}
        )
        return float(np.exp(found.x))
