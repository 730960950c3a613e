"""An extraction on a Dask cluster: another source of codes for the journal, beside `workers`."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import socket
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncodes.errors import ClusterError, MissingDependencyError, ParameterError
from cnncodes.extract.backbone import Backbone
from cnncodes.extract.dispatch import Batch, Dispatch
from cnncodes.extract.remote import Inspection, Job, environment
from cnncodes.extract.workers import default_batch_size
from cnncodes.machine import available_threads, instruction_sets
from cnncodes.models.session import FULL_WEIGHTS
from cnncodes.parameters import NETWORK_BATCH, THREADS
from cnncodes.progress import Progress
from cnncodes.text import first_line

LOCAL = "local"
SECONDS_TO_CONNECT = 8.0
SECONDS_TO_REACH = 1.0
# A terminal's Ctrl-C goes to the workers too, which this process ends.
_IGNORING_INTERRUPTS = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
_ADDRESS = re.compile(r"local|((tcp|tls|ucx|wss?)://)?[^\s/]+:\d+|inproc://\S+")


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
        if not isinstance(scheduler, str) or not _ADDRESS.fullmatch(scheduler):
            raise ParameterError(
                "scheduler must be an address, such as tcp://host:8786, or 'local', not "
                f"{scheduler!r:.60}"
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
        known: Collection[str] = (),
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
        if not files:
            return
        info = self.network.info
        int8_sums = json.loads(info.quantization or "{}").get("weight_limit") == FULL_WEIGHTS
        digests = b"".join(map(bytes.fromhex, sorted(known)))
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
            dispatch = Dispatch(self, client, job, files, digests)
            try:
                yield from dispatch.results()
            finally:
                dispatch.end()

    def check(self, answers: Mapping[str, Any]) -> None:
        """Compare workers with this machine.

        Parameters
        ----------
        answers : mapping of str to Inspection
            What each worker answered; an exception where it failed.

        Raises
        ------
        ClusterError
            One of them would compute other codes, or does not see the images.
        """
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
        own = instruction_sets()
        others = sorted({answer.processor for answer in answers.values()} - {own})
        if others:
            note = (
                f"workers have other processors ({'; '.join(others)}) than this machine ({own}), "
                "which may round codes differently"
            )
            self.notes.append(note)
            self.progress.print_line(f"note: {note}")

    def reaches(self, worker: str) -> bool:
        """Return whether this machine can connect to a worker, as firewalls may not let it."""
        host, _, port = worker.rpartition("://")[2].rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_REACH).close()
        except (OSError, ValueError):
            return False
        return True


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
    # Dask sets that of its workers, such as OPENBLAS_NUM_THREADS=1, in this process too.
    variables = dict(os.environ)
    cluster = None
    try:
        try:
            if scheduler == LOCAL:
                cluster = LocalCluster(
                    n_workers=n_local,
                    threads_per_worker=1,
                    host="127.0.0.1",
                    dashboard_address=":0",  # any free port: another cluster may have the usual one
                    silence_logs=logging.CRITICAL + 1,
                    preload=[_IGNORING_INTERRUPTS],
                )
            client = Client(cluster or scheduler, timeout=SECONDS_TO_CONNECT, set_as_default=False)
        except (OSError, RuntimeError, ValueError, TypeError, ImportError) as error:
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
            os.environ.update(variables)
            for name in os.environ.keys() - variables.keys():
                del os.environ[name]
        logger.setLevel(level)
