"""How fast a backbone or an app is on this machine, and how much memory it takes.

Each file is measured in a process of its own, so that one does not inflate the memory of the
next. The images are random noise: what a network computes does not depend on what is on them.

Many images can be computed in two ways: one after the other, each by all threads, or several at
a time, each by one thread. Which is faster depends on network and machine, so both are measured,
in several short rounds; the median of the rounds counts.
"""

from __future__ import annotations

import multiprocessing
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
from cnncodes.models.session import DEFAULT_PROVIDER, open_session
from cnncodes.parameters import NETWORK_BATCH, SECONDS, THREADS, as_paths
from cnncodes.progress import Progress

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

KINDS = ("backbone", "app")
DEFAULT_BATCH_SIZES = (1, 2, 4, 8)
DEFAULT_SECONDS = 1.0
MIN_ROUNDS, MAX_ROUNDS = 2, 5
MIN_LATENCIES = 20  # fewer would make no 95th percentile


@dataclass(frozen=True)
class Throughput:
    """Images a second, computed in one way in batches of one size.

    Attributes
    ----------
    batch_size : int
        Images given to the network at a time.
    callers : int
        Batches computed at a time.
    threads : int
        Threads that compute each of them.
    images_per_second : float
        Median of the rounds.
    """

    batch_size: int
    callers: int
    threads: int
    images_per_second: float


@dataclass(frozen=True)
class Benchmark:
    """What was measured of one file.

    Attributes
    ----------
    path : str
        The file, as it was named.
    kind : {"backbone", "app"}
        What it is.
    backbone, weights, precision : str
        As the file says.
    input_size : int
        Height and width of the images, in pixels.
    provider : str
        Full name of the execution provider.
    file_bytes : int
        Size of the file.
    load_seconds : float
        Time to open it; it was read before, so the disk does not count.
    latency_p50, latency_p95 : float
        Seconds for one image computed by all threads: median and 95th percentile.
    best : Throughput
        The fastest of `throughputs`.
    peak_bytes : int or None
        Most memory the process ever had, Python and all batch sizes included; None where the
        system does not tell.
    throughputs : list of Throughput
        Each batch size, in either way.
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
    """What a process is to measure."""

    path: str | Path
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
        Images given to the network at a time; each is measured once, in increasing order.
    threads : int, optional
        Threads that compute; by default all the processors there are.
    provider : str
        Execution provider of onnxruntime, such as ``cpu`` or ``openvino``.
    seconds : float
        How long to measure each batch size in each way, and the latency; longer where the
        fewest runs that make a median take longer.
    progress : Progress, optional
        Told how far the work is.

    Returns
    -------
    list of Benchmark
        One for each file.

    Raises
    ------
    FileFormatError
        A file is neither a backbone nor an app.
    ParameterError
        A parameter is out of range, the provider is not there or cannot start, or memory does
        not suffice.

    Notes
    -----
    It starts new Python processes, so a script must call it below
    ``if __name__ == "__main__":``, as `multiprocessing` asks.
    """
    files = list(as_paths(files, "files"))
    threads = THREADS.check_or_none(threads, "threads") or available_threads()
    seconds = SECONDS.check(seconds, "seconds")
    sizes = NETWORK_BATCH.check_each(batch_sizes, "batch_sizes")
    if not files:
        raise ParameterError("there is no file to measure; name one or more")
    requests = [_Request(path, sizes, threads, provider, seconds) for path in files]
    for request in requests:  # all are looked at before the first is measured
        _open(request, threads)
    if progress is not None:
        progress.begin(len(files) * (1 + len(requests[0].ways)))
    found = []
    for request in requests:
        with closing(_in_own_process(request)) as messages:
            for message in messages:
                if isinstance(message, Benchmark):
                    found.append(message)
                elif progress is not None:
                    progress.advance(1)
    return found


def _in_own_process(request: _Request) -> Generator[Benchmark | None, None, None]:
    """Give None as often as something was measured, then the result."""
    context = multiprocessing.get_context("spawn")  # a fork would start with our memory
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
            "smaller --batch-sizes"
        ) from None
    finally:
        if process.pid is not None:
            process.terminate()
            process.join()
        receiver.close()


def _send_measurements(sender: Connection, request: _Request) -> None:
    """Measure, in the process made for it; tell of each step, and of the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that waits is interrupted
    try:
        for message in _measure(request):
            sender.send(message)
    except CnncodesError as error:
        sender.send(error)
    except Exception as error:  # onnxruntime has no common base class for its errors
        reason = str(error).strip().partition("\n")[0]
        sender.send(
            ParameterError(f"{request.path}: cannot be run ({reason}); pass other --batch-sizes")
        )


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
        file_bytes=Path(request.path).stat().st_size,
        load_seconds=load_seconds,
        latency_p50=float(np.percentile(latencies, 50)),
        latency_p95=float(np.percentile(latencies, 95)),
        best=max(throughputs, key=lambda each: each.images_per_second),
        peak_bytes=_peak_bytes(),
        throughputs=throughputs,
    )


def _open(request: _Request, threads: int) -> tuple[InferenceSession, str, BackboneInfo]:
    """Open a file, and say what it is and which network is in it."""
    path = Path(request.path)
    session, metadata = open_session(path, *KINDS, threads=threads, provider=request.provider)
    kind = metadata[PREFIX + "kind"]
    info = (
        HeadInfo.from_metadata(metadata, path).backbone
        if kind == "app"
        else BackboneInfo.from_metadata(metadata, path)
    )
    given = [(each.name, each.type, each.shape[1:]) for each in session.get_inputs()]
    if given != [("images", "tensor(uint8)", [info.input_size, info.input_size, 3])]:
        raise FileFormatError(f"{path}: its input is not that of our files; make it again")
    return session, kind, info


def _noise(n_images: int, size: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (n_images, size, size, 3), dtype=np.uint8)


def _latencies(session: InferenceSession, size: int, seconds: float) -> list[float]:
    """Time one image again and again; the first run, which sets things up, does not count."""
    image = {"images": _noise(1, size)}
    session.run(None, image)
    found: list[float] = []
    end = time.perf_counter() + seconds
    while len(found) < MIN_LATENCIES or time.perf_counter() < end:
        started = time.perf_counter()
        session.run(None, image)
        found.append(time.perf_counter() - started)
    return found


def _medians(session: InferenceSession, size: int, callers: int, request: _Request) -> list[float]:
    """Give the images a second of each batch size, median of rounds that have all of them.

    So what else the machine does strikes all batch sizes alike. A slow network has fewer rounds.
    """
    batches = [{"images": _noise(number, size)} for number in request.batch_sizes]
    end = time.perf_counter() + request.seconds * len(batches)
    _images_per_second(session, batches[-1], callers, 0)  # the memory of the largest will do
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
    """Let callers compute a batch again and again, at the same time, each at least once."""
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


def _peak_bytes() -> int | None:
    """Return the most memory this process ever had resident."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux; getrusage would count the process that started this one
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None
