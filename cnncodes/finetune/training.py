"""The training of the layers above the cut, from activations in a codes file.

1. Each epoch takes one view of each image, in random order; both follow from the seed and the
   number of the epoch. The views of an image take turns.
2. After each epoch a moving average of the weights is measured on the images held out, as they
   are, and the state is written.
3. Training ends after the last epoch, or when the validation loss has not fallen for some epochs;
   the best weights are kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncodes.errors import TrainingError
from cnncodes.finetune.apart import TopProcess
from cnncodes.finetune.checkpoint import Checkpoint, Epoch, best_of, load
from cnncodes.finetune.codes import Floats
from cnncodes.finetune.recipe import Recipe
from cnncodes.head.rows import CodeRows, read_ahead
from cnncodes.progress import NoProgress, Progress

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Activations:
    """The activations of images, of each image several views.

    Attributes
    ----------
    rows : CodeRows
        All rows of a codes file.
    shape : tuple of int
        Shape of the activations of an image.
    n_views : int
        Rows per image; the first is the image as it is.
    """

    rows: CodeRows
    shape: tuple[int, ...]
    n_views: int

    def batches(
        self, images: Rows, size: int, views: Rows | None = None
    ) -> Iterator[tuple[Rows, Floats]]:
        """Yield the activations of some images in batches of nearly equal sizes.

        Parameters
        ----------
        images : ndarray of intp
            The images.
        size : int
            Images per batch, at most.
        views : ndarray of intp, optional
            The view of each of them; by default the first.

        Yields
        ------
        indices : ndarray of intp, shape (n,)
            Which of `images` are in the batch.
        X : ndarray of float32, shape (n, *shape)
            Their activations.
        """
        rows = images * self.n_views + (0 if views is None else views)
        parts = np.array_split(np.arange(len(images)), math.ceil(len(images) / size))
        # While one batch is trained on, the next two are read.
        ahead = read_ahead(lambda part: self.rows.pick(rows[part]), parts)
        with closing(ahead):  # type: ignore[type-var]
            for part, X in ahead:
                yield part, X.reshape(len(part), *self.shape)

    def apply(
        self,
        function: Callable[[Floats], Floats],
        images: Rows,
        size: int,
        views: Rows | None = None,
    ) -> Floats:
        """Return the values of a function of the activations, as `batches` yields these."""
        return np.concatenate([function(X) for _, X in self.batches(images, size, views)])


@dataclass(frozen=True)
class Task:
    """The images to train on, and what is wanted for them.

    Attributes
    ----------
    train, validation : ndarray of intp
        The images that are trained on, and those held out.
    targets : ndarray of float32, shape (n_images, n_classes)
        For each image of the activations the probabilities of the classes; rows of other images
        are not read.
    weights : ndarray of float32, shape (n_images,)
        Weight of each image in the losses.
    seed : int
        Seed of order and views.
    """

    train: Rows
    validation: Rows
    targets: Floats
    weights: Floats
    seed: int


def train_top(
    top: TopProcess,
    activations: Activations,
    task: Task,
    recipe: Recipe,
    checkpoint: Path,
    request: str,
    *,
    on_epoch: Callable[[Epoch], None] | None = None,
    progress: Progress | None = None,
) -> list[Epoch]:
    """Train the top, or go on from a checkpoint; at the end it has the best weights.

    Parameters
    ----------
    top : TopProcess
        With the linear classifier as its softmax layer.
    activations : Activations
        Of all images.
    task : Task
        The images and their targets.
    recipe : Recipe
        The hyperparameters.
    checkpoint : Path
        The file of the state, written after each epoch.
    request : str
        What determines the training: a state of another one is not used.
    on_epoch : callable, optional
        Called with each `Epoch`, those of the checkpoint too.
    progress : Progress, optional
        Counts the images of the epochs.

    Returns
    -------
    list of Epoch
        The epochs, from number 0 on, the linear classifier.

    Raises
    ------
    TrainingError
        The loss is not finite.
    FileFormatError
        The checkpoint is damaged.
    OutputError
        The checkpoint cannot be written.
    KeyboardInterrupt
        With a message about what is kept.
    """
    progress = progress or NoProgress()
    on_epoch = on_epoch or (lambda epoch: None)
    state = load(checkpoint, request, [each.shape for each in top.variables])
    if state is None:
        started = time.monotonic()
        loss, accuracy = _validate(top, activations, task, recipe)
        start = Epoch(0, None, loss, accuracy, time.monotonic() - started)
        variables = top.variables
        state = Checkpoint([start], [], [], variables)
    else:
        top.variables = list(state.variables)
        top.set_optimizer_variables(list(state.optimizer))
        state = replace(state, variables=[], optimizer=[])
    for epoch in state.epochs:
        on_epoch(epoch)
    n_done = len(state.epochs) - 1
    progress.begin(recipe.epochs * len(task.train), n_done * len(task.train), unit="images trained")
    try:
        while not is_finished(state, recipe):
            epoch, averages = _train_epoch(
                top, activations, task, recipe, len(state.epochs), progress
            )
            is_best = best_of([*state.epochs, epoch]) is epoch
            after = Checkpoint(
                [*state.epochs, epoch],
                top.read_variables(),
                top.read_variables(of_optimizer=True),
                averages if is_best else state.best,
            )
            after.save(checkpoint, request)  # an interrupt may come before its end
            state = replace(after, variables=[], optimizer=[])  # which the file has
            on_epoch(epoch)
    except KeyboardInterrupt:
        n_done, number = len(state.epochs) - 1, state.best_epoch.number
        if n_done == 0:
            raise KeyboardInterrupt(
                f"{checkpoint.parent} keeps the activations; the same command goes on from there"
            ) from None
        raise KeyboardInterrupt(
            f"{checkpoint} keeps {n_done} of {recipe.epochs} epochs, the best of which is "
            f"{number}; the same command goes on from there"
        ) from None
    top.variables = state.best
    return state.epochs


def is_finished(state: Checkpoint, recipe: Recipe) -> bool:
    """Return whether all epochs are done, or the last ones have not been better."""
    n_done = len(state.epochs) - 1
    return n_done >= recipe.epochs or n_done - state.best_epoch.number >= recipe.patience


def _train_epoch(
    top: TopProcess,
    activations: Activations,
    task: Task,
    recipe: Recipe,
    number: int,
    progress: Progress,
) -> tuple[Epoch, list[NDArray[Any]]]:
    """Train for an epoch; return its result and the averaged weights."""
    started = time.monotonic()
    order = np.random.default_rng([task.seed, number]).permutation(len(task.train))
    images, n_steps = task.train[order], recipe.n_steps(len(task.train))
    views = _views(activations.n_views, len(images), number, task.seed)[order]
    total = 0.0
    batches = activations.batches(images, recipe.batch_size, views)
    with closing(batches):  # type: ignore[type-var]
        for step, (part, X) in enumerate(batches):
            chosen = images[part]
            rate = recipe.rate_at(number - 1, step, n_steps)
            loss = top.step(X, task.targets[chosen], task.weights[chosen], rate)
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss of epoch {number} is not finite; lower the learning rate"
                )
            total += loss * len(part)
            progress.advance(len(part))
    top.use_averages()
    validated = _validate(top, activations, task, recipe)
    averages = top.variables
    top.use_weights()
    seconds = time.monotonic() - started
    return Epoch(number, total / len(images), *validated, seconds), averages


def _views(n_views: int, n_images: int, number: int, seed: int) -> Rows:
    """Return the view of each image in an epoch: in `n_views` epochs it has each of them once."""
    cycle, turn = divmod(number - 1, n_views)
    every = np.tile(np.arange(n_views), (n_images, 1))
    views: Rows = np.random.default_rng([seed, cycle, n_views]).permuted(every, axis=1)[:, turn]
    return views


def _validate(
    top: TopProcess, activations: Activations, task: Task, recipe: Recipe
) -> tuple[float | None, float | None]:
    """Return loss and accuracy on the images held out; None where there are none."""
    images = task.validation
    if len(images) == 0:
        return None, None
    probabilities = activations.apply(top.probabilities, images, recipe.batch_size)
    logarithms = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    return weighted_loss(logarithms, task.targets[images], task.weights[images])


def weighted_loss(logarithms: Floats, targets: Floats, weights: Floats) -> tuple[float, float]:
    """Return weighted mean cross-entropy and accuracy of log probabilities (n, n_classes)."""
    losses = -(targets * logarithms.astype(np.float64)).sum(axis=1)
    correct = logarithms.argmax(axis=1) == targets.argmax(axis=1)
    mean = (weights.astype(np.float64) * losses).sum() / weights.sum(dtype=np.float64)
    return float(mean), float(correct.mean())
