"""The SGD head: one softmax layer, trained by mini-batches as the reference experiment did.

The loss is the cross-entropy of softmax(XW + b), averaged over the batch, plus
``l2 / 2`` times the squared weights. A part of the training images is held out to validate
each epoch, and the weights of the epoch with the lowest loss on it are kept. Accuracy, which on
few images is the same for many epochs, chooses worse: over eight splits each of digits, photographs
and solar cells (InceptionV3; 1,253, 378 and 1,836 training images) the test accuracy was 96.4, 97.0
and 81.3 % by accuracy and 96.5, 97.2 and 82.0 % by loss, the test loss 0.130, 0.153 and 0.410, and
0.126, 0.149 and 0.403.

The learning rate may fall along half a cosine (Loshchilov and Hutter, "SGDR: stochastic gradient
descent with warm restarts", ICLR 2017). `descent` computes the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_random_state, column_or_1d, validate_data

from cnncodes.head.linear import LinearSoftmax, log_softmax
from cnncodes.head.sgd.descent import Adam, Descent, Nesterov, Run, in_all_threads
from cnncodes.head.split import hold_out
from cnncodes.parameters import DESCENT_BATCH, EPOCHS, L2, LEARNING_RATE, SHARE

OPTIMIZERS = ("momentum", "adam")
LARGE_L2 = 1.0  # beyond it the penalty alone may make steps overshoot
SCHEDULES = ("constant", "cosine")
DEFAULT_LEARNING_RATES = {"momentum": 3.0, "adam": 1e-3}
_VALIDATED = 256  # images per batch of the validation


@dataclass(frozen=True)
class Epoch:
    """Loss and accuracy of one epoch.

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


class Images(Protocol):
    """A source of codes: an array, or a file of which little is in memory at a time."""

    @property
    def n_features(self) -> int:
        """Numbers per image."""

    def batches(
        self, order: NDArray[np.intp], size: int
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
        """Yield the indices of `order` and their codes, `size` at a time."""


class _Array:
    """Codes in memory."""

    def __init__(self, X: NDArray[np.float32]) -> None:
        self._X = X
        self.n_features = X.shape[1]

    def batches(
        self, order: NDArray[np.intp], size: int
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            yield batch, self._X[batch]


class SGDSoftmax(LinearSoftmax):
    """Softmax regression trained by mini-batch gradient descent.

    Parameters
    ----------
    epochs : int
        Maximum number of passes over the training images.
    batch_size : int
        Images per step.
    learning_rate : float, optional
        By default 3.0 with momentum and 0.001 with Adam, for codes of mean squared length one.
    schedule : {"constant", "cosine"}
        Whether the learning rate is constant or falls to zero over the epochs. In `partial_fit`
        it is constant.
    optimizer : {"momentum", "adam"}
        Gradient descent with Nesterov momentum, or Adam.
    momentum : float
        Factor of the last step, with ``"momentum"``.
    l2 : float
        Weight of the penalty on squared weights.
    validation_fraction : float
        Share of each class held out to choose the best epoch, rounded down: of a tenth, a class
        of fewer than ten images holds out none. Where no class holds out any, the last epoch is
        kept.
    patience : int, optional
        Stop after this many epochs without a lower loss on the held-out part; by default never.
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
        Loss and accuracy of each epoch.
    best_epoch_ : int
        Number of the epoch whose weights are kept, of the lowest validation loss.
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
        schedule: str = "cosine",
        optimizer: str = "momentum",
        momentum: float = 0.9,
        l2: float = 1e-5,
        validation_fraction: float = 0.1,
        patience: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.optimizer = optimizer
        self.momentum = momentum
        self.l2 = l2
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.random_state = random_state

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        on_epoch: Callable[[Epoch], None] | None = None,
        *,
        groups: ArrayLike | None = None,
    ) -> SGDSoftmax:
        """Train.

        Parameters
        ----------
        X : array-like, shape (n_samples, n_features)
            Codes; centred and scaled ones train best.
        y : array-like, shape (n_samples,)
            Classes.
        on_epoch : callable, optional
            Called with each `Epoch` when it ends.
        groups : array-like of int, shape (n_samples,), optional
            Images with equal numbers are held out together or not at all.

        Returns
        -------
        SGDSoftmax
            This estimator.

        Raises
        ------
        ValueError
            A parameter is out of range, there is one class only, X is not finite, `groups` is
            of another length, or the training diverged.
        """
        self._discard()
        features: NDArray[np.float32]
        features, y = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(y)
        self.classes_, targets = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"{len(self.classes_)} class in the data; two or more are needed")
        numbers = None if groups is None else column_or_1d(groups)
        for epoch in self.train(_Array(features), targets, len(self.classes_), groups=numbers):
            if on_epoch is not None:
                on_epoch(epoch)
        return self

    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None = None
    ) -> SGDSoftmax:
        """Train on some images once, in their order, from the weights of the last call on.

        Nothing is held out, and the weights after the last step are kept. After `fit`, training
        continues from the best epoch; after a call that diverged, from zero.

        Parameters
        ----------
        X : array-like, shape (n_samples, n_features)
            Codes, standardised like those of the other calls.
        y : array-like, shape (n_samples,)
            Classes.
        classes : array-like, shape (n_classes,), optional
            All classes of this call and later ones; required in the first call.

        Returns
        -------
        SGDSoftmax
            This estimator.

        Raises
        ------
        ValueError
            A parameter is out of range, a class is not among `classes`, X is not finite, or
            the training diverged.
        """
        self.check_parameters()
        first = not hasattr(self, "coef_")
        features: NDArray[np.float32]
        names: NDArray[Any]
        features, names = validate_data(self, X, y, dtype=np.float32, reset=first)
        check_classification_targets(names)
        if first and classes is None:
            raise ValueError("the first call of partial_fit needs classes, those of all calls")
        known = self.classes_ if classes is None else np.unique(np.asarray(classes))
        if len(known) < 2:
            raise ValueError(f"{len(known)} class given; two or more are needed")
        if not first and not np.array_equal(known, self.classes_):
            raise ValueError("classes differ from those of the first call")
        if not np.isin(names, known).all():
            raise ValueError("y has a class that is not among those of the first call")
        self.classes_ = known
        if first or not hasattr(self, "_descent"):
            self._descent = self._start(features.shape[1], len(known))
            if not first:  # after `fit`, which does not keep the state of its optimizer
                self._descent.weights[...] = self.coef_.T
                self._descent.bias[...] = self.intercept_
        loss = 0.0
        with in_all_threads() as run:
            order = np.arange(len(features))
            for batch, inputs in _Array(features).batches(order, self.batch_size):
                targets = np.searchsorted(self.classes_, names[batch])
                loss += self._descent.step(inputs, targets, self._rate(), run)
        self._check_finite(self._descent, loss, "this part")
        # Views, which later calls update.
        self.coef_, self.intercept_ = self._descent.weights.T, self._descent.bias
        return self

    def train(
        self,
        images: Images,
        targets: NDArray[np.intp],
        n_classes: int,
        *,
        groups: NDArray[np.intp] | None = None,
        masses: NDArray[np.float64] | None = None,
        start: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
    ) -> Iterator[Epoch]:
        """Train on images from any source, and yield each epoch when it ends.

        Between two epochs the attributes are those of the best epoch so far.

        Parameters
        ----------
        images : Images
            The codes.
        targets : ndarray of int, shape (n_images,)
            Their classes, from 0 on.
        n_classes : int
            Number of classes.
        groups : ndarray of int, shape (n_images,), optional
            Images with equal numbers are held out together or not at all.
        masses : ndarray of float64, shape (n_images, n_classes), optional
            How much each image counts for each class when it is trained on; by default 1 for its
            own. Held-out images count 1.
        start : tuple of two ndarray of float32, optional
            Weights, of shape (n_features, n_classes), and bias to start from; by default zeros.

        Yields
        ------
        Epoch
            Loss and accuracy of each epoch.

        Raises
        ------
        ValueError
            A parameter is out of range, or the training diverged.
        """
        self.check_parameters()
        random = check_random_state(self.random_state)
        train, held_out = self._hold_out(targets, random, groups)
        descent = self._start(images.n_features, n_classes)
        if start is not None:
            descent.weights[...], descent.bias[...] = start
        self.history_: list[Epoch] = []
        self.best_epoch_ = 0
        for number in range(1, self.epochs + 1):
            if self._out_of_patience():
                break
            order = random.permutation(train)
            with in_all_threads() as run:
                epoch = self._epoch(number, descent, images, targets, masses, order, held_out, run)
            yield epoch

    def _epoch(
        self,
        number: int,
        descent: Descent,
        images: Images,
        targets: NDArray[np.intp],
        masses: NDArray[np.float64] | None,
        order: NDArray[np.intp],
        held_out: NDArray[np.intp],
        run: Run,
    ) -> Epoch:
        loss = 0.0
        n_batches = -(-len(order) // self.batch_size)
        for index, (batch, inputs) in enumerate(images.batches(order, self.batch_size)):
            rate = self._rate((number - 1 + index / n_batches) / self.epochs)
            own = None if masses is None else masses[batch].astype(np.float32)
            loss += descent.step(inputs, targets[batch], rate, run, own)
        self._check_finite(descent, loss, f"epoch {number}")
        measured = _loss_and_accuracy(images, held_out, targets, descent, run)
        self._check_finite(descent, measured[0] or 0.0, f"epoch {number}")
        epoch = Epoch(number, loss / len(order), *measured)
        if not len(held_out) or all(_loss(epoch) < _loss(each) for each in self.history_):
            self.best_epoch_ = number
            self.coef_, self.intercept_ = descent.weights.T.copy(), descent.bias.copy()
        self.history_.append(epoch)
        return epoch

    def _out_of_patience(self) -> bool:
        return self.patience is not None and len(self.history_) - self.best_epoch_ >= self.patience

    def check_parameters(self) -> None:
        """Refuse parameters that are out of range, as `fit` does.

        Raises
        ------
        ValueError
            One is.
        """
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"no optimizer {self.optimizer!r}; there are {OPTIMIZERS}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"no schedule {self.schedule!r}; there are {SCHEDULES}")
        EPOCHS.check(self.epochs, "epochs")
        DESCENT_BATCH.check(self.batch_size, "batch_size")
        EPOCHS.check_or_none(self.patience, "patience")
        SHARE.check(self.validation_fraction, "validation_fraction")
        if self.learning_rate is not None:
            LEARNING_RATE.check(self.learning_rate, "learning_rate")
        SHARE.check(self.momentum, "momentum")
        L2.check(self.l2, "l2")

    def _hold_out(
        self,
        targets: NDArray[np.intp],
        random: np.random.RandomState,
        groups: NDArray[np.intp] | None,
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        if self.validation_fraction == 0:
            return np.arange(len(targets)), np.empty(0, np.intp)
        seed = int(random.randint(2**31 - 1))
        split = hold_out(targets, self.validation_fraction, seed=seed, groups=groups)
        return split.train, split.test

    def _start(self, n_features: int, n_classes: int) -> Descent:
        optimizer = Adam() if self.optimizer == "adam" else Nesterov(self.momentum)
        return Descent(n_features, n_classes, optimizer, self.l2)

    def _rate(self, progress: float = 0.0) -> float:
        rate = self.learning_rate or DEFAULT_LEARNING_RATES[self.optimizer]
        if self.schedule == "cosine":
            rate *= (1 + np.cos(np.pi * progress)) / 2
        return float(rate)

    def _discard(self) -> None:
        """Discard fitted state."""
        for name in ("coef_", "intercept_", "_descent"):
            self.__dict__.pop(name, None)

    def _check_finite(self, descent: Descent, loss: float, stage: str) -> None:
        # The loss of the last step is measured before it, so its result is checked too.
        arrays = (descent.weights, descent.bias)
        if not (np.isfinite(loss) and all(np.isfinite(each).all() for each in arrays)):
            self._discard()
            or_l2 = " or l2" if self.l2 > LARGE_L2 else ""
            raise ValueError(f"diverged in {stage}; lower the learning rate{or_l2}")


def _loss(epoch: Epoch) -> float:
    """Return the loss by which epochs are compared where images are held out."""
    assert epoch.validation_loss is not None
    return epoch.validation_loss


def _loss_and_accuracy(
    images: Images,
    held_out: NDArray[np.intp],
    targets: NDArray[np.intp],
    descent: Descent,
    run: Run,
) -> tuple[float, float] | tuple[None, None]:
    if len(held_out) == 0:
        return None, None
    loss, correct = 0.0, 0
    for batch, X in images.batches(held_out, _VALIDATED):
        logits = descent.logits(X, run)
        with np.errstate(over="ignore", invalid="ignore"):  # reported as divergence
            loss -= float(log_softmax(logits)[np.arange(len(batch)), targets[batch]].sum())
        correct += int((logits.argmax(axis=1) == targets[batch]).sum())
    return loss / len(held_out), correct / len(held_out)
