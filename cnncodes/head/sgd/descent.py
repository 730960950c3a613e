"""Steps of mini-batch gradient descent on a softmax layer.

Optimizers: SGD with Nesterov momentum (Sutskever, Martens, Dahl and Hinton, "On the importance
of initialization and momentum in deep learning", ICML 2013), Adam (Kingma and Ba, "Adam: a method
for stochastic optimization", ICLR 2015) and Adadelta (Zeiler, "ADADELTA: an adaptive learning rate
method", arXiv:1212.5701, 2012), by which the published experiment is repeated.

A step costs more in moving weights through memory than in arithmetic: with tens of thousands of
features the weights, the gradient and the optimizer's slots are each larger than the processor's
cache. So a step processes them in stretches that fit in it (`_STRETCH`). Several threads process
a part of the stretches each (`_PART`), and each product stays in one thread: divided among
threads, products this small take longer. The result does not depend on the number of threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from cnncodes.head.linear import log_softmax
from cnncodes.machine import available_threads

_STRETCH = 2**17  # numbers, half a megabyte
_PART = 2**20

Run = Callable[[Callable[[slice], Any], Iterable[slice]], Iterable[Any]]


@contextmanager
def in_all_threads() -> Iterator[Run]:
    """Yield a `map` that runs the parts of a step of `Descent` in parallel."""
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(available_threads()) as workers:
        yield workers.map


class _AtRate:
    """An optimizer whose steps have the rate that is asked for."""

    def begin(self, rate: float, number: int) -> None:
        """Begin step `number`, from 1 on, before `update` for each stretch."""
        self._rate = np.float32(rate)


class Nesterov(_AtRate):
    """Gradient descent with Nesterov momentum; the weights are those at the look-ahead point.

    Like `Adam` it keeps `n_slots` numbers for each parameter.
    """

    n_slots = 1

    def __init__(self, momentum: float) -> None:
        self._momentum = np.float32(momentum)

    def update(
        self,
        parameters: NDArray[np.float32],
        gradient: NDArray[np.float32],
        slots: NDArray[np.float32],
    ) -> None:
        """Change a stretch of parameters and its slots in place, and overwrite `gradient`."""
        kept = slots[0]  # the velocity times the momentum
        gradient *= self._rate
        kept -= gradient
        kept *= self._momentum
        parameters += kept
        parameters -= gradient


class Adam:
    """Adam, with the decays of its paper."""

    n_slots = 2

    def begin(self, rate: float, number: int) -> None:
        """Begin step `number`, from 1 on, before `update` for each stretch."""
        unbiased = np.sqrt(1 - 0.999**number) / (1 - 0.9**number)
        self._rate = np.float32(rate * unbiased)

    def update(
        self,
        parameters: NDArray[np.float32],
        gradient: NDArray[np.float32],
        slots: NDArray[np.float32],
    ) -> None:
        """Change a stretch of parameters and its slots in place, and overwrite `gradient`."""
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


class Adadelta(_AtRate):
    """Adadelta, with the constants of Keras 2.0."""

    n_slots = 2

    def update(
        self,
        parameters: NDArray[np.float32],
        gradient: NDArray[np.float32],
        slots: NDArray[np.float32],
    ) -> None:
        """Change a stretch of parameters and its slots in place, and overwrite `gradient`."""
        square, square_of_steps = slots
        kept, new, least = np.float32(0.95), np.float32(0.05), np.float32(1e-8)
        square *= kept
        square += new * gradient * gradient
        gradient *= np.sqrt((square_of_steps + least) / (square + least))
        square_of_steps *= kept
        square_of_steps += new * gradient * gradient
        gradient *= self._rate
        parameters -= gradient


class Descent:
    """Weights and bias in training.

    Parameters
    ----------
    n_features, n_classes : int
        Shape of the weights, which begin as zeros.
    optimizer : Adam, Adadelta or Nesterov
        Computes a step from a gradient.
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
        self,
        n_features: int,
        n_classes: int,
        optimizer: Adam | Adadelta | Nesterov,
        l2: float,
    ) -> None:
        self.weights = np.zeros((n_features, n_classes), np.float32)
        self.bias = np.zeros(n_classes, np.float32)
        self._slots = np.zeros((optimizer.n_slots, n_features, n_classes), np.float32)
        self._bias_slots = np.zeros((optimizer.n_slots, n_classes), np.float32)
        self._n_steps = 0
        self._optimizer = optimizer
        self._l2 = np.float32(l2)
        self._stretch = max(1, _STRETCH // n_classes)
        size = max(1, _PART // n_classes)
        self._parts = [slice(start, start + size) for start in range(0, n_features, size)]

    def logits(self, X: NDArray[np.float32], run: Run = map) -> NDArray[np.float32]:
        """Compute the logits, (n, n_classes), of codes (n, n_features)."""

        def part_of_logits(part: slice) -> NDArray[np.float32]:
            with np.errstate(over="ignore", invalid="ignore"):  # reported as divergence
                product: NDArray[np.float32] = X[:, part] @ self.weights[part]
            return product

        with np.errstate(over="ignore", invalid="ignore"):
            total: NDArray[np.float32] = sum(self._do(part_of_logits, run), self.bias)
        return total

    def step(
        self,
        X: NDArray[np.float32],
        targets: NDArray[np.intp],
        rate: float,
        run: Run = map,
        masses: NDArray[np.float32] | None = None,
    ) -> float:
        """Train on a batch; return the sum of its losses before that.

        Each image counts 1 for its class, or for each class what `masses`, of shape
        (n_images, n_classes), has for it.
        """
        logits = self.logits(X, run)
        each = np.arange(len(X))
        with np.errstate(over="ignore", invalid="ignore"):
            residual = log_softmax(logits)
            if masses is None:
                loss = -float(residual[each, targets].sum())
            else:
                loss = -float((masses * residual).sum())
            np.exp(residual, out=residual)
        if masses is None:
            residual[each, targets] -= 1
        else:
            residual *= masses.sum(axis=1, keepdims=True)
            residual -= masses
        residual /= len(X)
        self._n_steps += 1
        self._optimizer.begin(rate, self._n_steps)

        def update(part: slice) -> None:
            stop = min(part.stop, len(self.weights))
            with np.errstate(over="ignore", invalid="ignore"):
                for start in range(part.start, stop, self._stretch):
                    stretch = slice(start, min(start + self._stretch, stop))
                    gradient = X[:, stretch].T @ residual
                    if self._l2:
                        gradient += self._l2 * self.weights[stretch]
                    self._optimizer.update(self.weights[stretch], gradient, self._slots[:, stretch])

        deque(self._do(update, run), maxlen=0)
        with np.errstate(over="ignore", invalid="ignore"):
            self._optimizer.update(self.bias, residual.sum(axis=0), self._bias_slots)
        return loss

    def _do(self, work: Callable[[slice], Any], run: Run) -> Iterable[Any]:
        # A single part is quicker without another thread.
        return run(work, self._parts) if len(self._parts) > 1 else map(work, self._parts)
