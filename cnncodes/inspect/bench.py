"""Speed and memory of a backbone or an app on this machine.

Each file is measured in its own process, so that the peak memory of one does not count for the
next. The images are random noise: the time of a network does not depend on its input.

Many images can be computed in two ways: one batch at a time by all threads, or several at a time
by one thread each. Which is faster depends on network and machine, so both are measured, in
several short rounds, of which the median counts.
"""

from __future__ import annotations

import multiprocessing
import re
import signal
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

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
MIN_ROUNDS, MAX_ROUNDS = 2, 5
MIN_LATENCIES = 20  # for a 95th percentile
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
    """

    batch_size: int
    callers: int
    threads: int
    images_per_second: float


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
    peak_bytes: int | None
    throughputs: list[Throughput]


@dataclass(frozen=True)
class _Request:
    """What a process measures."""

    path: Path
    batch_sizes: tuple[int, ...]
    threads: int
    provider: str
    seconds: float

    @property
    def ways(self) -> list[tuple[int, int]]:
        """The pairs of callers and threads."""
        return [(1, self.threads), (self.threads, 1)] if self.threads > 1 else [(1, 1)]


def benchmark(
    files: Sequence[str | Path],
    *,
    batch_sizes: Sequence[int] = DEFAULT_BATCH_SIZES,
    threads: int | None = None,
    provider: str = DEFAULT_PROVIDER,
    seconds: float = DEFAULT_SECONDS,
    progress: Progress | None = None,
) -> list[Benchmark]:
    """Measure backbones and apps, one after the other.

    Parameters
    ----------
    files : sequence of str or Path
        Backbones and apps.
    batch_sizes : sequence of int
        Images per batch; each size is measured once, in increasing order.
    threads : int, optional
        Threads that compute; by default one per available processor.
    provider : str
        Execution provider of onnxruntime, such as ``cpu`` or ``openvino``.
    seconds : float
        How long to measure each batch size in each way, and the latency; longer where the
        least number of runs takes longer.
    progress : Progress, optional
        Counts the measurements.

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
    ``if __name__ == "__main__":``, as `multiprocessing` requires.
    """
    progress = progress or NoProgress()
    paths = list(as_paths(files, "files"))
    threads = THREADS.check_or_none(threads, "threads") or available_threads()
    seconds = SECONDS.check(seconds, "seconds")
    sizes = NETWORK_BATCH.check_each(batch_sizes, "batch_sizes")
    if not paths:
        raise ParameterError("there is no file to measure; name one or more")
    requests = [_Request(path, sizes, threads, provider, seconds) for path in paths]
    for request in requests:  # a bad file is refused before the first is measured
        _open(request, threads)
    progress.begin(len(paths) * (1 + len(requests[0].ways)))
    benchmarks = []
    for request in requests:
        with closing(_in_own_process(request)) as messages:
            for message in messages:
                if isinstance(message, Benchmark):
                    benchmarks.append(message)
                else:
                    progress.advance(1)
    return benchmarks


def _in_own_process(request: _Request) -> Generator[Benchmark | None, None, None]:
    """Yield None after each measurement, then the result."""
    context = multiprocessing.get_context("spawn")  # a fork would start with this one's memory
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_measurements, args=(sender, request), daemon=True)
    try:
        process.start()
        sender.close()
        message: Benchmark | CnncodesError | None = None
        while not isinstance(message, Benchmark):
            message = receiver.recv()
            if isinstance(message, CnncodesError):
                raise message
            yield message
    except EOFError:
        raise ParameterError(
            f"{request.path}: measuring it ended early, most likely for lack of memory; pass "
            "smaller batch_sizes"
        ) from None
    finally:
        if process.pid is not None:
            process.terminate()
            process.join()
        receiver.close()


def _send_measurements(sender: Connection, request: _Request) -> None:
    """Measure, in the new process, and send each of the messages of `_in_own_process`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it, and ends this process
    try:
        with runtime_errors(
            lambda reason: ParameterError(
                f"{request.path}: cannot be run ({reason}); pass other batch_sizes"
            )
        ):
            for message in _measure(request):
                sender.send(message)
    except CnncodesError as error:
        sender.send(error)


def _measure(request: _Request) -> Iterator[Benchmark | None]:
    import onnxruntime  # noqa: F401 - importing it is no part of opening a file

    throughputs: list[Throughput] = []
    for callers, threads in request.ways:
        started = time.perf_counter()
        session, kind, info = _open(request, threads)
        opened = time.perf_counter() - started
        if not throughputs:
            load_seconds = opened
            latencies = _latencies(session, info.input_size, request.seconds)
            provider = session.get_providers()[0]
            yield None
        rates = _medians(session, info.input_size, callers, request)
        yield None
        throughputs += [
            Throughput(batch_size, callers, threads, rate)
            for batch_size, rate in zip(request.batch_sizes, rates, strict=True)
        ]
        del session
    yield Benchmark(
        path=str(request.path),
        kind=kind,
        backbone=info.backbone,
        weights=info.weights,
        precision=info.precision,
        input_size=info.input_size,
        provider=provider,
        file_bytes=request.path.stat().st_size,
        load_seconds=load_seconds,
        latency_p50=float(np.percentile(latencies, 50)),
        latency_p95=float(np.percentile(latencies, 95)),
        best=max(throughputs, key=lambda each: each.images_per_second),
        peak_bytes=peak_bytes(),
        throughputs=throughputs,
    )


def _open(request: _Request, threads: int) -> tuple[InferenceSession, str, BackboneInfo]:
    """Open a file; return its session, its kind and its network."""
    path = request.path
    session, metadata = open_session(path, *KINDS, threads=threads, provider=request.provider)
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


def _latencies(session: InferenceSession, size: int, seconds: float) -> list[float]:
    """Time single images, after a first run, which allocates memory."""
    image = {"images": noise_images(1, size)}
    session.run(None, image)
    latencies: list[float] = []
    end = time.perf_counter() + seconds
    while len(latencies) < MIN_LATENCIES or time.perf_counter() < end:
        started = time.perf_counter()
        session.run(None, image)
        latencies.append(time.perf_counter() - started)
    return latencies


def _medians(session: InferenceSession, size: int, callers: int, request: _Request) -> list[float]:
    """Return the images per second of each batch size, the median over the rounds.

    Each round has all batch sizes, so that other load on the machine affects them alike. A slow
    network has fewer rounds.
    """
    batches = [{"images": noise_images(number, size)} for number in request.batch_sizes]
    end = time.perf_counter() + request.seconds * len(batches)
    _images_per_second(session, batches[-1], callers, 0)  # allocates memory for every size
    rounds: list[list[float]] = []
    while len(rounds) < MIN_ROUNDS or (len(rounds) < MAX_ROUNDS and time.perf_counter() < end):
        rounds.append(
            [
                _images_per_second(session, batch, callers, request.seconds / MAX_ROUNDS)
                for batch in batches
            ]
        )
    medians: list[float] = np.median(rounds, axis=0).tolist()
    return medians


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
