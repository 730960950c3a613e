"""What a fine-tuning takes of time, memory and disk, from a short measurement before it starts."""

from __future__ import annotations

import shutil
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cnncodes.errors import OutputError
from cnncodes.extract.workers import Workers
from cnncodes.extract.writing import compress
from cnncodes.files import exists
from cnncodes.finetune.apart import TopProcess
from cnncodes.finetune.recipe import Recipe
from cnncodes.head.scaling import Scaling
from cnncodes.images.sources import Source
from cnncodes.inspect.bench import peak_bytes
from cnncodes.text import counted

# Images of the measurement per worker: the first of them opens files and warms up caches.
N_MEASURED = 4
N_STEPS = 2
COPIES = 2  # of the activations on disk, while the journal becomes a codes file


@dataclass(frozen=True)
class Plan:
    """What a fine-tuning takes.

    Attributes
    ----------
    n_images, n_views : int
        Images of the source, and views of each whose activations are kept.
    activation_bytes : int
        Size of the activations on disk; 0 where they are there already.
    activation_seconds : float
        Duration of their computation; 0 where they are there already.
    epoch_seconds : float
        Duration of an epoch.
    memory_bytes : int or None
        Peak memory of both processes in the measurement; None where it is unknown.
    """

    n_images: int
    n_views: int
    activation_bytes: int
    activation_seconds: float
    epoch_seconds: float
    memory_bytes: int | None

    def __str__(self) -> str:
        views = f" × {counted(self.n_views, 'view')}" if self.n_views > 1 else ""
        if self.activation_bytes:
            first = (
                f"activations: {self.n_images:,} images{views}, "
                f"{size_text(self.activation_bytes)}, {duration(self.activation_seconds)}"
            )
        else:
            first = f"activations: those of {self.n_images:,} images{views} are there"
        parts = [first, f"an epoch {duration(self.epoch_seconds)}"]
        if self.memory_bytes is not None:
            parts.append(f"about {size_text(self.memory_bytes)} of memory")
        return "; ".join(parts)


def size_text(n_bytes: float) -> str:
    """Write a number of bytes in GB, or in MB where it is small."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"


def duration(seconds: float) -> str:
    """Write a duration in seconds, minutes or hours, of two digits or so."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def make_plan(
    top: TopProcess,
    frozen: Path,
    images: Source,
    n_views: int,
    n_trained: int,
    n_classes: int,
    recipe: Recipe,
    activations: Path,
) -> Plan:
    """Measure some images and some gradient steps.

    Parameters
    ----------
    top : TopProcess
        Without a softmax layer; it is of no use afterwards.
    frozen : Path
        The backbone file of the frozen layers.
    images : Source
        The images.
    n_views : int
        Views of each.
    n_trained : int
        Images per epoch.
    n_classes : int
        Number of classes.
    recipe : Recipe
        The hyperparameters.
    activations : Path
        The codes file of the activations; where it is there, it is taken for complete.

    Raises
    ------
    OutputError
        The activations do not fit on the disk.
    """
    n_images = len(images.paths)
    n_bytes, seconds = 0, 0.0
    if not exists(activations):
        each, rate = _measure_frozen(frozen, images)
        n_bytes, seconds = each * n_images * n_views, n_images * n_views / rate
        check_disk(activations, n_bytes)
    step = _measure_steps(top, n_classes, recipe)
    epoch = recipe.n_steps(n_trained) * step
    own, other = peak_bytes(), top.peak_bytes
    memory = None if own is None or other is None else own + other
    return Plan(n_images, n_views, n_bytes, seconds, epoch, memory)


def check_disk(activations: Path, n_bytes: int) -> None:
    """Refuse activations that do not fit on the disk.

    Parameters
    ----------
    activations : Path
        The codes file to write.
    n_bytes : int
        Its size.

    Raises
    ------
    OutputError
        `COPIES` of it, less what an interrupted run has left, do not fit.
    """
    partial = activations.with_name(activations.name + ".partial")
    there = partial.stat().st_size if exists(partial) else 0
    needed = max(0, COPIES * n_bytes - there)
    free = shutil.disk_usage(activations.parent).free
    if needed > free:
        raise OutputError(
            f"{activations.parent}: the activations need {size_text(needed)} while they are "
            f"written, and {size_text(free)} are free; name a folder on another disk as work, "
            "choose a later from_layer, or fewer views"
        )


def _measure_frozen(frozen: Path, images: Source) -> tuple[int, float]:
    """Return the bytes of an image's activations on disk, and images per second."""
    workers = Workers.open(frozen, len(images.paths))
    files = images.files()
    n = min(len(files), N_MEASURED * workers.n_workers)
    chosen = [files[index] for index in np.linspace(0, len(files) - 1, n).astype(int)]
    sizes: list[int] = []
    started = time.perf_counter()
    batches = workers.run(
        chosen, lambda codes: [len(compress(each.astype(np.float16).tobytes())) for each in codes]
    )
    with closing(batches), np.errstate(over="ignore"):  # which the extraction reports
        for _, result in batches:
            sizes += result or []
    seconds = time.perf_counter() - started
    return round(np.mean(sizes)) if sizes else 0, n / seconds


def _measure_steps(top: TopProcess, n_classes: int, recipe: Recipe) -> float:
    """Return the seconds of a gradient step."""
    generator = np.random.default_rng(0)
    X = generator.random((recipe.batch_size, *top.input_shape), np.float32)
    targets = np.eye(n_classes, dtype=np.float32)[np.arange(len(X)) % n_classes]
    weights = np.ones(len(X), np.float32)
    scaling = Scaling(np.zeros(top.n_features, np.float32), 1.0)
    head = np.zeros((top.n_features, n_classes), np.float32), np.zeros(n_classes, np.float32)
    top.attach(scaling, *head, recipe, N_STEPS)
    top.step(X, targets, weights, 0.0)  # builds the graph
    started = time.perf_counter()
    for _ in range(N_STEPS):
        top.step(X, targets, weights, 0.0)
    return (time.perf_counter() - started) / N_STEPS
