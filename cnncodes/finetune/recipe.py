"""How the layers above the cut are trained."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of fine-tuning.

    Attributes
    ----------
    learning_rate : float
        Of Adam, at its highest.
    flat : float
        Share of the epochs after which the learning rate begins to fall.
    head_factor : float
        Times that rate is the rate of the softmax layer, on codes of mean squared length one.
    batch_size : int
        Images per gradient step.
    epochs : int
        Passes over the training images, at most; the learning rate ends with the last of them.
    patience : int
        Epochs without a lower validation loss after which training ends.
    averaging : float
        Highest momentum of the moving average of the weights, which is what is validated and kept.
    validation_fraction : float
        Share of the training images of each class that is held out.
    """

    learning_rate: float = 1e-4
    flat: float = 0.3
    head_factor: float = 20.0
    batch_size: int = 32
    epochs: int = 12
    patience: int = 4
    averaging: float = 0.99
    validation_fraction: float = 0.15

    def n_steps(self, n_images: int) -> int:
        """Return the gradient steps of an epoch of some images."""
        return math.ceil(n_images / self.batch_size)

    def momentum(self, n_steps: int) -> float:
        """Return the momentum of the average, over about an epoch of some steps, or less."""
        return min(self.averaging, n_steps / (n_steps + 1))

    def rate_at(self, epoch: int, step: int, n_steps: int) -> float:
        """Return the learning rate of a step: it rises over one epoch and falls as a cosine.

        Parameters
        ----------
        epoch : int
            The epoch, from 0 on.
        step : int
            The step in it, from 0 on.
        n_steps : int
            Steps per epoch.
        """
        done = epoch + step / n_steps
        rise = min(1.0, done + 1 / n_steps)
        falling = max(0.0, (done / self.epochs - self.flat) / (1 - self.flat))
        return self.learning_rate * rise * (1 + math.cos(math.pi * falling)) / 2
