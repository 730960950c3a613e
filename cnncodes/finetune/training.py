"""The training of the layers above the cut, from activations in a codes file.

1. Each epoch takes one random view of each image, in random order; both follow from the seed and
   the number of the epoch.
2. After each epoch the images held out are measured, as they are, and the state is written.
3. Training ends after the last epoch, or when the validation loss has not fallen for some epochs;
   the best weights are kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnncodes.errors import TrainingError
from cnncodes.finetune.checkpoint import Checkpoint, Epoch, load
from cnncodes.finetune.recipe import Recipe
from cnncodes.finetune.top import Floats, Top
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

    def apply(self, function: Callable[[Floats], Floats], images: Rows, size: int) -> Floats:
        """Return the values of a function of the activations of some images as they are."""
        return np.concatenate([function(X) for _, X in self.batches(images, size)])


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
    top: Top,
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
    top : Top
        Compiled; its softmax layer is that of the linear classifier.
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
        state = Checkpoint([start], variables, top.optimizer_variables, variables)
    else:
        top.variables, top.optimizer_variables = state.variables, state.optimizer
    for epoch in state.epochs:
        on_epoch(epoch)
    n_done = len(state.epochs) - 1
    progress.begin(recipe.epochs * len(task.train), n_done * len(task.train), unit="images trained")
    try:
        while not is_finished(state, recipe):
            epoch = _train_epoch(top, activations, task, recipe, len(state.epochs), progress)
            variables = top.variables
            best = epoch.validation_loss < state.best_epoch.validation_loss
            state = Checkpoint(
                [*state.epochs, epoch],
                variables,
                top.optimizer_variables,
                variables if best else state.best,
            )
            state.save(checkpoint, request)
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
    top: Top,
    activations: Activations,
    task: Task,
    recipe: Recipe,
    number: int,
    progress: Progress,
) -> Epoch:
    started = time.monotonic()
    generator = np.random.default_rng([task.seed, number])
    images = generator.permutation(task.train)
    views = generator.integers(activations.n_views, size=len(images))
    n_steps = math.ceil(len(images) / recipe.batch_size)
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
    loss, accuracy = _validate(top, activations, task, recipe)
    return Epoch(number, total / len(images), loss, accuracy, time.monotonic() - started)


def _validate(
    top: Top, activations: Activations, task: Task, recipe: Recipe
) -> tuple[float, float]:
    """Return loss and accuracy on the images held out."""
    images = task.validation
    probabilities = activations.apply(top.probabilities, images, recipe.batch_size)
    targets, weights = task.targets[images], task.weights[images].astype(np.float64)
    logarithms = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)).astype(np.float64)
    losses = -(targets * logarithms).sum(axis=1)
    correct = probabilities.argmax(axis=1) == targets.argmax(axis=1)
    return float((weights * losses).sum() / weights.sum()), float(correct.mean())
