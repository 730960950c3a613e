"""Images of several requests, classified together.

Each worker takes what waits, up to a batch, decodes it and runs the session once. While all
workers compute, requests gather, so batches grow with the load: a lone image never waits for
others.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import PurePath
from threading import Condition, Thread

import numpy as np
from numpy.typing import NDArray

from cnncodes.app.classifier import Classifier
from cnncodes.bounds import MAX_REASON_LENGTH
from cnncodes.errors import CnncodesError, ImageError
from cnncodes.images.decoding import decode_image
from cnncodes.images.limits import DEFAULT_MAX_PIXELS
from cnncodes.text import shortened

# The quickest on two CPUs with a MobileNetV2 app in float32, by a fifth, where `extract` has 1:
# benchmarks/serve.py prints the figures of a machine.
BATCH_SIZE = 4


class BusyError(CnncodesError):
    """More images wait than may."""


@dataclass(frozen=True)
class Upload:
    """An image file that was sent.

    Attributes
    ----------
    name : str
        Its name at the sender. It is returned and gives the format's ending; no file of this
        name is ever opened.
    content : bytes
        The whole file.
    """

    name: str
    content: bytes

    def decode(self, size: int, max_pixels: int, white: int | None) -> NDArray[np.uint8]:
        """Decode the image, as `decode_image`."""
        # The path of another system may have a null byte or be too long; its ending does not.
        suffix = PurePath(self.name[-64:]).suffix
        return decode_image(self.content, size, max_pixels=max_pixels, white=white, suffix=suffix)


@dataclass(frozen=True)
class Answer:
    """The result for one image.

    Attributes
    ----------
    probabilities : ndarray of float32, shape (n_classes,), or None
        In the order of the classifier's labels; None if the image cannot be used.
    problem : str
        Why the image cannot be used; empty if it can.
    unknown : float or None
        How unlike the training images the image is, as in `Prediction`.
    """

    probabilities: NDArray[np.float32] | None
    problem: str = ""
    unknown: float | None = None


@dataclass(frozen=True)
class _Job:
    upload: Upload
    future: Future[Answer] = field(default_factory=Future)


class Batcher:
    """Worker threads that share a classifier.

    Parameters
    ----------
    classifier : Classifier
        Its session should have one thread, since each worker computes in its own beside those.
    n_workers : int
        Number of batches decoded and computed at a time.
    batch_size : int
        Largest number of images in a batch.
    max_waiting : int
        Largest number of images that wait for a worker.
    max_pixels : int
        An image with more pixels is not decoded.
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        n_workers: int,
        batch_size: int = BATCH_SIZE,
        max_waiting: int = 512,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> None:
        self._classifier = classifier
        self._batch_size = batch_size
        self._max_waiting = max_waiting
        self._max_pixels = max_pixels
        self._waiting: deque[_Job] = deque()
        self._changed = Condition()
        self._is_closed = False
        self._workers = [
            Thread(target=self._work, name=f"batch-{number}", daemon=True)
            for number in range(n_workers)
        ]
        for worker in self._workers:
            worker.start()

    def submit(self, uploads: list[Upload]) -> list[Future[Answer]]:
        """Let images wait for a worker: all of them, or none.

        Parameters
        ----------
        uploads : list of Upload
            The images.

        Returns
        -------
        list of Future
            The answers to come, in order. One that is cancelled in time is not computed.

        Raises
        ------
        BusyError
            There is no room for so many.
        """
        jobs = [_Job(upload) for upload in uploads]
        with self._changed:
            if self._is_closed or len(self._waiting) + len(jobs) > self._max_waiting:
                raise BusyError(f"{len(self._waiting)} images wait already; try again later")
            self._waiting.extend(jobs)
            self._changed.notify(len(jobs))
        return [job.future for job in jobs]

    def close(self) -> None:
        """Finish what waits, and end the workers."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.join()

    def _work(self) -> None:
        while jobs := self._next_batch():
            try:
                answers = self._compute([job.upload for job in jobs])
            except Exception as error:  # of the runtime, or no memory; the worker goes on
                for job in jobs:
                    job.future.set_exception(error)
            else:
                for job, answer in zip(jobs, answers, strict=True):
                    job.future.set_result(answer)

    def _next_batch(self) -> list[_Job]:
        """Wait for images; return none when the batcher is closed."""
        with self._changed:
            while True:
                while self._waiting:
                    # A share of what waits, so that no worker idles beside one with a batch.
                    share = len(self._waiting) // len(self._workers)
                    n = max(1, min(self._batch_size, share))
                    jobs = [self._waiting.popleft() for _ in range(n)]
                    jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]
                    if jobs:
                        return jobs
                if self._is_closed:
                    return []
                self._changed.wait()

    def _compute(self, uploads: list[Upload]) -> list[Answer]:
        """Decode images and run the session on those that can be used."""
        size, white = self._classifier.input_size, self._classifier.info.white
        pixels: list[NDArray[np.uint8]] = []
        problems: list[str] = []
        for upload in uploads:
            try:
                pixels.append(upload.decode(size, self._max_pixels, white))
                problems.append("")
            except ImageError as error:
                problems.append(shortened(" ".join(str(error).split()), MAX_REASON_LENGTH))
        answers = self._classifier.predict_each(np.stack(pixels)) if pixels else []
        rows = (Answer(row, unknown=unknown) for row, unknown in answers)
        return [Answer(None, problem) if problem else next(rows) for problem in problems]
