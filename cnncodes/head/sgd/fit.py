"""The SGD head on the codes of a file: little of them is in memory at a time.

What a training needs to go on after an interruption is kept beside the head, as NAME.partial:
arrays in numpy's own format, which holds no code. The first of them tells it from any other file.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncodes._version import __version__
from cnncodes.errors import OutputError, ParameterError, TrainingError
from cnncodes.head.rows import CodeRows, read_ahead
from cnncodes.head.scaling import Scaling, notes_on_spread
from cnncodes.head.sgd.softmax import Epoch, SGDSoftmax
from cnncodes.output import check_output, check_unfinished, not_ours, replacing
from cnncodes.progress import Progress

READ_BYTES = 32 * 2**20
N_MEASURED = 1024
_BLOCK = 64
SECONDS_BETWEEN_CHECKPOINTS = 5.0
_REQUEST = "cnncodes_request"  # the first member of a checkpoint
_MAX_REQUEST = 4096  # bytes
# An archive of .npz begins so, and the name of its first member is at byte 30.
_ZIP_SIGNATURE, _NAME_START = b"PK\3\4", 30


class StandardisedRows:
    """Codes of a file, centred and scaled, as `SGDSoftmax.train` takes them.

    They are read some megabytes at a time, while the last ones are trained on.

    Parameters
    ----------
    rows : CodeRows
        The codes.
    scaling : Scaling
        How to centre and scale them.
    progress : Progress, optional
        Told of the images that were read.

    Attributes
    ----------
    n_features : int
        Numbers an image.
    scaling : Scaling
        As given.
    """

    def __init__(self, rows: CodeRows, scaling: Scaling, progress: Progress | None = None) -> None:
        self._rows = rows
        self.scaling = scaling
        self._progress = progress
        self.n_features = rows.n_features
        self._n_read = max(1, READ_BYTES // (4 * rows.n_features))

    def batches(
        self, order: NDArray[np.intp], size: int
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
        """Give the images at some places, `size` at a time, each time with their places."""
        n_read = max(1, self._n_read // size) * size
        reads = [order[start : start + n_read] for start in range(0, len(order), n_read)]
        for places, X in read_ahead(self._read, reads):
            for start in range(0, len(places), size):
                batch = slice(start, start + size)
                yield places[batch], X[batch]
            if self._progress is not None:
                self._progress.advance(len(places))

    def shuffled(self, places: NDArray[np.intp], random: np.random.RandomState) -> NDArray[np.intp]:
        """Return the places in a random order."""
        shuffled: NDArray[np.intp] = random.permutation(places)
        return shuffled

    def _read(self, places: NDArray[np.intp]) -> NDArray[np.float32]:
        X = self._rows.pick(places)
        self.scaling.apply(X)
        return X


def fit_sgd(
    rows: CodeRows,
    y: NDArray[np.int32],
    *,
    seed: int = 0,
    groups: NDArray[np.intp] | None = None,
    parameters: dict[str, Any] | None = None,
    checkpoint: Path | None = None,
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
    parameters : dict, optional
        Parameters of `SGDSoftmax`.
    checkpoint : Path, optional
        Where to keep what an interrupted training needs to go on. It stays, for the caller to
        remove once the head is written.
    on_epoch : callable, optional
        Given each `Epoch` when it ends.
    progress : Progress, optional
        Told of the images that were read.

    Returns
    -------
    weights : ndarray of float32, shape (n_features, n_classes)
        Weights of the logits, on codes as they are.
    bias : ndarray of float32, shape (n_classes,)
        Bias of the logits.
    fitted : dict
        The parameters and the best epoch; ``notes``, a list of what the user should know.

    Raises
    ------
    TrainingError
        A parameter is out of range, a code is not finite, or the training diverged.
    OutputError
        The checkpoint cannot be written, or something else than one stands there.
    KeyboardInterrupt
        With a message that says whether the training can go on.
    """
    if checkpoint is not None:
        _check_checkpoint(checkpoint)
    model = SGDSoftmax(random_state=seed, **(parameters or {}))
    images = StandardisedRows(rows, measured(rows), progress)
    request = _request(rows, images.scaling, y, model, groups)
    state = _load(checkpoint, request)
    ours = state is not None  # whether the checkpoint there is of this training
    try:
        if progress is not None:
            n_done = len(state["history"]) if state else 0
            progress.begin(len(rows) * model.epochs, len(rows) * n_done)
        saved = time.monotonic()
        targets, n_classes = y.astype(np.intp), int(y.max()) + 1
        for epoch in model.train(images, targets, n_classes, state, groups=groups):
            if on_epoch is not None:
                on_epoch(epoch)
            if checkpoint and time.monotonic() - saved >= SECONDS_BETWEEN_CHECKPOINTS:
                _save(checkpoint, request, model)
                ours, saved = True, time.monotonic()
    except ValueError as error:
        if checkpoint and ours:  # it would diverge again from there
            checkpoint.unlink(missing_ok=True)
        raise TrainingError(f"sgd: {error}") from error
    except KeyboardInterrupt:
        if not ours:
            raise
        raise KeyboardInterrupt("run the same command again to go on from there") from None
    kept = model.history_[model.best_epoch_ - 1]
    fitted = {**model.get_params(), "best_epoch": model.best_epoch_}
    fitted["notes"] = notes_on_spread(images.scaling.mean, images.scaling.spread)
    if kept.validation_accuracy is not None:
        fitted["validation_accuracy"] = kept.validation_accuracy
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
    known = SGDSoftmax().get_params().keys() - {"random_state"}  # seed stands for that
    unknown = [name for name in parameters or {} if name not in known]
    if unknown:
        raise ParameterError(f"sgd has no parameter {unknown[0]!r:.40}; {', '.join(sorted(known))}")
    try:
        SGDSoftmax(**(parameters or {})).check_parameters()
    except ValueError as error:
        raise ParameterError(f"sgd: {error}") from error


def measured(rows: CodeRows) -> Scaling:
    """Measure codes on a thousand images, evenly over all: descent needs no more."""
    some = np.unique(np.linspace(0, len(rows) - 1, N_MEASURED).round().astype(np.intp))
    blocks = np.array_split(some, math.ceil(len(some) / _BLOCK))
    return Scaling.of(X for _, X in read_ahead(rows.pick, blocks))


def _request(
    rows: CodeRows,
    scaling: Scaling,
    y: NDArray[np.int32],
    model: SGDSoftmax,
    groups: NDArray[np.intp] | None,
) -> str:
    """Digest all that a training depends on: only the same one goes on from a checkpoint."""
    images = [rows.digests(), y.tolist(), None if groups is None else groups.tolist()]
    asked = json.dumps([__version__, model.get_params(), images, scaling.scale])
    # Another network makes other codes of the same images: their mean tells.
    return hashlib.sha256(asked.encode() + scaling.mean.tobytes()).hexdigest()


def _check_checkpoint(path: Path) -> None:
    """Refuse what is no checkpoint of ours, whole or damaged: it would be replaced and removed."""
    check_unfinished(path)
    check_output(path, overwrite=True)
    try:
        with path.open("rb") as file:
            content = file.read(_NAME_START + len(_REQUEST))
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(f"{path}: cannot be read ({error.strerror})") from error
    ours = content.startswith(_ZIP_SIGNATURE) and content[_NAME_START:] == _REQUEST.encode()
    if content and not ours:  # an empty one holds nothing that could be lost
        raise not_ours(path, "no checkpoint of cnncodes train")


def _save(path: Path, request: str, model: SGDSoftmax) -> None:
    arrays: dict[str, Any] = {_REQUEST: np.array(request), **model.state()}
    # Private, since a head that stands beside it may be.
    with replacing(path, overwrite=True, private=True) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def _load(path: Path | None, request: str) -> dict[str, NDArray[Any]] | None:
    """Read a checkpoint of the same training; None if there is none."""
    if path is None or not path.is_file():
        return None
    try:
        # numpy would leave a damaged file open that it opened itself.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if stored.zip.getinfo(f"{_REQUEST}.npy").file_size > _MAX_REQUEST:
                return None
            if str(stored[_REQUEST]) != request:
                return None
            return {name: stored[name] for name in stored.files if name != _REQUEST}
    except Exception:  # what is damaged may hold anything; the training starts anew
        return None
