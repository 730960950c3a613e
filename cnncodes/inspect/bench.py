"""Speed and memory of backbones and apps on this machine.

Each file is measured in its own process, so that the peak memory of one does not count for the
next. The images are random noise: the time of a network does not depend on its input.

Many images can be computed in two ways: one batch at a time by all threads, or several at a time
by one thread each. Which is faster depends on network and machine, so both are measured, in
several short rounds. In every round the files take turns, so that other load on the machine
affects them alike. The median of the rounds counts; the slowest and the fastest show the spread.
"""

from __future__ import annotations

import multiprocessing
import re
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cnncodes.errors import CnncodesError, FileFormatError, ParameterError
from cnncodes.machine import available_threads
from cnncodes.models.metadata import PREFIX, BackboneInfo, HeadInfo
from cnncodes.models.session import DEFAULT_PROVIDER, noise_images, open_session, runtime_errors
from cnncodes.parameters import NETWORK_BATCH, SECONDS, THREADS, as_paths
from cnncodes.progress import NoProgress, Progress

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

KINDS = ("backbone", "app")
DEFAULT_BATCH_SIZES = (1, 2, 4, 8)
DEFAULT_SECONDS = 1.0
MIN_ROUNDS, MAX_ROUNDS = 3, 9
MIN_LATENCIES = 7  # per round, so that there are 20 and more for a 95th percentile
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Throughput:
    """Images per second, for one batch size and one number of concurrent batches.

    Attributes
    ----------
    batch_size : int
        Images per batch.
    callers : int
        Batches computed at the same time.
    threads : int
        Threads per batch.
    images_per_second : float
        Median of the rounds.
    slowest, fastest : float
        Images per second of the slowest and of the fastest round.
    rounds : int
        Number of rounds.
    """

    batch_size: int
    callers: int
    threads: int
    images_per_second: float
    slowest: float
    fastest: float
    rounds: int


@dataclass(frozen=True)
class Benchmark:
    """The measurements of one file.

    Attributes
    ----------
    path : str
        The file, as it was named.
    kind : {"backbone", "app"}
        The kind of file.
    backbone, weights, precision : str
        From the metadata of the file.
    input_size : int
        Height and width of the images, in pixels.
    provider : str
        Full name of the execution provider.
    file_bytes : int
        Size of the file.
    load_seconds : float
        Time to open it, with its content in the disk cache.
    latency_p50, latency_p95 : float
        Seconds for one image with all threads: median and 95th percentile.
    best : Throughput
        The fastest of `throughputs`.
    ratio : float
        Images per second of `best` divided by those of the first file.
    peak_bytes : int or None
        Peak resident memory of the process, Python and all batch sizes included; None where the
        system does not report it.
    throughputs : list of Throughput
        Each batch size, in both ways.
    """

    path: str
    kind: str
    backbone: str
    weights: str
    precision: str
    input_size: int
    provider: str
    file_bytes: int
    load_seconds: float
    latency_p50: float
    latency_p95: float
    best: Throughput
    ratio: float
    peak_bytes: int | None
    throughputs: list[Throughput]


def benchmark(
    files: Sequence[str | Path],
    *,
    batch_sizes: Sequence[int] = DEFAULT_BATCH_SIZES,
    threads: int | None = None,
    provider: str = DEFAULT_PROVIDER,
    seconds: float = DEFAULT_SECONDS,
    progress: Progress | None = None,
) -> list[Benchmark]:
    """Measure backbones and apps in turn, in several rounds.

    Parameters
    ----------
    files : sequence of str or Path
        Backbones and apps.
    batch_sizes : sequence of int
        Images per batch; each size is measured once, in increasing order.
    threads : int, optional
        Threads that compute; by default one per available CPU.
    provider : str
        Execution provider of onnxruntime, such as ``cpu`` or ``openvino``.
    seconds : float
        Time to measure each batch size of each file in each way, and the latency; longer where
        the least number of rounds takes longer.
    progress : Progress, optional
        Counts the rounds of all files.

    Returns
    -------
    list of Benchmark
        One for each file.

    Raises
    ------
    FileFormatError
        A file is neither a backbone nor an app.
    ParameterError
        A parameter is out of range, the provider is missing or cannot start, or memory does not
        suffice.

    Notes
    -----
    New Python processes are started, so a script must call this below
    ``if __name__ == "__main__":``, as `multiprocessing` requires. There is one for each file, and
    all hold their networks in memory at the same time.
    """
    progress = progress or NoProgress()
    paths = list(as_paths(files, "files"))
    threads = THREADS.check_or_none(threads, "threads") or available_threads()
    seconds = SECONDS.check(seconds, "seconds")
    sizes = NETWORK_BATCH.check_each(batch_sizes, "batch_sizes")
    if not paths:
        raise ParameterError("there is no file to measure; name one or more")
    for path in paths:  # a bad file is refused before the first is measured
        _open(path, threads, provider)
    ways = [(1, threads), (threads, 1)] if threads > 1 else [(1, 1)]
    progress.begin(len(ways) * MAX_ROUNDS * len(paths))
    with ExitStack() as stack:
        processes = []
        for path in paths:
            processes.append(_Process(path, sizes, provider))
            stack.callback(processes[-1].close)  # first, since an interrupt may end the start
            processes[-1].start()
        for callers, threads_each in ways:
            _measure_in_turn(processes, callers, threads_each, seconds, progress)
        first = processes[0].best.images_per_second
        return [process.result(first) for process in processes]


def _measure_in_turn(
    processes: Sequence[_Process], callers: int, threads: int, seconds: float, progress: Progress
) -> None:
    """Measure all files in one way, round after round; slow networks have fewer rounds."""
    for process in processes:
        process.open(callers, threads)
    n_sizes = sum(len(process.sizes) for process in processes)
    end = time.perf_counter() + seconds * n_sizes
    for number in range(MAX_ROUNDS):
        if number >= MIN_ROUNDS and time.perf_counter() >= end:
            progress.skip((MAX_ROUNDS - number) * len(processes))
            return
        for process in processes:
            process.measure_round(seconds / MAX_ROUNDS)
            progress.advance(1)


class _Process:
    """A process that measures one file, and what it has measured.

    Attributes
    ----------
    sizes : tuple of int
        The batch sizes.
    """

    def __init__(self, path: Path, sizes: tuple[int, ...], provider: str) -> None:
        self.sizes = sizes
        self._path = path
        context = multiprocessing.get_context("spawn")  # a fork would start with our memory
        self._connection, self._other_end = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(self._other_end, path, sizes, provider), daemon=True
        )
        self._way = (1, 1)
        self._rates: dict[tuple[int, int], list[list[float]]] = {}
        self._latencies: list[float] = []
        self._load_seconds: list[float] = []

    def start(self) -> None:
        self._process.start()
        self._other_end.close()

    def close(self) -> None:
        """End the process."""
        if self._process.pid is not None:
            self._process.terminate()
            self._process.join()
        self._connection.close()

    def _ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the `_Measurer` in the process."""
        try:
            self._connection.send((method, arguments))
            reply = self._connection.recv()
        except (EOFError, ConnectionError):
            raise ParameterError(
                f"{self._path}: measuring it ended early, most likely for lack of memory; pass "
                "smaller batch_sizes"
            ) from None
        if isinstance(reply, CnncodesError):
            raise reply
        return reply

    def open(self, callers: int, threads: int) -> None:
        """Open the file with this number of threads, for this number of callers."""
        self._way = callers, threads
        self._rates[self._way] = []
        self._load_seconds.append(self._ask("open", callers, threads))

    def measure_round(self, seconds: float) -> None:
        """Measure every batch size for so long, and the latency if there is one caller."""
        if self._way[0] == 1:
            self._latencies += self._ask("latencies", seconds)
        self._rates[self._way].append(self._ask("rates", seconds))

    @property
    def throughputs(self) -> list[Throughput]:
        """The rates of each batch size in each way, over the rounds."""
        return [
            Throughput(
                batch_size=size,
                callers=callers,
                threads=threads,
                images_per_second=float(np.median(rates)),
                slowest=min(rates),
                fastest=max(rates),
                rounds=len(rates),
            )
            for (callers, threads), rounds in self._rates.items()
            for size, rates in zip(self.sizes, zip(*rounds, strict=True), strict=True)
        ]

    @property
    def best(self) -> Throughput:
        """The fastest of `throughputs`."""
        return max(self.throughputs, key=lambda each: each.images_per_second)

    def result(self, first: float) -> Benchmark:
        """Return all measurements; `first` is the rate of the file to compare with."""
        kind, provider, info, peak = self._ask("describe")
        return Benchmark(
            path=str(self._path),
            kind=kind,
            backbone=info.backbone,
            weights=info.weights,
            precision=info.precision,
            input_size=info.input_size,
            provider=provider,
            file_bytes=self._path.stat().st_size,
            load_seconds=self._load_seconds[0],
            latency_p50=float(np.percentile(self._latencies, 50)),
            latency_p95=float(np.percentile(self._latencies, 95)),
            best=self.best,
            ratio=self.best.images_per_second / first,
            peak_bytes=peak,
            throughputs=self.throughputs,
        )


def _serve(connection: Connection, path: Path, sizes: tuple[int, ...], provider: str) -> None:
    """Answer the calls of `_Process`, in the new process, until it is terminated."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it, and ends this process
    import onnxruntime  # noqa: F401 - importing it is no part of opening a file

    measurer = _Measurer(path, sizes, provider)
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:  # the parent was killed
            return
        try:
            with runtime_errors(
                lambda reason: ParameterError(
                    f"{path}: cannot be run ({reason}); pass other batch_sizes"
                )
            ):
                reply = getattr(measurer, method)(*arguments)
        except CnncodesError as error:
            reply = error
        connection.send(reply)


class _Measurer:
    """One file in one session; its methods are called by name, from the parent process."""

    def __init__(self, path: Path, sizes: tuple[int, ...], provider: str) -> None:
        self._path = path
        self._sizes = sizes
        self._provider = provider
        self._session: InferenceSession | None = None
        self._batches: list[dict[str, NDArray[np.uint8]]] = []

    def open(self, callers: int, threads: int) -> float:
        """Open the file, and run it so that memory is allocated; return the seconds to open it."""
        self._session = None  # one session at a time counts as memory
        started = time.perf_counter()
        self._session, self._kind, self._info = _open(self._path, threads, self._provider)
        seconds = time.perf_counter() - started
        self._callers = callers
        size = self._info.input_size
        self._image = {"images": noise_images(1, size)}
        self._session.run(None, self._image)
        self._batches = [{"images": noise_images(number, size)} for number in self._sizes]
        _images_per_second(self._session, self._batches[-1], callers, 0)
        return seconds

    def latencies(self, seconds: float) -> list[float]:
        """Time single images."""
        assert self._session is not None
        latencies: list[float] = []
        end = time.perf_counter() + seconds
        while len(latencies) < MIN_LATENCIES or time.perf_counter() < end:
            started = time.perf_counter()
            self._session.run(None, self._image)
            latencies.append(time.perf_counter() - started)
        return latencies

    def rates(self, seconds: float) -> list[float]:
        """Return the images per second of each batch size."""
        assert self._session is not None
        return [
            _images_per_second(self._session, batch, self._callers, seconds)
            for batch in self._batches
        ]

    def describe(self) -> tuple[str, str, BackboneInfo, int | None]:
        """Return the kind of file, the provider in use, the network and the peak memory."""
        assert self._session is not None
        return self._kind, self._session.get_providers()[0], self._info, peak_bytes()


def _open(path: Path, threads: int, provider: str) -> tuple[InferenceSession, str, BackboneInfo]:
    """Open a file; return its session, its kind and its network."""
    session, metadata = open_session(path, *KINDS, threads=threads, provider=provider)
    kind = metadata[PREFIX + "kind"]
    info = (
        HeadInfo.from_metadata(metadata, path).backbone
        if kind == "app"
        else BackboneInfo.from_metadata(metadata, path)
    )
    inputs = [(each.name, each.type, each.shape[1:]) for each in session.get_inputs()]
    if inputs != [("images", "tensor(uint8)", [info.input_size, info.input_size, 3])]:
        raise FileFormatError(f"{path}: its input is not that of our files; make it again")
    return session, kind, info


def _images_per_second(
    session: InferenceSession, batch: dict[str, NDArray[np.uint8]], callers: int, seconds: float
) -> float:
    """Compute a batch repeatedly in concurrent callers, each at least once."""
    with ThreadPoolExecutor(callers) as pool:
        started = time.perf_counter()
        runs = [pool.submit(_run_until, session, batch, started + seconds) for _ in range(callers)]
        n_images = sum(run.result() for run in runs)
        return n_images / (time.perf_counter() - started)


def _run_until(session: InferenceSession, batch: dict[str, NDArray[np.uint8]], end: float) -> int:
    n_images = 0
    while not n_images or time.perf_counter() < end:
        session.run(None, batch)
        n_images += len(batch["images"])
    return n_images


def peak_bytes(status: Path = _STATUS) -> int | None:
    """Return the peak resident memory of this process; None where the system does not report it.

    On Linux it is read from `status`, since getrusage counts the parent process too. Sandboxes
    such as gVisor leave the line out.
    """
    if status.exists():
        line = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE)
        return int(line[1]) * 1024 if line else None
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None
