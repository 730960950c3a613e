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
    batch_size : int
        Images per gradient step.
    epochs : int
        Passes over the training images, at most; the learning rate ends with the last of them.
    patience : int
        Epochs without a lower validation loss after which training ends.
    weight_decay : float
        Of AdamW: the part of each weight, times the learning rate, that a step takes off.
    label_smoothing : float
        Share of each target that is spread over all classes.
    validation_fraction : float
        Share of the training images of each class that is held out.
    """

    learning_rate: float = 3e-5
    batch_size: int = 32
    epochs: int = 12
    patience: int = 4
    weight_decay: float = 1e-4
    label_smoothing: float = 0.0
    validation_fraction: float = 0.15

    def rate_at(self, epoch: int, step: int, n_steps: int) -> float:
        """Return the learning rate of a step: it rises over one epoch, then falls as a cosine.

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
        return self.learning_rate * rise * (1 + math.cos(math.pi * done / self.epochs)) / 2
