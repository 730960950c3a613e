"""What a worker of a Dask cluster does: codes of a list of images, with the backbone it keeps.

Workers import this module, so that tasks hold little more than the images' names.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncodes._version import __version__
from cnncodes.extract.backbone import Backbone
from cnncodes.extract.workers import extract_views
from cnncodes.files import is_file, readable_sha256
from cnncodes.images.decoding import LoadedImage
from cnncodes.images.urls import UNREADABLE, load_location
from cnncodes.machine import instruction_sets
from cnncodes.models.session import kernels_saturate

# A task that reaches it returns what it has, and the rest goes out again: images may be much
# slower here than those by which the number in a task was chosen.
SECONDS_AT_MOST = 10.0
_NAMES = ("onnxruntime", "Pillow", "pillow_heif")  # of the packages on which codes depend
_DIGEST_BYTES = 32
_opening = Lock()
_networks: dict[str, Backbone] = {}
_known: dict[str, Container[str]] = {"": ()}


@dataclass(frozen=True)
class Job:
    """What tasks of one extraction have in common.

    Attributes
    ----------
    backbone : str
        Absolute path of the backbone on the client, and perhaps on the worker.
    sha256 : str
        SHA-256 of the backbone's file.
    provider : str
        Execution provider of onnxruntime.
    batch_size : int
        Images per run of the network.
    finish : callable
        Compresses codes, as for `Workers.run`.
    max_pixels, white, augment
        As for `extract`.
    known : str
        SHA-256 of the file of known digests that was sent to the workers; empty without one.
    int8_sums : bool
        Whether codes depend on how the processor adds products of 8 bits.
    environment : dict of str to str
        That of the client, by `environment`.
    """

    backbone: str
    sha256: str
    provider: str
    batch_size: int
    finish: Callable[[NDArray[np.float32]], list[bytes]]
    max_pixels: int
    white: int | None
    augment: str
    known: str
    int8_sums: bool
    environment: dict[str, str]


@dataclass(frozen=True)
class Outcome:
    """The result of a task.

    Attributes
    ----------
    worker : str
        Address of the worker.
    images : list of LoadedImage
        The first images of the task, all or fewer, without their pixels.
    chunks : list of bytes
        The compressed codes of each view of those that were computed.
    seconds : float
        Time that they took.
    unreadable : list of int
        Which of them this worker could not read.
    fault : str
        Why this worker computes nothing; empty if it does.
    lacks_files : bool
        Whether it computed nothing because it has no backbone or no known digests.
    """

    worker: str
    images: list[LoadedImage] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    seconds: float = 0.0
    unreadable: list[int] = field(default_factory=list)
    fault: str = ""
    lacks_files: bool = False


@dataclass(frozen=True)
class Inspection:
    """What a worker answers before anything is computed.

    Attributes
    ----------
    fault : str
        Why its codes would differ from those of the client; empty if they would not.
    processor : str
        Its architecture and instruction sets.
    has_backbone : bool
        Whether it reads the backbone from the same path.
    unseen : str
        An image that is not there at its path; empty if all of the sample are.
    """

    fault: str
    processor: str
    has_backbone: bool
    unseen: str


def environment(*, int8_sums: bool) -> dict[str, str]:
    """Return the versions, and with `int8_sums` the arithmetic, by which codes may differ."""
    values = {"cnncodes": __version__}
    for name in _NAMES:
        try:
            values[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            values[name] = "none"
    if int8_sums:
        values["int8 sums"] = "that saturate" if kernels_saturate() else "of 32 bits"
    return values


def inspect(job: Job, sample: Sequence[str]) -> Inspection:
    """Compare this worker with the client; `sample` holds paths that exist there."""
    return Inspection(
        fault=_fault(job),
        processor=instruction_sets(),
        has_backbone=readable_sha256(Path(job.backbone)) == job.sha256,
        unseen=next((path for path in sample if not is_file(Path(path))), ""),
    )


def compute(job: Job, locations: Sequence[str]) -> Outcome:
    """Compute the codes of images, in order, for `SECONDS_AT_MOST`; runs in a worker.

    Parameters
    ----------
    job : Job
        What to compute.
    locations : sequence of str
        Path or URL of each image.

    Returns
    -------
    Outcome
        The codes.
    """
    from distributed import get_worker

    worker = get_worker()
    if fault := _fault(job):
        return Outcome(worker.address, fault=fault)
    folder = Path(worker.local_directory)
    network, known = _network(job, folder), _digests(job.known, folder)
    if network is None or known is None:
        return Outcome(worker.address, lacks_files=True)
    return replace(compute_batches(job, network, known, locations), worker=worker.address)


def compute_batches(
    job: Job, network: Backbone, known: Container[str], locations: Sequence[str]
) -> Outcome:
    """Compute the codes of images with a network, as `compute`."""
    started = time.monotonic()
    images: list[LoadedImage] = []
    chunks: list[bytes] = []
    size = network.info.input_size
    while len(images) < len(locations) and time.monotonic() - started < SECONDS_AT_MOST:
        batch = []
        for index in range(len(images), min(len(images) + job.batch_size, len(locations))):
            batch.append(
                load_location(
                    index, locations[index], size, job.max_pixels, known, white=job.white
                )[0]
            )
        pixels = [image.pixels for image in batch if image.pixels is not None]
        if pixels:
            chunks += job.finish(extract_views(network, np.stack(pixels), job.augment))
        images += [replace(image, pixels=None) for image in batch]
    unreadable = [image.index for image in images if image.problem.startswith(UNREADABLE)]
    return Outcome("", images, chunks, time.monotonic() - started, unreadable)


def _fault(job: Job) -> str:
    own = environment(int8_sums=job.int8_sums)
    return ", ".join(
        f"{name} {own.get(name, 'none')} instead of {value}"
        for name, value in job.environment.items()
        if own.get(name) != value
    )


def _network(job: Job, folder: Path) -> Backbone | None:
    """Return the backbone, opened once in this process; None where its file is absent."""
    key = f"{job.sha256} {job.provider}"
    with _opening:
        if key not in _networks:
            for path in (Path(job.backbone), folder / sent_name(job.sha256)):
                if readable_sha256(path) == job.sha256:
                    _networks.clear()  # one at a time: two may not fit into the memory
                    _networks[key] = Backbone(path, threads=1, provider=job.provider)
                    break
        return _networks.get(key)


def sent_name(sha256: str) -> str:
    """Return the name under which workers store a file that was sent to them."""
    return f"cnncodes-{sha256}"


def _digests(sha256: str, folder: Path) -> Container[str] | None:
    """Return the known digests, read once in this process; None where their file is absent."""
    with _opening:
        if sha256 not in _known:
            path = folder / sent_name(sha256)
            if readable_sha256(path) != sha256:
                return None
            for other in _known.keys() - {""}:
                del _known[other]
            _known[sha256] = Digests(path.read_bytes())
        return _known[sha256]


class Digests:
    """SHA-256 of files, in half the memory of their hexadecimal form.

    Parameters
    ----------
    content : bytes
        The digests, one after the other.
    """

    def __init__(self, content: bytes) -> None:
        starts = range(0, len(content), _DIGEST_BYTES)
        self._digests = {content[at : at + _DIGEST_BYTES] for at in starts}

    def __contains__(self, digest: Any) -> bool:
        """Whether a digest, hexadecimal, is one of them."""
        return bytes.fromhex(digest) in self._digests
