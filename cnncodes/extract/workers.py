"""Workers that each take a small batch of images from file to result by themselves.

There are as many as processors, and all share one session of one thread. So every processor is
busy whatever an image needs most, operators that onnxruntime runs in one thread only included.
Results come in order; how many wait is bounded, so memory does not grow with the collection.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Container, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cnncodes.extract.backbone import Backbone
from cnncodes.files import is_file
from cnncodes.images.decoding import LoadedImage, load_image
from cnncodes.images.limits import DEFAULT_MAX_PIXELS
from cnncodes.machine import available_memory, available_threads
from cnncodes.models.session import DEFAULT_PROVIDER
from cnncodes.parameters import NETWORK_BATCH, THREADS

# onnxruntime computes the images of a batch one after another, layer by layer. In float32 more
# than one at a time gives no more images a second, and takes more memory; in int8 a layer is so
# short that fetching its weights counts, and values are a quarter as large.
BATCH_SIZES = {"float32": 1, "int8": 4}
AHEAD = 4  # batches a worker
# What a worker takes at most: an image of 16 million pixels while it is decoded, and for each
# pixel of the input the outputs of VGG's first layers, the largest there are.
BYTES_A_WORKER = 64 * 2**20
BYTES_A_PIXEL = 600

Result = TypeVar("Result")


@dataclass(frozen=True)
class Workers:
    """A backbone and how the machine works on it.

    Attributes
    ----------
    network : Backbone
        What all workers share.
    number : int
        How many batches are worked on at a time.
    batch_size : int
        Images in each.
    """

    network: Backbone
    number: int
    batch_size: int

    @classmethod
    def hire(
        cls,
        backbone: str | Path,
        n_images: int,
        *,
        threads: int | None = None,
        batch_size: int | None = None,
        provider: str = DEFAULT_PROVIDER,
    ) -> Workers:
        """Open a backbone and choose the number of workers.

        There are fewer than threads where memory is short, or where there are fewer images: then
        the session gets the other threads.

        Parameters
        ----------
        backbone : str or Path
            A backbone file.
        n_images : int
            How many images there will be.
        threads : int, optional
            Threads that compute; by default all the processors there are.
        batch_size : int, optional
            Images the network sees at a time; by default what suits its precision.
        provider : str
            Execution provider of onnxruntime, such as ``cpu`` or ``openvino``.

        Raises
        ------
        FileFormatError
            The file is not a backbone.
        ParameterError
            `threads` or `batch_size` is out of range, or the provider is not there or cannot start.
        """
        threads = THREADS.check_or_none(threads, "threads") or available_threads()
        batch_size = NETWORK_BATCH.check_or_none(batch_size, "batch_size")
        number = max(1, min(threads, n_images))
        network = Backbone(backbone, threads=threads - number + 1, provider=provider)
        if batch_size is None:
            wanted = BATCH_SIZES.get(network.info.precision, 1)
            batch_size = max(1, min(wanted, n_images // (2 * number)))  # work for every worker
        size = network.info.input_size
        bytes_each = BYTES_A_WORKER + BYTES_A_PIXEL * size * size * batch_size
        memory = available_memory()
        if memory is not None:
            number = max(1, min(number, memory // 2 // bytes_each))
        return cls(network, number, batch_size)

    def run(
        self,
        files: Sequence[Path],
        finish: Callable[[NDArray[np.float32]], Result],
        *,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        white: int | None = None,
        known: Container[str] = (),
    ) -> Generator[tuple[list[LoadedImage], Result | None], None, None]:
        """Compute the codes of many files.

        Parameters
        ----------
        files : sequence of Path
            Images.
        finish : callable
            Given the codes of a batch; called in the worker.
        max_pixels, white
            As for `decode_image`.
        known : container of str
            SHA-256 of files that are read only, not decoded.

        Yields
        ------
        images : list of LoadedImage
            The next images, in order.
        result : Result or None
            What `finish` made of the codes of those of them that can be used; None if none can.
        """

        def work(start: int) -> tuple[list[LoadedImage], Result | None]:
            images = [
                load_image(index, files[index], size, max_pixels, known, white=white)
                for index in range(start, min(start + self.batch_size, len(files)))
            ]
            pixels = [image.pixels for image in images if image.pixels is not None]
            return images, finish(self.network.extract(np.stack(pixels))) if pixels else None

        size = self.network.info.input_size
        pool = ThreadPoolExecutor(self.number, thread_name_prefix="worker")
        waiting: deque[Future[tuple[list[LoadedImage], Result | None]]] = deque()
        try:
            for start in range(0, len(files), self.batch_size):
                _read_ahead(files[start : start + self.batch_size])
                waiting.append(pool.submit(work, start))
                if len(waiting) > AHEAD * self.number:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _read_ahead(files: Iterable[Path]) -> None:
    """Have the system read files while workers are busy with others, where it knows how to."""
    if not hasattr(os, "posix_fadvise"):
        return
    for file in filter(is_file, files):  # opening a FIFO or a device may have effects
        with suppress(OSError, ValueError):  # told when the file is read
            opened = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
            try:
                os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(opened)
