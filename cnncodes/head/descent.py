"""Steps of mini-batch gradient descent on a softmax layer.

Optimizers: SGD with Nesterov momentum (Sutskever, Martens, Dahl and Hinton, "On the importance
of initialization and momentum in deep learning", ICML 2013) and Adam (Kingma and Ba, "Adam: a
method for stochastic optimization", ICLR 2015).

A step costs more in moving weights through memory than in arithmetic: with tens of thousands of
features the weights, the gradient and the optimizer's own numbers are each larger than the
processor's cache. So a step goes through them in stretches that fit in it (`_STRETCH`), one
after the other: products this small are slower when shared out among threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncodes.head.linear import log_softmax

_STRETCH = 2**16  # numbers, a quarter of a megabyte


class Nesterov:
    """Gradient descent with Nesterov momentum, at the point where the gradient is taken.

    Like `Adam` it keeps `n_slots` numbers of its own for each parameter.
    """

    n_slots = 1

    def __init__(self, momentum: float) -> None:
        self._momentum = np.float32(momentum)

    def begin(self, rate: float, number: int) -> None:
        """Begin step `number`, from 1 on, of which `update` is called for each stretch."""
        self._rate = np.float32(rate)

    def update(
        self,
        parameters: NDArray[np.float32],
        gradient: NDArray[np.float32],
        slots: NDArray[np.float32],
    ) -> None:
        """Change a stretch of parameters and its slots in place; `gradient` is used up."""
        velocity = slots[0]
        gradient *= self._rate
        velocity *= self._momentum
        velocity -= gradient
        parameters -= gradient
        np.multiply(velocity, self._momentum, out=gradient)
        parameters += gradient


class Adam:
    """Adam, with the decays of its paper."""

    n_slots = 2

    def begin(self, rate: float, number: int) -> None:
        """Begin step `number`, from 1 on, of which `update` is called for each stretch."""
        unbiased = np.sqrt(1 - 0.999**number) / (1 - 0.9**number)
        self._rate = np.float32(rate * unbiased)

    def update(
        self,
        parameters: NDArray[np.float32],
        gradient: NDArray[np.float32],
        slots: NDArray[np.float32],
    ) -> None:
        """Change a stretch of parameters and its slots in place; `gradient` is used up."""
        mean, square = slots
        mean *= np.float32(0.9)
        mean += np.float32(0.1) * gradient
        square *= np.float32(0.999)
        gradient *= gradient
        gradient *= np.float32(0.001)
        square += gradient
        np.sqrt(square, out=gradient)
        gradient += np.float32(1e-8)
        np.divide(mean, gradient, out=gradient)
        gradient *= self._rate
        parameters -= gradient


class Descent:
    """Weights and bias on their way down.

    Parameters
    ----------
    n_features, n_classes : int
        Shape of the weights, which begin as zeros.
    optimizer : Adam or Nesterov
        How a gradient becomes a step.
    l2 : float
        Weight of the penalty on squared weights.

    Attributes
    ----------
    weights : ndarray of float32, shape (n_features, n_classes)
        Weights of the logits.
    bias : ndarray of float32, shape (n_classes,)
        Bias of the logits.
    """

    def __init__(
        self, n_features: int, n_classes: int, optimizer: Adam | Nesterov, l2: float
    ) -> None:
        self.weights = np.zeros((n_features, n_classes), np.float32)
        self.bias = np.zeros(n_classes, np.float32)
        self._slots = np.zeros((optimizer.n_slots, n_features, n_classes), np.float32)
        self._bias_slots = np.zeros((optimizer.n_slots, n_classes), np.float32)
        self._steps = np.zeros((), np.int64)
        self._optimizer = optimizer
        self._l2 = np.float32(l2)
        self._stretch = max(1, _STRETCH // n_classes)

    def step(self, X: NDArray[np.float32], targets: NDArray[np.intp], rate: float) -> float:
        """Train on a batch; return the sum of its losses before that."""
        residual = log_softmax(X @ self.weights + self.bias)
        each = np.arange(len(X))
        loss = -float(residual[each, targets].sum())
        np.exp(residual, out=residual)
        residual[each, targets] -= 1
        residual /= len(X)
        self._steps += 1
        self._optimizer.begin(rate, int(self._steps))
        for start in range(0, len(self.weights), self._stretch):
            part = slice(start, start + self._stretch)
            gradient = X[:, part].T @ residual
            gradient += self._l2 * self.weights[part]
            self._optimizer.update(self.weights[part], gradient, self._slots[:, part])
        self._optimizer.update(self.bias, residual.sum(axis=0), self._bias_slots)
        return loss

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all that a later step depends on, by name; not copies."""
        return {
            "weights": self.weights,
            "bias": self.bias,
            "slots": self._slots,
            "bias_slots": self._bias_slots,
            "steps": self._steps,
        }
