"""The SGD head on the codes of a file, of which little is in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncodes.errors import ParameterError, TrainingError
from cnncodes.head.logistic.start import Start
from cnncodes.head.rows import CodeRows, read_ahead
from cnncodes.head.scaling import Scaling, notes_on_spread
from cnncodes.head.sgd.softmax import Epoch, SGDSoftmax
from cnncodes.progress import NoProgress, Progress

READ_BYTES = 8 * 2**20
N_MEASURED = 1024  # images by which codes are centred and scaled
_BLOCK = 64


class StandardisedRows:
    """Codes of a file, centred and scaled, as an `Images` of `SGDSoftmax.train`.

    Some megabytes are read at a time, while training uses those read before.

    Parameters
    ----------
    rows : CodeRows
        The codes.
    scaling : Scaling
        How to centre and scale them.
    progress : Progress, optional
        Counts the images that were trained on.

    Attributes
    ----------
    n_features : int
        Numbers per image.
    scaling : Scaling
        How they are centred and scaled.
    """

    def __init__(self, rows: CodeRows, scaling: Scaling, progress: Progress | None = None) -> None:
        self._rows = rows
        self.scaling = scaling
        self._progress = progress or NoProgress()
        self.n_features = rows.n_features
        self._n_read = max(1, READ_BYTES // (4 * rows.n_features))

    def batches(
        self, order: NDArray[np.intp], size: int
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
        """Yield the indices of `order` and their codes, `size` at a time."""
        n_read = max(1, self._n_read // size) * size
        reads = [order[start : start + n_read] for start in range(0, len(order), n_read)]
        for indices, X in read_ahead(self._read, reads):
            for start in range(0, len(indices), size):
                batch = slice(start, start + size)
                yield indices[batch], X[batch]
            self._progress.advance(len(indices))

    def _read(self, indices: NDArray[np.intp]) -> NDArray[np.float32]:
        X = self._rows.pick(indices)
        self.scaling.apply(X)
        return X


def fit_sgd(
    rows: CodeRows,
    y: NDArray[np.int32],
    *,
    seed: int = 0,
    groups: NDArray[np.intp] | None = None,
    masses: NDArray[np.float64] | None = None,
    parameters: dict[str, Any] | None = None,
    start: Start | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    progress: Progress | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32], dict[str, Any]]:
    """Fit a softmax by mini-batch SGD.

    Parameters
    ----------
    rows : CodeRows
        The training images.
    y : ndarray of int32, shape (n_images,)
        Their classes, from 0 on without gaps; two or more.
    seed : int
        Seed of the held-out part and of the order of the images.
    groups : ndarray of int, shape (n_images,), optional
        Images with equal numbers are held out together or not at all.
    masses : ndarray of float64, shape (n_images, n_classes), optional
        How much each image counts for each class, as for `SGDSoftmax.train`.
    parameters : dict, optional
        Parameters of `SGDSoftmax`.
    start : Start, optional
        Weights to start from; by default zeros.
    on_epoch : callable, optional
        Called with each `Epoch` when it ends.
    progress : Progress, optional
        Counts the images of all epochs.

    Returns
    -------
    weights : ndarray of float32, shape (n_features, n_classes)
        Weights of the logits, on codes as they are.
    bias : ndarray of float32, shape (n_classes,)
        Bias of the logits.
    fitted : dict
        The parameters and the best epoch; ``notes``, a list of text for the user.

    Raises
    ------
    TrainingError
        A parameter is out of range, a code is not finite, or the training diverged.
    """
    progress = progress or NoProgress()
    model = SGDSoftmax(random_state=seed, **(parameters or {}))
    images = StandardisedRows(rows, measured(rows), progress)
    try:
        progress.begin(len(rows) * model.epochs)
        at = None if start is None else start.standardised(images.scaling)
        targets, n_classes = y.astype(np.intp), int(y.max()) + 1
        epochs = model.train(images, targets, n_classes, groups=groups, masses=masses, start=at)
        for epoch in epochs:
            if on_epoch is not None:
                on_epoch(epoch)
    except ValueError as error:
        raise TrainingError(f"sgd: {error}") from error
    kept = model.history_[model.best_epoch_ - 1]
    fitted = {**model.get_params(), "best_epoch": model.best_epoch_}
    fitted["notes"] = notes_on_spread(images.scaling.mean, images.scaling.spread)
    if kept.validation_accuracy is not None:
        fitted["validation_accuracy"] = kept.validation_accuracy
    elif model.validation_fraction > 0:
        fitted["notes"].append(
            "too few training images per class to hold out a share of "
            f"{model.validation_fraction:g}: the last epoch is kept, and patience has no effect"
        )
    return *images.scaling.fold(model.coef_.T, model.intercept_), fitted


def check_descent(parameters: dict[str, Any] | None) -> None:
    """Refuse parameters that `SGDSoftmax` does not have, or that are out of range.

    Raises
    ------
    ParameterError
        There is one.
    """
    if not isinstance(parameters, dict | None):
        raise ParameterError(f"sgd must be a dict, not {type(parameters).__name__}")
    known = SGDSoftmax().get_params().keys() - {"random_state"}  # set by seed
    unknown = [name for name in parameters or {} if name not in known]
    if unknown:
        raise ParameterError(f"sgd has no parameter {unknown[0]!r:.40}; {', '.join(sorted(known))}")
    try:
        SGDSoftmax(**(parameters or {})).check_parameters()
    except ValueError as error:
        raise ParameterError(f"sgd: {error}") from error


def measured(rows: CodeRows) -> Scaling:
    """Compute mean and spread of a thousand images, evenly over all: SGD needs no more."""
    some = np.unique(np.linspace(0, len(rows) - 1, N_MEASURED).round().astype(np.intp))
    blocks = np.array_split(some, math.ceil(len(some) / _BLOCK))
    return Scaling.of(X for _, X in read_ahead(rows.pick, blocks))
