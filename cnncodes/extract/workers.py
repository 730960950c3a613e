"""Threads that each take a small batch of images from file to result: reading, decoding, network.

By default there is one worker per CPU, and all share a session of one thread. This keeps every CPU
busy whatever an image needs most, including operators that onnxruntime runs in one thread only.
The threads of a larger session would wait for each other between operators, and spin meanwhile.
Results come in order and their look-ahead is bounded, so memory does not grow with the collection.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cnncodes.concurrency import ordered_map
from cnncodes.extract.backbone import Backbone
from cnncodes.files import is_file
from cnncodes.images.decoding import LoadedImage, load_image
from cnncodes.images.limits import DEFAULT_MAX_PIXELS
from cnncodes.images.views import make_views
from cnncodes.machine import available_memory, available_threads
from cnncodes.models.session import DEFAULT_PROVIDER
from cnncodes.parameters import NETWORK_BATCH, THREADS

# onnxruntime computes the images of a batch one after another, layer by layer. In float32 a larger
# batch is not faster and takes more memory; in int8 layers are so short that fetching their
# weights counts, and activations are a quarter as large.
BATCH_SIZES = {"float32": 1, "int8": 4}
AHEAD = 4  # batches per worker
# Upper bound per worker: an image of 16 million pixels while it is decoded, and for each pixel of
# the input the outputs of VGG's first layers, the largest of all networks here.
BYTES_PER_WORKER = 64 * 2**20
BYTES_PER_PIXEL = 600

Result = TypeVar("Result")


@dataclass(frozen=True)
class Workers:
    """A backbone and the threads that run it.

    Attributes
    ----------
    network : Backbone
        Shared by all workers.
    n_workers : int
        Number of batches processed at a time.
    batch_size : int
        Images per batch.
    notes : tuple of str
        For the user; those of `cluster.Cluster`.
    """

    network: Backbone
    n_workers: int
    batch_size: int
    notes: tuple[str, ...] = ()

    @classmethod
    def open(
        cls,
        backbone: str | Path,
        n_images: int,
        *,
        threads: int | None = None,
        batch_size: int | None = None,
        provider: str = DEFAULT_PROVIDER,
    ) -> Workers:
        """Open a backbone and choose the number of workers.

        There are fewer workers than threads where memory is short or images are few; the session
        then gets the other threads.

        Parameters
        ----------
        backbone : str or Path
            A backbone file.
        n_images : int
            Number of images.
        threads : int, optional
            Threads that compute; by default one per available CPU.
        batch_size : int, optional
            Images per run of the network; by default chosen by its precision.
        provider : str
            Execution provider of onnxruntime, such as ``cpu`` or ``openvino``.

        Raises
        ------
        FileFormatError
            The file is not a backbone.
        ParameterError
            `threads` or `batch_size` is out of range, or the provider is missing or cannot start.
        """
        threads = THREADS.check_or_none(threads, "threads") or available_threads()
        batch_size = NETWORK_BATCH.check_or_none(batch_size, "batch_size")
        n_workers = max(1, min(threads, n_images))
        # A worker computes in its own thread beside those of the session, which all workers share.
        network = Backbone(backbone, threads=threads - n_workers + 1, provider=provider)
        if batch_size is None:
            batch_size = default_batch_size(network.info.precision, n_images, n_workers)
        n_fitting = n_fitting_workers(network.info.input_size, batch_size)
        if n_fitting < n_workers:
            n_workers = n_fitting
            del network  # the memory is short: not two sessions at a time
            network = Backbone(backbone, threads=threads - n_workers + 1, provider=provider)
        return cls(network, n_workers, batch_size)

    def run(
        self,
        files: Sequence[Path],
        finish: Callable[[NDArray[np.float32]], Result],
        *,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        white: int | None = None,
        known: Container[str] = (),
        augment: str = "none",
    ) -> Generator[tuple[list[LoadedImage], Result | None], None, None]:
        """Compute the codes of many files, as `run_batches`.

        Parameters
        ----------
        files, max_pixels, white, known
            As for `run_batches`.
        finish : callable
            Called in the worker with the codes of a batch, shape (n_usable * n_views,
            *code_shape); what it returns is the result of the batch.
        augment : {"none", "hflip", "hvflip", "d4"}
            Which views of each image are computed, as for `make_views`.
        """

        def compute(pixels: NDArray[np.uint8]) -> Result:
            return finish(extract_views(self.network, pixels, augment))

        return run_batches(
            files,
            self.network.info.input_size,
            compute,
            n_workers=self.n_workers,
            batch_size=self.batch_size,
            max_pixels=max_pixels,
            white=white,
            known=known,
        )


def extract_views(
    network: Backbone, pixels: NDArray[np.uint8], augment: str
) -> NDArray[np.float32]:
    """Compute the codes of all views of a batch, as many at a time as it has images.

    More of them at a time would take more memory.

    Parameters
    ----------
    network : Backbone
        The network.
    pixels : ndarray of uint8, shape (n_images, size, size, 3)
        Images, one or more.
    augment : {"none", "hflip", "hvflip", "d4"}
        Which views, as for `make_views`.

    Returns
    -------
    ndarray of float32, shape (n_images * n_views, *code_shape)
        The codes, all of an image one after the other.
    """
    views = make_views(pixels, augment)
    starts = range(0, len(views), len(pixels))
    parts = [network.extract(views[at : at + len(pixels)]) for at in starts]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def run_batches(
    files: Iterable[Path],
    size: int,
    compute: Callable[[NDArray[np.uint8]], Result],
    *,
    n_workers: int,
    batch_size: int,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    white: int | None = None,
    known: Container[str] = (),
) -> Generator[tuple[list[LoadedImage], Result | None], None, None]:
    """Read, decode and compute many files in batches, each batch by one worker.

    Parameters
    ----------
    files : iterable of Path
        Images. At most `AHEAD` batches per worker, and one more, are taken from it in advance.
    size : int
        Height and width of the decoded images, in pixels.
    compute : callable
        Called in the worker with the pixels of a batch, shape (n_usable, size, size, 3), uint8.
    n_workers : int
        Number of batches processed at a time.
    batch_size : int
        Files per batch.
    max_pixels, white
        As for `decode_image`.
    known : container of str
        SHA-256 of files that are read only, not decoded.

    Yields
    ------
    images : list of LoadedImage
        The images of the next batch, in order.
    result : Result or None
        Return value of `compute` for the usable ones among them; None if there are none.
    """

    def work(batch: Sequence[tuple[int, Path]]) -> tuple[list[LoadedImage], Result | None]:
        images = [
            load_image(index, file, size, max_pixels, known, white=white) for index, file in batch
        ]
        pixels = [image.pixels for image in images if image.pixels is not None]
        return images, compute(np.stack(pixels)) if pixels else None

    def batches() -> Iterator[list[tuple[int, Path]]]:
        numbered = enumerate(files)
        while batch := list(islice(numbered, batch_size)):
            _read_ahead(file for _, file in batch)
            yield batch

    return ordered_map(work, batches(), threads=n_workers, ahead=AHEAD * n_workers, name="worker")


def default_batch_size(precision: str, n_images: int, n_workers: int) -> int:
    """Return the images per batch that suit a precision, with two batches for every worker."""
    return max(1, min(BATCH_SIZES.get(precision, 1), n_images // (2 * n_workers)))


def n_fitting_workers(input_size: int, batch_size: int) -> int:
    """Return how many workers fit into half of the available memory, 1 or more.

    `batch_size` is the number of images that the network computes at a time, views included.
    """
    memory = available_memory()
    if memory is None:
        return THREADS.most
    bytes_each = BYTES_PER_WORKER + BYTES_PER_PIXEL * input_size**2 * batch_size
    return max(1, memory // 2 // bytes_each)


def _read_ahead(files: Iterable[Path]) -> None:
    """Ask the operating system to read files in advance, where it has a call for that."""
    if not hasattr(os, "posix_fadvise"):
        return
    for file in filter(is_file, files):  # opening a FIFO or a device may have effects
        with suppress(OSError, ValueError):  # reported when the file is read
            opened = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
            try:
                os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(opened)
