"""The softmax layer as the published experiment trained it.

Codes as they are, neither centred nor scaled; Keras's `Dense` layer with its uniform initial
weights (Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural
networks", AISTATS 2010); Adadelta as in Keras 2.0; batches of 32 in an order shuffled anew for each
epoch; no penalty; the weights after the last epoch. `SGDSoftmax` does better in each respect.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnncodes.head.rows import CodeRows
from cnncodes.head.scaling import Scaling
from cnncodes.head.sgd.descent import Adadelta, Descent, Run, in_all_threads
from cnncodes.head.sgd.fit import StandardisedRows
from cnncodes.progress import NoProgress, Progress

BATCH_SIZE = 32
LEARNING_RATE = 1.0


@dataclass(frozen=True)
class Trained:
    """A softmax layer after some epochs.

    Attributes
    ----------
    epochs : int
        Passes over the training images.
    accuracy : float
        Test accuracy.
    seconds : float
        Duration of the training, tests not included.
    """

    epochs: int
    accuracy: float
    seconds: float


def train_softmax(
    train: CodeRows,
    y: NDArray[np.int32],
    test: CodeRows,
    y_test: NDArray[np.int32],
    *,
    epochs: Sequence[int],
    seed: int = 0,
    masses: NDArray[np.float64] | None = None,
    progress: Progress | None = None,
) -> list[Trained]:
    """Train a softmax layer, and test it after some of its epochs.

    Parameters
    ----------
    train, test : CodeRows
        The training and the test images.
    y, y_test : ndarray of int32, shape (n_images,)
        Their classes, from 0 on.
    epochs : sequence of int
        Numbers of epochs after which it is tested, increasing.
    seed : int
        Seed of the initial weights and of the order of the images.
    masses : ndarray of float64, shape (n_images, n_classes), optional
        How much each training image counts for each class; by default 1 for its own.
    progress : Progress, optional
        Counts the training images of all epochs.

    Returns
    -------
    list of Trained
        One for each of `epochs`.

    Raises
    ------
    TrainingError
        A code is not finite.
    """
    progress = progress or NoProgress()
    n_features, n_classes = train.n_features, int(max(y.max(), y_test.max())) + 1
    random = np.random.default_rng(seed)
    descent = Descent(n_features, n_classes, Adadelta(), l2=0)
    limit = math.sqrt(6 / (n_features + n_classes))
    descent.weights[:] = random.uniform(-limit, limit, descent.weights.shape)
    unscaled = Scaling(np.zeros(n_features, np.float32), 1.0)
    targets = y.astype(np.intp)
    images = StandardisedRows(train, unscaled, progress)
    progress.begin(len(train) * epochs[-1], unit="images")
    results, seconds = [], 0.0
    with in_all_threads() as run:
        for epoch in range(1, epochs[-1] + 1):
            started = time.monotonic()
            for batch, X in images.batches(random.permutation(len(train)), BATCH_SIZE):
                own = None if masses is None else masses[batch].astype(np.float32)
                descent.step(X, targets[batch], LEARNING_RATE, run, own)
            seconds += time.monotonic() - started
            if epoch in epochs:
                results.append(Trained(epoch, _accuracy(descent, test, y_test, run), seconds))
    return results


def _accuracy(descent: Descent, rows: CodeRows, y: NDArray[np.int32], run: Run) -> float:
    n_right = sum(
        int((descent.logits(X, run).argmax(axis=1) == y[indices]).sum())
        for indices, X in rows.blocks()
    )
    return n_right / len(y)
