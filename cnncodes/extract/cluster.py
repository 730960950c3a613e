"""An extraction on a Dask cluster: another source of codes for the journal, beside `workers`.

Tasks hold as many images as take `TASK_SECONDS`, fewer at the beginning and at the end. A few for
each thread of the cluster are under way, so that the memory of the scheduler and of this process
does not grow with the collection. Results are taken in any order and yielded in that of the images.
Dask computes the tasks of a worker that is gone elsewhere, and the rest is here:

- A task that takes longer than `SECONDS_UNTIL_COPIED` goes to another worker too.
- One that ended as many workers as Dask allows is divided, down to the one image that does it.
- An image that a worker cannot read, and this machine can, is read by another one.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import logging
import math
import tempfile
import time
from collections.abc import Callable, Container, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncodes.errors import ClusterError, MissingDependencyError, ParameterError
from cnncodes.extract.backbone import Backbone
from cnncodes.extract.remote import (
    Inspection,
    Job,
    Outcome,
    compute,
    environment,
    inspect,
    sent_name,
)
from cnncodes.extract.workers import default_batch_size
from cnncodes.files import is_file, is_url
from cnncodes.images.decoding import LoadedImage
from cnncodes.images.urls import load_location
from cnncodes.machine import available_threads, instruction_sets
from cnncodes.models.session import FULL_WEIGHTS
from cnncodes.parameters import NETWORK_BATCH, THREADS
from cnncodes.progress import Progress
from cnncodes.text import counted, first_line

LOCAL = "local"
TASK_SECONDS = 2.0
TASKS_PER_THREAD = 3
MOST_IMAGES = 2048  # in a task
MOST_HELD = 256 * 2**20  # bytes of results that wait for earlier ones
SECONDS_TO_CONNECT = 10.0
SECONDS_BETWEEN_LOOKS = 2.0  # at the cluster
SECONDS_BETWEEN_LINES = 30.0
SECONDS_UNTIL_COPIED = 60.0
SECONDS_AVOIDED = 60.0  # of a worker that could not read an image
SECONDS_AVOIDED_HANGING = 600.0
MOST_TRIES = 3  # of workers to read an image that this machine can read
_GOES_ON = "the same command goes on from there"

Batch = tuple[list[LoadedImage], list[bytes]]


class Cluster:
    """A backbone and a Dask cluster that runs it, in the place of `Workers`.

    Attributes
    ----------
    network : Backbone
        On this machine, for what it is.
    n_workers : int
        The most threads of workers that there were at a time.
    batch_size : int
        Images per run of the network.
    notes : list of str
        What the user should know of the workers.

    Parameters
    ----------
    network : Backbone
        The network.
    scheduler : str
        Address of a scheduler, or ``"local"``.
    batch_size : int
        Images per run of the network.
    n_local : int
        Workers that ``"local"`` starts.
    provider : str
        Execution provider of onnxruntime.
    progress : Progress
        Shows the number of workers.
    """

    def __init__(
        self,
        network: Backbone,
        scheduler: str,
        batch_size: int,
        n_local: int,
        provider: str,
        progress: Progress,
    ) -> None:
        self.network = network
        self.n_workers = 0
        self.batch_size = batch_size
        self.notes: list[str] = []
        self.scheduler = scheduler
        self.progress = progress
        self._n_local = n_local
        self._provider = provider

    @classmethod
    def open(
        cls,
        backbone: str | Path,
        n_images: int,
        *,
        scheduler: str,
        threads: int | None,
        batch_size: int | None,
        provider: str,
        progress: Progress,
    ) -> Cluster:
        """Open a backbone on this machine; the cluster is reached in `run`.

        Parameters
        ----------
        backbone, n_images, batch_size, provider
            As for `Workers.open`.
        scheduler : str
            Address of a scheduler, such as ``tcp://host:8786``; or ``"local"``.
        threads : int, optional
            Workers of ``"local"``, by default one per available CPU.
        progress : Progress
            Shows the number of workers.

        Raises
        ------
        MissingDependencyError
            The extra ``cluster`` is not installed.
        ParameterError
            A parameter is out of range; or `threads` is given for workers that are there already.
        FileFormatError
            The file is not a backbone.
        """
        try:
            import distributed  # noqa: F401
        except ImportError as error:
            raise MissingDependencyError(
                "a cluster needs Dask: pip install 'cnncodes[cluster]'"
            ) from error
        if not isinstance(scheduler, str) or not scheduler.strip():
            raise ParameterError(
                "scheduler must be an address, such as tcp://host:8786, or 'local'"
            )
        threads = THREADS.check_or_none(threads, "threads")
        if threads and scheduler != LOCAL:
            raise ParameterError(
                "threads: workers of a cluster have their own; leave it out, or pass "
                "scheduler='local'"
            )
        batch_size = NETWORK_BATCH.check_or_none(batch_size, "batch_size")
        network = Backbone(backbone, threads=1, provider=provider)
        n_local = max(1, min(threads or available_threads(), n_images))
        if batch_size is None:
            batch_size = default_batch_size(network.info.precision, n_images, n_local)
        return cls(network, scheduler, batch_size, n_local, provider, progress)

    def run(
        self,
        files: Sequence[str],
        finish: Callable[[NDArray[np.float32]], list[bytes]],
        *,
        max_pixels: int,
        white: int | None = None,
        known: Container[str] = (),
        augment: str = "none",
    ) -> Generator[Batch, None, None]:
        """Compute the codes of many images, as `Workers.run`.

        Parameters
        ----------
        files : sequence of str
            Paths that the workers see, or URLs.
        finish : callable
            As for `Workers.run`; a worker receives it as a pickle.
        max_pixels, white, augment
            As for `Workers.run`.
        known : collection of str
            As for `Workers.run`.

        Yields
        ------
        images : list of LoadedImage
            The next images, in order, without their pixels.
        chunks : list of bytes
            What `finish` made of those that were computed.

        Raises
        ------
        ClusterError
            No scheduler answers, it is gone, workers would compute other codes, or none of them
            reads what this machine can.
        """
        info = self.network.info
        int8_sums = json.loads(info.quantization or "{}").get("weight_limit") == FULL_WEIGHTS
        digests = b"".join(map(bytes.fromhex, sorted(known)))  # type: ignore[arg-type]
        job = Job(
            backbone=str(self.network.path.absolute()),
            sha256=self.network.sha256,
            provider=self._provider,
            batch_size=self.batch_size,
            finish=finish,
            max_pixels=max_pixels,
            white=white,
            augment=augment,
            known=hashlib.sha256(digests).hexdigest() if digests else "",
            int8_sums=int8_sums,
            environment=environment(int8_sums=int8_sums),
        )
        with _connected(self.scheduler, self._n_local) as client:
            dispatch = _Dispatch(self, client, job, files, digests)
            try:
                yield from dispatch.results()
            finally:
                dispatch.end()


@contextmanager
def _connected(scheduler: str, n_local: int) -> Iterator[Any]:
    """Connect to a scheduler, or start one with workers on this machine and end them.

    Raises
    ------
    ClusterError
        It cannot be reached.
    """
    from distributed import Client, LocalCluster

    # What goes wrong is reported here; Dask would log it too, with tracebacks.
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    cluster = None
    try:
        try:
            if scheduler == LOCAL:
                cluster = LocalCluster(
                    n_workers=n_local,
                    threads_per_worker=1,
                    host="127.0.0.1",
                    dashboard_address=None,
                    silence_logs=logging.CRITICAL + 1,
                )
            client = Client(cluster or scheduler, timeout=SECONDS_TO_CONNECT, set_as_default=False)
        except (OSError, ValueError, TypeError, ImportError) as error:
            raise ClusterError(
                f"{scheduler}: no Dask scheduler can be reached there ({first_line(error)}); start "
                "one with dask scheduler, or pass scheduler='local'"
            ) from error
        try:
            yield client
        finally:
            client.close(timeout=5)
    finally:
        if cluster is not None:
            cluster.close(timeout=5)
        logger.setLevel(level)


@dataclass
class _Task:
    """Images from `start` to `stop` that are under way."""

    start: int
    stop: int
    future: Any
    submitted: float
    is_copied: bool = False


class _Dispatch:
    """One run on a cluster: which images are where."""

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
        self._tries: dict[int, int] = {}  # how often an image could not be read
        self._threads: dict[str, int] = {}  # of each worker
        self._avoided: dict[str, float] = {}  # workers, and until when
        self._rate = 0.0  # images per second of one thread
        self._looked = self._printed = -math.inf
        self._sent: list[str] = []  # names of files that were sent to the workers

    def results(self) -> Iterator[Batch]:
        """Yield the images in order."""
        if not self._files:
            return
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
        processors = set()
        lacks = False
        for address, answer in answers.items():
            if not isinstance(answer, Inspection):
                raise ClusterError(
                    f"{address}: this worker does not run cnncodes ({first_line(answer)}); install "
                    "the same release there"
                )
            if answer.fault:
                raise ClusterError(
                    f"{address}: this worker has {answer.fault}, so codes would differ; install "
                    "the same versions on all machines, and quantize for the oldest processor"
                )
            if answer.unseen:
                raise ClusterError(
                    f"{address}: this worker does not see {answer.unseen}; mount the images under "
                    "the same path there, or list them by URLs in a CSV file"
                )
            processors.add(answer.processor)
            lacks = lacks or not answer.has_backbone
        others = sorted(processors - {instruction_sets()})
        if others:
            note = (
                f"workers have other processors ({'; '.join(others)}) than this machine "
                f"({instruction_sets()}), which may round codes differently"
            )
            self._cluster.notes.append(note)
            self._cluster.progress.print_line(f"note: {note}")
        if lacks or self._digests:
            self._send()

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

    def _submit(self, start: int, stop: int, *, avoid: str = "") -> None:
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
        self._tasks[future.key] = _Task(start, stop, future, now, is_copied=bool(avoid))
        future.add_done_callback(lambda ended: self._ended.put(ended.key))

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
        tasks = [self._tasks.pop(key) for key in keys if key in self._tasks]
        finished = [task for task in tasks if task.future.status == "finished"]
        for task in tasks:
            if task.future.status != "finished":
                self._failed(task)
        try:
            with self._reporting():
                outcomes = self._client.gather([task.future for task in finished])
        except KilledWorker:  # the results of a worker that is gone were computed again
            for task in finished:
                self._tasks[task.future.key] = task
                self._ended.put(task.future.key)
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
                    f"{path}: {reason} by {counted(tries, 'worker')}, the last {outcome.worker}; "
                    f"codes until now are kept, and {_GOES_ON} once they can"
                )
            self._avoid(outcome.worker, SECONDS_AVOIDED)
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
                raise ClusterError(
                    f"{worker}: does not come to an end with {self._files[task.start]} or one of "
                    f"the {task.stop - task.start - 1} images after it, nor does another worker; "
                    f"codes until now are kept, and {_GOES_ON} when workers that hang are "
                    "started again, or that image is removed"
                )
            elif len(self._threads) > 1:
                task.is_copied, task.submitted = True, now
                self._avoid(worker, SECONDS_AVOIDED_HANGING)
                self._warn(
                    f"{worker}: no answer for {SECONDS_UNTIL_COPIED:.0f} s; "
                    f"{counted(task.stop - task.start, 'image')} computed elsewhere"
                )
                self._submit(task.start, task.stop, avoid=worker)
