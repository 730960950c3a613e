"""The extraction: workers take images from file to compressed codes, one thread writes them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from cnncodes.errors import ImageError, SourceError
from cnncodes.extract.backbone import Backbone
from cnncodes.extract.images import DEFAULT_MAX_PIXELS, LoadedImage
from cnncodes.extract.sources import Source, find_images
from cnncodes.extract.store import CodeStore
from cnncodes.extract.workers import Workers
from cnncodes.model_file import DEFAULT_PROVIDER
from cnncodes.output import check_output
from cnncodes.progress import Progress

WRITTEN_TOGETHER = 32  # images; HDF5 is slow at adding few


@dataclass(frozen=True)
class Extraction:
    """What an extraction did.

    Attributes
    ----------
    path : Path
        The codes file.
    n_images : int
        Images with codes in the file.
    n_unlabelled : int
        Those of them without a label.
    n_resumed : int
        Images that an earlier, interrupted run had dealt with.
    skipped : list of (str, str)
        Path and reason of each image that could not be used.
    class_names : list of str
        The classes.
    code_shape : tuple of int
        Shape of one image's codes.
    workers : int
        Batches that were worked on at a time.
    batch_size : int
        Images in each.
    seconds : float
        Duration of this run.
    """

    path: Path
    n_images: int
    n_unlabelled: int
    n_resumed: int
    skipped: list[tuple[str, str]]
    class_names: list[str]
    code_shape: tuple[int, ...]
    workers: int
    batch_size: int
    seconds: float


def extract(
    backbone: str | Path,
    source: str | Path,
    output: str | Path,
    *,
    batch_size: int | None = None,
    threads: int | None = None,
    dtype: str = "float16",
    on_error: str = "skip",
    max_pixels: int = DEFAULT_MAX_PIXELS,
    provider: str = DEFAULT_PROVIDER,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Extraction:
    """Compute the codes of a collection of images and store them.

    Parameters
    ----------
    backbone : str or Path
        A backbone file.
    source : str or Path
        A folder of class folders, a flat folder, or a CSV file with the columns path and label.
    output : str or Path
        The codes file to write.
    batch_size : int, optional
        Images the network sees at a time; by default what suits its precision.
    threads : int, optional
        Threads that compute; by default all the processors there are.
    dtype : {"float16", "float32"}
        How codes are stored.
    on_error : {"skip", "fail"}
        Whether an image that cannot be used is noted and passed over, or ends the extraction.
    max_pixels : int
        An image with more pixels cannot be used.
    provider : str
        Execution provider of onnxruntime, such as ``cpu`` or ``openvino``.
    overwrite : bool
        Whether a file at `output` may be replaced.
    progress : Progress, optional
        Told how far the work is.

    Returns
    -------
    Extraction
        What was done.

    Raises
    ------
    FileFormatError
        The backbone file is not one.
    ParameterError
        The provider is not there or cannot start.
    SourceError
        The source cannot be used, or no image in it.
    ImageError
        An image cannot be used, and `on_error` is ``"fail"``.
    OutputError
        The codes cannot be written.
    KeyboardInterrupt
        With a message that tells what is kept.

    Notes
    -----
    The codes gather in ``OUTPUT.partial``. When the extraction ends early that file stays, and
    the same call goes on from it; a call that differs starts anew.
    """
    output = Path(output)
    check_output(output, overwrite=overwrite, inputs=[backbone, source])
    images = find_images(Path(source))
    workers = Workers.hire(
        backbone, len(images.paths), threads=threads, batch_size=batch_size, provider=provider
    )
    started = time.monotonic()
    with _open_store(output, workers.network, images, str(source), dtype, max_pixels) as store:
        n_resumed = store.n_seen
        try:
            if on_error == "fail":
                _refuse(store.skipped)
            if progress is not None:
                progress.begin(len(images.paths), n_resumed)
            batches = workers.run(images.files()[n_resumed:], store.encode, max_pixels=max_pixels)
            with closing(batches), _Writer(store) as writer:
                for batch, chunks in batches:
                    rows = _rows(images, n_resumed, batch, chunks or [])
                    if on_error == "fail":
                        _refuse(rows.skipped)
                    writer.add(rows)
                    if progress is not None:
                        progress.advance(len(batch))
            if len(store) == 0:
                path, reason = store.skipped[0]
                raise SourceError(
                    f"{source}: none of its {len(images.paths)} images can be used; the first, "
                    f"{path}: {reason}"
                )
        except KeyboardInterrupt:
            if len(store) == 0:
                raise
            raise KeyboardInterrupt(
                f"{store.path} keeps {store.n_seen} of {len(images.paths)} images; the same "
                "command goes on from there"
            ) from None
        finally:
            if len(store) == 0:
                store.discard()
        return _finish(store, output, n_resumed, workers, started)


def _finish(
    store: CodeStore, output: Path, n_resumed: int, workers: Workers, started: float
) -> Extraction:
    extraction = Extraction(
        path=output,
        n_images=len(store),
        n_unlabelled=int((store.labels < 0).sum()),
        n_resumed=n_resumed,
        skipped=store.skipped,
        class_names=store.class_names,
        code_shape=tuple(store.codes.shape[1:]),
        workers=workers.number,
        batch_size=workers.batch_size,
        seconds=time.monotonic() - started,
    )
    store.finish(output)
    return extraction


def _open_store(
    output: Path, network: Backbone, images: Source, source: str, dtype: str, max_pixels: int
) -> CodeStore:
    """Go on with the unfinished file of the same extraction, or start one."""
    partial = output.with_name(output.name + ".partial")
    request = _identify(network, images, dtype, max_pixels)
    store = CodeStore.resume(partial, request)
    if store is not None:
        return store
    partial.unlink(missing_ok=True)
    return CodeStore.create(
        partial,
        backbone=network.info,
        backbone_sha256=network.sha256,
        code_shape=network.code_shape,
        dtype=dtype,
        source=source,
        class_names=images.class_names,
        request=request,
    )


def _identify(network: Backbone, images: Source, dtype: str, max_pixels: int) -> str:
    """Digest all that decides what goes into the file, sizes and times of the images included."""
    digest = hashlib.sha256()
    model = [network.sha256, network.provider]
    digest.update(json.dumps([*model, dtype, max_pixels, images.class_names]).encode())
    for path, label, file in zip(images.paths, images.labels, images.files(), strict=True):
        try:
            status = file.stat()
            state = (status.st_size, status.st_mtime_ns)
        except (OSError, ValueError):
            state = (-1, -1)
        digest.update(json.dumps([path, label, *state]).encode())
    return digest.hexdigest()


def _refuse(skipped: Sequence[tuple[str, str]]) -> None:
    for path, problem in skipped:
        raise ImageError(f"{path}: {problem}; mend or remove it, or pass --on-error skip")


@dataclass(frozen=True)
class _Rows:
    """What `CodeStore.append` takes."""

    codes: list[bytes] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


def _rows(images: Source, offset: int, batch: Sequence[LoadedImage], chunks: list[bytes]) -> _Rows:
    places = [offset + image.index for image in batch if image.pixels is not None]
    return _Rows(
        codes=chunks,
        labels=[images.labels[place] for place in places],
        paths=[images.paths[place] for place in places],
        digests=[image.digest for image in batch if image.pixels is not None],
        skipped=[
            (images.paths[offset + image.index], image.problem)
            for image in batch
            if image.pixels is None
        ],
    )


class _Writer:
    """Adds rows to a file, many at a time, in a thread that no interrupt reaches."""

    def __init__(self, store: CodeStore) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._waiting = _Rows()

    def add(self, rows: _Rows) -> None:
        """Add rows; a full disk is told here."""
        for name, values in vars(rows).items():
            getattr(self._waiting, name).extend(values)
        if len(self._waiting.codes) + len(self._waiting.skipped) >= WRITTEN_TOGETHER:
            self._write()

    def _write(self) -> None:
        waiting, self._waiting = self._waiting, _Rows()
        self._thread.submit(self._store.append, **vars(waiting)).result()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._thread:
            self._write()
