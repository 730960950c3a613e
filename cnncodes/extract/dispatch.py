"""The tasks of an extraction on a Dask cluster: which images are where, and what if one fails.

Tasks hold as many images as take `TASK_SECONDS`, fewer at the beginning and at the end. A few for
each thread of the cluster are under way, so that the memory of the scheduler and of this process
does not grow with the collection. Results are taken in any order and yielded in that of the images.
Dask computes the tasks of a worker that is gone elsewhere, and the rest is here:

- A task that takes longer than `SECONDS_UNTIL_COPIED` goes to another worker too.
- One that ended as many workers as Dask allows is divided, down to the one image that does it.
- An image that a worker cannot read, and this machine can, is read by another one.
"""

from __future__ import annotations

import heapq
import logging
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from cnncodes.errors import ClusterError
from cnncodes.extract.remote import Job, Outcome, compute, inspect, sent_name
from cnncodes.files import is_file, is_url
from cnncodes.images.decoding import LoadedImage
from cnncodes.images.urls import load_location
from cnncodes.text import counted, first_line

if TYPE_CHECKING:
    from cnncodes.extract.cluster import Cluster

TASK_SECONDS = 3.0
TASKS_PER_THREAD = 3
MOST_IMAGES = 2048  # in a task
MOST_HELD = 256 * 2**20  # bytes of results that wait for earlier ones
SECONDS_BETWEEN_LOOKS = 2.0  # at the cluster
SECONDS_BETWEEN_LINES = 30.0
SECONDS_UNTIL_COPIED = 60.0
SECONDS_AVOIDED = 60.0  # of a worker that could not read an image
SECONDS_AVOIDED_HANGING = 600.0
SECONDS_BETWEEN_TRIES = 10.0
MOST_TRIES = 3  # of workers to read an image that this machine can read
_GOES_ON = "the same command goes on from there"

Batch = tuple[list[LoadedImage], list[bytes]]


@dataclass
class _Task:
    """Images from `start` to `stop` that are under way."""

    start: int
    stop: int
    future: Any
    submitted: float
    is_copied: bool = False
    is_alone: bool = False


class Dispatch:
    """One run on a cluster: which images are where.

    Parameters
    ----------
    cluster : Cluster
        The network, and what the user is shown.
    client : distributed.Client
        Connected to the scheduler.
    job : Job
        What tasks have in common.
    files : sequence of str
        Path or URL of each image.
    digests : bytes
        The known digests, one after the other.
    """

    def __init__(
        self, cluster: Cluster, client: Any, job: Job, files: Sequence[str], digests: bytes
    ) -> None:
        self._cluster = cluster
        self._client = client
        self._job = job
        self._files = files
        self._digests = digests
        self._next = 0  # the first image that is not yielded
        self._ahead = 0  # the first image that is in no task
        self._again: list[tuple[int, int]] = []  # ranges to submit, a heap
        self._tasks: dict[str, _Task] = {}  # under way, by their keys
        self._ended: SimpleQueue[str] = SimpleQueue()
        self._done: dict[int, Batch] = {}  # results by the index of their first image
        self._held = 0  # bytes in them
        self._suspects: list[int] = []  # images to be computed while nothing else is
        self._tries: dict[int, int] = {}  # how often an image could not be read
        self._threads: dict[str, int] = {}  # of each worker
        self._avoided: dict[str, float] = {}  # workers, and until when
        self._is_direct = False  # whether results come from the workers, not by the scheduler
        self._rate = 0.0  # images per second of one thread
        self._looked = self._printed = -math.inf
        self._sent: list[str] = []  # names of files that were sent to the workers

    def results(self) -> Iterator[Batch]:
        """Yield the images in order."""
        self._wait()
        self._inspect()
        while self._next < len(self._files):
            self._look()
            self._fill()
            for task, outcome in self._collect():
                self._take(task, outcome)
            while self._next in self._done:
                images, chunks = self._done.pop(self._next)
                self._held -= sum(map(len, chunks))
                self._next += len(images)
                yield images, chunks

    def end(self) -> None:
        """Give up what is under way, and have the workers forget what was sent to them."""
        futures = [task.future for task in self._tasks.values()]
        try:
            if futures:
                self._client.cancel(futures, force=True)
            for name in self._sent:
                self._client.unregister_worker_plugin(name)
        except Exception:  # the scheduler is gone, and this is no more than tidiness
            logging.getLogger(__name__).debug("not tidied up", exc_info=True)

    # The cluster

    def _wait(self) -> None:
        """Wait until there is a worker."""
        self._look()
        while not self._threads:
            time.sleep(0.2)
            self._look()

    def _look(self) -> None:
        """Ask for the workers now and then, and what takes too long."""
        now = time.monotonic()
        if now - self._looked < SECONDS_BETWEEN_LOOKS and self._threads:
            return
        with self._reporting():
            self._threads = dict(self._client.nthreads())
        self._looked = now
        n_threads = sum(self._threads.values())
        self._cluster.n_workers = max(self._cluster.n_workers, n_threads)
        self._cluster.progress.workers = n_threads
        if n_threads:
            self._copy_overdue(now)
            return
        for task in self._tasks.values():
            task.submitted = now
        if now - self._printed >= SECONDS_BETWEEN_LINES:
            self._printed = now
            self._cluster.progress.print_line(
                f"{self._cluster.scheduler}: no workers; waiting for one (dask worker ADDRESS)"
            )

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Turn the loss of the scheduler into one line."""
        try:
            yield
        except (OSError, RuntimeError, TimeoutError) as error:
            raise self._lost(first_line(error)) from error

    def _lost(self, reason: str) -> ClusterError:
        return ClusterError(
            f"{self._cluster.scheduler}: the Dask scheduler is gone ({reason}); codes until now "
            f"are kept, and {_GOES_ON} once it is back"
        )

    def _inspect(self) -> None:
        """Compare the workers with this machine before anything is computed.

        Raises
        ------
        ClusterError
            One of them would compute other codes, or does not see the images.
        """
        paths = [path for path in self._files[:1000] if not is_url(path)]
        sample = [path for path in paths if is_file(Path(path))][:3]
        with self._reporting():
            answers = self._client.run(inspect, self._job, sample, on_error="return")
        self._cluster.check(answers)
        lacks = not all(answer.has_backbone for answer in answers.values())
        if lacks or self._digests:
            self._send()
        self._is_direct = all(map(self._cluster.reaches, answers))

    def _send(self) -> None:
        """Send the backbone and the known digests to the workers, now and when they join."""
        from distributed.diagnostics.plugin import UploadFile

        with tempfile.TemporaryDirectory() as folder:
            digests = Path(folder) / "digests"
            digests.write_bytes(self._digests)
            for path, sha256 in (
                (Path(self._job.backbone), self._job.sha256),
                (digests, self._job.known),
            ):
                name = sent_name(sha256)
                if sha256 and name not in self._sent:
                    plugin = UploadFile(str(path), load=False)
                    plugin.filename = name
                    with self._reporting():
                        self._client.register_plugin(plugin, name=name)
                    self._sent.append(name)

    # Tasks

    def _fill(self) -> None:
        """Submit tasks, a few for each thread."""
        if self._suspects or any(task.is_alone for task in self._tasks.values()):
            if not self._tasks:
                start = self._suspects.pop()
                self._submit(start, start + 1, is_alone=True)
            return
        room = TASKS_PER_THREAD * sum(self._threads.values()) - len(self._tasks)
        while room > 0:
            if self._again:
                start, stop = heapq.heappop(self._again)
            elif self._ahead < len(self._files) and self._held < MOST_HELD:
                start = self._ahead
                stop = self._ahead = min(len(self._files), start + self._n_images())
            else:
                return
            self._submit(start, stop)
            room -= 1

    def _n_images(self) -> int:
        """Return how many images the next task holds: at the end less, so that all end together."""
        n_left = len(self._files) - self._ahead
        n_threads = max(1, sum(self._threads.values()))
        batch_size = self._cluster.batch_size
        n = min(self._rate * TASK_SECONDS, n_left / (2 * n_threads), MOST_IMAGES)
        return batch_size * max(1, math.ceil(n / batch_size))

    def _submit(self, start: int, stop: int, *, avoid: str = "", is_alone: bool = False) -> None:
        now = time.monotonic()
        self._avoided = {each: until for each, until in self._avoided.items() if until > now}
        allowed = [each for each in self._threads if each not in {*self._avoided, avoid}]
        is_bound = bool(allowed) and len(allowed) < len(self._threads)
        future = self._client.submit(
            compute,
            self._job,
            self._files[start:stop],
            pure=False,
            workers=allowed if is_bound else None,
            allow_other_workers=False,
        )
        self._await(_Task(start, stop, future, now, is_copied=bool(avoid), is_alone=is_alone))

    def _await(self, task: _Task) -> None:
        self._tasks[task.future.key] = task
        task.future.add_done_callback(lambda ended: self._ended.put(ended.key))

    def _collect(self) -> list[tuple[_Task, Outcome]]:
        """Wait a little for tasks that end, and fetch the results of all that have."""
        from distributed.scheduler import KilledWorker

        keys = []
        try:
            keys.append(self._ended.get(timeout=0.5))
            while True:
                keys.append(self._ended.get_nowait())
        except Empty:
            pass
        finished = []
        for task in [self._tasks.pop(key) for key in keys if key in self._tasks]:
            if task.future.status == "finished":
                finished.append(task)
            elif task.future.status in ("pending", "lost"):  # with its worker, after it ended
                self._await(task)
            else:
                self._failed(task)
        try:
            with self._reporting():
                futures = [task.future for task in finished]
                outcomes = self._client.gather(futures, direct=self._is_direct)
        except KilledWorker:  # results were lost and computed again, which did not go well
            for task in finished:
                self._await(task)
            return []
        return list(zip(finished, outcomes, strict=True))

    def _failed(self, task: _Task) -> None:
        """Divide a task that ended workers; raise what a task raised."""
        from distributed.scheduler import KilledWorker

        if task.future.status != "error":
            raise self._lost("it gave up what was under way")
        error = task.future.exception()
        if not isinstance(error, KilledWorker):
            raise error
        middle = (task.start + task.stop) // 2
        if task.stop - task.start > 1:
            self._repeat(task, (task.start, middle), (middle, task.stop))
        elif not task.is_alone:  # it may have been another task of the same worker
            self._suspects.append(task.start)
        elif not self._is_settled(task):
            n = counted(error.allowed_failures + 1, "worker")
            reason = f"ended the {n} that computed it, as when memory is short"
            self._store(task.start, [LoadedImage(0, None, "", reason)], [])
            self._warn(f"{self._files[task.start]}: {reason}")

    def _repeat(self, task: _Task, *ranges: tuple[int, int]) -> None:
        """Submit images of a task again, unless a copy of it is under way or done."""
        if self._is_settled(task) or any(
            other.start == task.start for other in self._tasks.values()
        ):
            return
        for each in ranges:
            heapq.heappush(self._again, each)

    def _is_settled(self, task: _Task) -> bool:
        return task.start < self._next or task.start in self._done

    def _take(self, task: _Task, outcome: Outcome) -> None:
        """Keep the result of a task, the first if there is a copy."""
        if self._is_settled(task):
            return
        if outcome.lacks_files:
            self._send()
            self._avoid(outcome.worker, SECONDS_BETWEEN_LOOKS)
        elif outcome.fault:
            self._avoid(outcome.worker, math.inf)
            self._warn(f"{outcome.worker}: not used, since it has {outcome.fault}")
        else:
            images = self._confirmed(task, outcome)
            if images is not None:
                self._avoided.pop(outcome.worker, None)  # it does not hang
                for key in [key for key, other in self._tasks.items() if other.start == task.start]:
                    self._tasks.pop(key).future.cancel()
                self._store(task.start, images, outcome.chunks)
                if len(images) < task.stop - task.start:
                    heapq.heappush(self._again, (task.start + len(images), task.stop))
                rate = len(images) / max(outcome.seconds, 1e-3)
                self._rate = 0.7 * self._rate + 0.3 * rate if self._rate else rate
                return
        self._repeat(task, (task.start, task.stop))

    def _store(self, start: int, images: list[LoadedImage], chunks: list[bytes]) -> None:
        numbered = [replace(each, index=start + row) for row, each in enumerate(images)]
        self._done[start] = numbered, chunks
        self._held += sum(map(len, chunks))

    def _avoid(self, worker: str, seconds: float) -> None:
        self._avoided[worker] = time.monotonic() + seconds

    def _warn(self, line: str) -> None:
        self._cluster.notes.append(line)
        self._cluster.progress.print_line(f"note: {line}")

    # Images and workers that fail

    def _confirmed(self, task: _Task, outcome: Outcome) -> list[LoadedImage] | None:
        """Return the images of a result, or None if this machine reads one that the worker did not.

        A worker without the folder of the images would have them all skipped.

        Raises
        ------
        ClusterError
            Several workers could not read an image that this machine can, or nobody reads a URL.
        """
        images = list(outcome.images)
        size = self._cluster.network.info.input_size
        for row in outcome.unreadable:
            path, reason = self._files[task.start + row], images[row].problem
            own, lasts = load_location(row, path, size, self._job.max_pixels, white=self._job.white)
            if own.problem and lasts:
                images[row] = replace(own, pixels=None)
                continue
            tries = self._tries[task.start + row] = self._tries.get(task.start + row, 0) + 1
            if tries >= MOST_TRIES:
                raise ClusterError(
                    f"{path}: {reason} ({tries} tries, the last by {outcome.worker}); codes until "
                    f"now are kept, and {_GOES_ON} once workers can read it"
                )
            self._avoid(outcome.worker, SECONDS_AVOIDED)
            if own.problem:  # a server that may come back
                time.sleep(SECONDS_BETWEEN_TRIES * tries)
            return None
        return images

    def _copy_overdue(self, now: float) -> None:
        """Have tasks that take too long computed by another worker too.

        Raises
        ------
        ClusterError
            Two workers took too long.
        """
        overdue = {
            key: task
            for key, task in self._tasks.items()
            if now - task.submitted > SECONDS_UNTIL_COPIED * (3 if task.is_copied else 1)
            and not task.future.done()
        }
        if not overdue:
            return
        with self._reporting():
            processing = self._client.processing()
        worker_of = {key: worker for worker, keys in processing.items() for key in keys}
        for key, task in overdue.items():
            worker = worker_of.get(key)
            if worker is None:  # it waits for one that is gone
                self._tasks.pop(key).future.cancel()
                self._repeat(task, (task.start, task.stop))
            elif task.is_copied or now - task.submitted > 3 * SECONDS_UNTIL_COPIED:
                n_after = task.stop - task.start - 1
                among = f" or one of {counted(n_after, 'image')} after it" if n_after else ""
                raise ClusterError(
                    f"{worker}: does not come to an end with {self._files[task.start]}{among}, nor "
                    f"does another worker; codes until now are kept, and {_GOES_ON} when workers "
                    "that hang are started again, or that image is removed"
                )
            elif len(self._threads) > 1:
                task.is_copied, task.submitted = True, now
                self._avoid(worker, SECONDS_AVOIDED_HANGING)
                self._warn(
                    f"{worker}: no answer for {SECONDS_UNTIL_COPIED:.0f} s; "
                    f"{counted(task.stop - task.start, 'image')} computed elsewhere"
                )
                self._submit(task.start, task.stop, avoid=worker)
