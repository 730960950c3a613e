"""The extraction: decode threads → batches → session → file, all at work at once.

While onnxruntime computes one batch, threads decode the next ones and one more thread
compresses and writes the one before. What waits between the stages is bounded, so memory does
not grow with the collection.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnncodes.errors import ImageError, SourceError
from cnncodes.extract.backbone import Backbone
from cnncodes.extract.images import DEFAULT_MAX_PIXELS, LoadedImage, in_batches, load_images
from cnncodes.extract.sources import Source, find_images
from cnncodes.extract.store import CodeStore
from cnncodes.model_file import DEFAULT_PROVIDER, available_threads
from cnncodes.output import check_output
from cnncodes.progress import Progress

# On a CPU a larger batch takes more memory and gives no more images a second.
DEFAULT_BATCH_SIZE = 8


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
    seconds: float


def extract(
    backbone: str | Path,
    source: str | Path,
    output: str | Path,
    *,
    batch_size: int = DEFAULT_BATCH_SIZE,
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
    batch_size : int
        Images the network sees at a time.
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
    threads = threads or available_threads()
    network = Backbone(backbone, threads=threads, provider=provider)
    images = find_images(Path(source))
    started = time.monotonic()
    with _open_store(output, network, images, str(source), dtype, max_pixels) as store:
        n_resumed = store.n_seen
        try:
            if on_error == "fail":
                _refuse(store.skipped)
            if progress is not None:
                progress.begin(len(images.paths), n_resumed)
            loaded = load_images(
                images.files()[n_resumed:],
                network.info.input_size,
                threads=threads,
                ahead=2 * batch_size,
                max_pixels=max_pixels,
            )
            with closing(loaded), ThreadPoolExecutor(1, thread_name_prefix="write") as writer:
                writing: Future[None] | None = None
                for batch in in_batches(loaded, batch_size):
                    rows = _compute(network, images, n_resumed, batch)
                    if on_error == "fail":
                        _refuse(rows["skipped"])
                    if writing is not None:
                        writing.result()  # one batch waits at most, and a full disk is told now
                    writing = writer.submit(store.append, **rows)
                    if progress is not None:
                        progress.advance(len(batch))
                if writing is not None:
                    writing.result()
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
        return _finish(store, output, n_resumed, started)


def _finish(store: CodeStore, output: Path, n_resumed: int, started: float) -> Extraction:
    extraction = Extraction(
        path=output,
        n_images=len(store),
        n_unlabelled=int((store.labels < 0).sum()),
        n_resumed=n_resumed,
        skipped=store.skipped,
        class_names=store.class_names,
        code_shape=tuple(store.codes.shape[1:]),
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


def _compute(
    network: Backbone, images: Source, offset: int, batch: Sequence[LoadedImage]
) -> dict[str, Any]:
    """Compute the codes of a batch; return what `CodeStore.append` takes."""
    usable = [image for image in batch if image.pixels is not None]
    pixels = [image.pixels for image in batch if image.pixels is not None]
    if pixels:
        codes = network.extract(np.stack(pixels))
    else:
        codes = np.empty((0, *network.code_shape), np.float32)
    return {
        "codes": codes,
        "labels": [images.labels[offset + image.index] for image in usable],
        "paths": [images.paths[offset + image.index] for image in usable],
        "digests": [image.digest for image in usable],
        "skipped": [
            (images.paths[offset + image.index], image.problem)
            for image in batch
            if image.pixels is None
        ],
    }
