"""The SGD head: one softmax layer, trained by mini-batches as the reference experiment did.

The loss is the cross-entropy of softmax(XW + b), averaged over the batch, plus
``l2 / 2`` times the squared weights. A part of the training images is held out to validate
each epoch, and the weights of the best epoch are kept.

Optimizers: SGD with Nesterov momentum (Sutskever, Martens, Dahl and Hinton, "On the importance
of initialization and momentum in deep learning", ICML 2013) and Adam (Kingma and Ba, "Adam: a
method for stochastic optimization", ICLR 2015).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_random_state, validate_data

from cnncodes.head.linear import LinearSoftmax, log_softmax
from cnncodes.head.split import split_by_class

OPTIMIZERS = ("momentum", "adam")
DEFAULT_LEARNING_RATES = {"momentum": 1.0, "adam": 1e-3}

Step = Callable[[NDArray[np.float32], NDArray[np.float32]], None]


@dataclass(frozen=True)
class Epoch:
    """How one epoch ended.

    Attributes
    ----------
    number : int
        From 1 on.
    train_loss : float
        Mean cross-entropy of the batches as they were trained on.
    validation_loss, validation_accuracy : float or None
        On the held-out part; None where there is none.
    """

    number: int
    train_loss: float
    validation_loss: float | None
    validation_accuracy: float | None


class SGDSoftmax(LinearSoftmax):
    """Softmax regression trained by mini-batch gradient descent.

    Parameters
    ----------
    epochs : int
        Passes over the training images.
    batch_size : int
        Images a step.
    learning_rate : float, optional
        By default 1.0 with momentum and 0.001 with Adam, for codes of mean squared length one.
    optimizer : {"momentum", "adam"}
        How a gradient becomes a step.
    momentum : float
        Share of the last step that is kept, with ``"momentum"``.
    l2 : float
        Weight of the penalty on squared weights.
    validation_fraction : float
        Share of each class held out to choose the best epoch; 0 keeps the last epoch.
    random_state : int, RandomState or None
        Seed of the held-out part and of the order of the images.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
        The classes.
    coef_ : ndarray of float32, shape (n_classes, n_features)
        Weights of the logits.
    intercept_ : ndarray of float32, shape (n_classes,)
        Bias of the logits.
    history_ : list of Epoch
        How each epoch ended.
    best_epoch_ : int
        Number of the epoch whose weights are kept.
    n_features_in_ : int
        Features seen in training.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.preprocessing import StandardScaler
    >>> X, y = load_iris(return_X_y=True)
    >>> model = SGDSoftmax(epochs=20, learning_rate=0.1, random_state=0)
    >>> bool(model.fit(StandardScaler().fit_transform(X), y).score(
    ...     StandardScaler().fit_transform(X), y) > 0.9)
    True
    """

    def __init__(
        self,
        *,
        epochs: int = 20,
        batch_size: int = 32,
        learning_rate: float | None = None,
        optimizer: str = "momentum",
        momentum: float = 0.9,
        l2: float = 1e-4,
        validation_fraction: float = 0.1,
        random_state: Any = None,
    ) -> None:
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.optimizer = optimizer
        self.momentum = momentum
        self.l2 = l2
        self.validation_fraction = validation_fraction
        self.random_state = random_state

    def fit(
        self, X: ArrayLike, y: ArrayLike, on_epoch: Callable[[Epoch], None] | None = None
    ) -> SGDSoftmax:
        """Train.

        Parameters
        ----------
        X : array-like, shape (n_samples, n_features)
            Codes; centred and scaled ones train best.
        y : array-like, shape (n_samples,)
            Classes.
        on_epoch : callable, optional
            Given each `Epoch` when it ends.

        Returns
        -------
        SGDSoftmax
            This estimator.

        Raises
        ------
        ValueError
            A parameter is out of range, there is one class only, X is not finite, or the
            training diverged.
        """
        self._check_parameters()
        features: NDArray[np.float32]
        features, y = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(y)
        self.classes_, targets = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"{len(self.classes_)} class in the data; two or more are needed")
        random = check_random_state(self.random_state)
        train, held_out = self._hold_out(targets, random)
        weights = np.zeros((features.shape[1], len(self.classes_)), np.float32)
        bias = np.zeros(len(self.classes_), np.float32)
        step_weights, step_bias = self._stepper(weights), self._stepper(bias)
        best = (-np.inf, -np.inf)
        self.history_: list[Epoch] = []
        for number in range(1, self.epochs + 1):
            loss = 0.0
            order = random.permutation(train)
            for start in range(0, len(order), self.batch_size):
                batch = order[start : start + self.batch_size]
                inputs, wanted = features[batch], targets[batch]
                residual = log_softmax(inputs @ weights + bias)
                loss -= float(residual[np.arange(len(batch)), wanted].sum())
                np.exp(residual, out=residual)
                residual[np.arange(len(batch)), wanted] -= 1
                residual /= len(batch)
                step_weights(weights, inputs.T @ residual + self.l2 * weights)
                step_bias(bias, residual.sum(axis=0))
            epoch = Epoch(
                number,
                loss / len(order),
                *_loss_and_accuracy(features[held_out] @ weights + bias, targets[held_out]),
            )
            self.history_.append(epoch)
            # The last step is not in the loss, so its result is looked at too.
            if not np.isfinite(epoch.train_loss) or not np.isfinite(weights).all():
                raise ValueError(f"diverged in epoch {number}; lower learning_rate")
            if on_epoch is not None:
                on_epoch(epoch)
            score = (-np.inf, -np.inf)
            if epoch.validation_loss is not None and epoch.validation_accuracy is not None:
                score = (epoch.validation_accuracy, -epoch.validation_loss)
            if score > best or not len(held_out):
                best = score
                self.best_epoch_ = number
                self.coef_, self.intercept_ = weights.T.copy(), bias.copy()
        return self

    def _check_parameters(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"no optimizer {self.optimizer!r}; there are {OPTIMIZERS}")
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError("epochs and batch_size must be 1 or more")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError("validation_fraction must be at least 0 and below 1")
        if self.learning_rate is not None and not 0 < self.learning_rate < np.inf:
            raise ValueError(f"learning_rate must be above 0 and finite, not {self.learning_rate}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be at least 0 and below 1, not {self.momentum}")
        if not 0 <= self.l2 < np.inf:
            raise ValueError(f"l2 must be at least 0 and finite, not {self.l2}")

    def _hold_out(
        self, targets: NDArray[np.intp], random: np.random.RandomState
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Hold out a share of each class that has enough images to spare one."""
        if self.validation_fraction == 0:
            return np.arange(len(targets)), np.empty(0, np.intp)
        seed = int(random.randint(2**31 - 1))
        split = split_by_class(targets.astype(np.int32), 1 - self.validation_fraction, seed=seed)
        return split.train, split.test

    def _stepper(self, parameters: NDArray[np.float32]) -> Step:
        rate = self.learning_rate or DEFAULT_LEARNING_RATES[self.optimizer]
        if self.optimizer == "adam":
            return adam(parameters.shape, rate)
        return nesterov(parameters.shape, rate, self.momentum)


def nesterov(shape: tuple[int, ...], rate: float, momentum: float) -> Step:
    """Return a step of SGD with Nesterov momentum, which changes parameters in place."""
    velocity = np.zeros(shape, np.float32)

    def step(parameters: NDArray[np.float32], gradient: NDArray[np.float32]) -> None:
        velocity[...] = momentum * velocity - rate * gradient
        parameters += momentum * velocity - rate * gradient

    return step


def adam(
    shape: tuple[int, ...],
    rate: float,
    decay: float = 0.9,
    square_decay: float = 0.999,
    epsilon: float = 1e-8,
) -> Step:
    """Return a step of Adam, which changes parameters in place."""
    mean, square = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    n_steps = 0

    def step(parameters: NDArray[np.float32], gradient: NDArray[np.float32]) -> None:
        nonlocal n_steps
        n_steps += 1
        mean[...] += (1 - decay) * (gradient - mean)
        square[...] += (1 - square_decay) * (np.square(gradient) - square)
        corrected = rate * np.sqrt(1 - square_decay**n_steps) / (1 - decay**n_steps)
        parameters -= np.float32(corrected) * mean / (np.sqrt(square) + epsilon)

    return step


def _loss_and_accuracy(
    logits: NDArray[np.float32], targets: NDArray[np.intp]
) -> tuple[float, float] | tuple[None, None]:
    if len(targets) == 0:
        return None, None
    picked = log_softmax(logits)[np.arange(len(targets)), targets]
    return -float(picked.mean()), float((logits.argmax(axis=1) == targets).mean())
