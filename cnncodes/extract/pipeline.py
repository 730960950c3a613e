"""The extraction: workers turn image files into compressed codes, which are stored at once.

They are appended to a journal, which survives whatever ends the work, and become a codes file at
the end.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from cnncodes.bounds import MAX_ROW_BYTES
from cnncodes.errors import FileFormatError, ImageError, SourceError, SourceWarning
from cnncodes.extract.earlier import Earlier, is_codes_file, open_earlier, open_unchanged
from cnncodes.extract.journal import Journal
from cnncodes.extract.source_part import divide
from cnncodes.extract.store import CodeStore
from cnncodes.extract.unusable import notes_on_classes, warn_of_skipped
from cnncodes.extract.workers import Workers
from cnncodes.extract.writing import CodesInfo, Rows, encode_codes
from cnncodes.images.decoding import LoadedImage, notes_on_remarks
from cnncodes.images.limits import DEFAULT_MAX_PIXELS
from cnncodes.images.multilabel import label_numbers
from cnncodes.images.pixels import ASSUMED_WHITE
from cnncodes.images.sources import UNLABELLED, Source, find_images
from cnncodes.models.session import DEFAULT_PROVIDER, find_provider
from cnncodes.output import CODES, check_output
from cnncodes.parameters import (
    MAX_PIXELS,
    NETWORK_BATCH,
    THREADS,
    VIEWS,
    WHITE,
    as_path,
    check_choice,
    check_part,
)
from cnncodes.progress import NoProgress, Progress
from cnncodes.text import counted, shown

DTYPES = ("float16", "float32")


@dataclass(frozen=True)
class Extraction:
    """The result of an extraction.

    Attributes
    ----------
    path : Path
        The codes file.
    n_images : int
        Images with codes in the file.
    n_unlabelled : int
        Those of them without a label.
    n_resumed : int
        Images that an earlier, interrupted run processed, the skipped ones included.
    n_reused : int
        Images whose codes this run copied from the file that it updates.
    skipped : list of (str, str)
        Path and reason of each image that could not be used.
    source_notes : list of str
        What was left out, merged or assumed when the images were listed.
    notes : list of str
        What was assumed or mended of images, and which classes have no usable image.
    class_names : list of str
        The classes.
    code_shape : tuple of int
        Shape of one image's codes.
    workers : int
        Batches processed at a time.
    batch_size : int
        Images per batch.
    seconds : float
        Duration of this run.
    is_unchanged : bool
        Whether the codes file was there, with the codes of the same images, and was kept.
    augment : {"none", "hflip", "hvflip", "d4"}
        Which views of each image have codes.
    part : tuple of int, optional
        Which part of the source the images are, and of how many.
    has_several_labels : bool
        Whether an image may have several of the classes.
    """

    path: Path
    n_images: int
    n_unlabelled: int
    n_resumed: int
    n_reused: int
    skipped: list[tuple[str, str]]
    source_notes: list[str]
    notes: list[str]
    class_names: list[str]
    code_shape: tuple[int, ...]
    workers: int
    batch_size: int
    seconds: float
    is_unchanged: bool = False
    augment: str = "none"
    part: tuple[int, int] | None = None
    has_several_labels: bool = False

    @property
    def n_views(self) -> int:
        """Number of rows of each image."""
        return VIEWS[self.augment]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields; `augment`, `n_views` and `part` only where there are any."""
        values = asdict(self)
        if self.part is None:
            del values["part"]
        if self.n_views == 1:
            del values["augment"]
        else:
            values["n_views"] = self.n_views
        return values

    @property
    def images_per_second(self) -> float:
        """Rate of this run, without resumed and reused images, which were not computed in it."""
        n_done = self.n_images + len(self.skipped) - self.n_resumed - self.n_reused
        return n_done / max(self.seconds, 1e-9)


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
    white: int | None = None,
    group_by: str | None = None,
    augment: str = "none",
    part: tuple[int, int] | None = None,
    provider: str = DEFAULT_PROVIDER,
    update: bool = False,
    overwrite: bool = False,
    scheduler: str | None = None,
    on_source: Callable[[Source], None] | None = None,
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
        Images per run of the network; by default chosen by its precision.
    threads : int, optional
        Threads that compute; by default one per available CPU.
    dtype : {"float16", "float32"}
        How codes are stored.
    on_error : {"skip", "fail"}
        Whether an image that cannot be used is recorded and skipped, or ends the extraction.
    max_pixels : int
        An image with more pixels cannot be used.
    white : int, optional
        The value of white in 16-bit grey, which heads and apps made from the codes remember. By
        default it is guessed from each image, as described in `cnncodes.images.decoding`.
    group_by : {"folder"}, optional
        Which images of a folder belong together, as for `find_images`.
    augment : {"none", "hflip", "hvflip", "d4"}
        Which views of each image are stored as rows of it, in the order of `make_views`: the image
        itself, its mirror image too, the two upside down too, or all eight turned and mirrored
        ones.
    part : tuple of int, optional
        ``(3, 8)`` computes the third eighth of the images, in their order. `merge_codes` makes of
        the files of all parts the one that this function makes of the whole source.
    provider : str
        Execution provider of onnxruntime, such as ``cpu`` or ``openvino``.
    update : bool
        Whether a codes file at `output` is replaced by one of the current images, with codes copied
        from it where it has them. Images are identified by the SHA-256 of their files.
    overwrite : bool
        Whether a file at `output` may be replaced, and codes of another extraction that was
        interrupted be discarded. Without this and `update`, codes of the same
        images, settings and network are kept, and nothing is computed.
    scheduler : str, optional
        Address of a Dask scheduler, such as ``tcp://host:8786``, whose workers compute, or
        ``"local"`` to start `threads` of them here. Needs the extra ``cluster``.
    on_source : callable, optional
        Called with the `Source` before the first image is read.
    progress : Progress, optional
        Counts the images.

    Returns
    -------
    Extraction
        The result.

    Raises
    ------
    FileFormatError
        The backbone file is not one, or an image's codes would take more than `MAX_ROW_BYTES`.
    ParameterError
        A parameter is out of range, or the provider is missing or cannot start.
    SourceError
        The source cannot be used, or no image in it, or it has fewer images than parts.
    ImageError
        An image cannot be used, and `on_error` is ``"fail"``.
    OutputError
        The codes cannot be written, those to update are of another kind, or a file at `output`,
        or of its interrupted extraction, is not of these images, settings and network.
    ClusterError
        The Dask scheduler cannot be reached, or its workers would compute other codes.
    MissingDependencyError
        `scheduler` is given, and the extra ``cluster`` is not installed.
    KeyboardInterrupt
        With a message about what is kept.

    Warns
    -----
    SourceWarning
        Classes look like dates or like the parts of a split, or more than a fifth of the images
        cannot be used.

    Notes
    -----
    Codes are first written to ``OUTPUT.partial``. When the extraction ends early, in whatever way,
    that file stays and the same call resumes from it; a different call is refused, unless
    `overwrite` lets it discard them. The codes file is the same as that of an uninterrupted run.
    """
    progress = progress or NoProgress()
    backbone, source = as_path(backbone, "backbone"), as_path(source, "source")
    output = as_path(output, "output")
    batch_size = NETWORK_BATCH.check_or_none(batch_size, "batch_size")
    threads = THREADS.check_or_none(threads, "threads")
    max_pixels = MAX_PIXELS.check(max_pixels, "max_pixels")
    white = WHITE.check_or_none(white, "white")
    dtype = check_choice(dtype, DTYPES, "dtype")
    augment = check_choice(augment, tuple(VIEWS), "augment")
    part = None if part is None else check_part(part)
    on_error = check_choice(on_error, ("skip", "fail"), "on_error")
    is_compared = not (overwrite or update) and is_codes_file(output)
    replaceable = overwrite or update or is_compared
    check_output(output, overwrite=replaceable, inputs=[backbone, source], endings=CODES)
    find_provider(provider)  # before a long list of images is made
    everything = find_images(source, group_by=group_by)
    check_output(output, overwrite=replaceable, inputs=everything.files())
    source_part, images = divide(everything, source, part)
    if on_source is not None:
        on_source(replace(everything, notes=images.notes))
    for doubt in images.doubts:
        warnings.warn(doubt, SourceWarning, stacklevel=2)
    workers, files = _open_workers(
        images,
        len(everything.paths),  # batches are those of the whole source
        backbone,
        scheduler,
        progress,
        threads=threads,
        batch_size=batch_size,
        provider=provider,
    )
    _check_row(backbone, workers.network.code_shape, dtype)
    info = CodesInfo(
        backbone=workers.network.info,
        backbone_sha256=workers.network.sha256,
        code_shape=workers.network.code_shape,
        dtype=dtype,
        source=str(source),
        class_names=images.class_names,
        max_pixels=max_pixels,
        white=white,
        augment=augment,
        part=source_part,
    )
    started = time.monotonic()
    if is_compared:
        with open_unchanged(output, info, images, progress) as store:
            if on_error == "fail":
                _refuse(store.skipped)
            warn_of_skipped(store.skipped, len(images.paths), progress)
            return _unchanged(store, info, images, time.monotonic() - started)
    partial = output.with_name(output.name + ".partial")
    request = _identify(images, workers.network.provider)
    with (
        open_earlier(output, info, update=update) as earlier,
        Journal.open(partial, info, request, overwrite=overwrite) as journal,
    ):
        n_resumed = journal.n_seen
        try:
            if on_error == "fail":
                _refuse(journal.skipped)
            _compute(workers, files, images, earlier, journal, progress, skips=on_error == "skip")
            if journal.n_images == 0 and part is None:
                path, reason = journal.skipped[0]
                raise SourceError(
                    f"{source}: none of its {counted(len(images.paths), 'image')} can be used; "
                    f"the first, {path}: {reason}"
                )
        except KeyboardInterrupt:
            if not _is_kept(journal):
                raise
            n_files = counted(len(images.paths), "image")
            raise KeyboardInterrupt(
                f"{journal.path} keeps {journal.n_seen} of {n_files}; the same command goes on "
                "from there"
            ) from None
        finally:
            if not _is_kept(journal):
                journal.discard()
        earlier.close()  # where an open file cannot be replaced
        journal.finish(output, overwrite=overwrite or update)
    warn_of_skipped(journal.skipped, len(images.paths), progress)
    return Extraction(
        path=output,
        n_images=journal.n_images,
        n_unlabelled=journal.label_counts[UNLABELLED],
        n_resumed=n_resumed,
        n_reused=earlier.n_reused,
        skipped=journal.skipped,
        source_notes=list(images.notes),
        notes=[
            *_notes(images, journal),
            *_notes_on_gone(everything.paths, earlier),
            *_notes_on_columns(images, earlier),
            *workers.notes,
        ],
        class_names=list(info.class_names),
        code_shape=info.code_shape,
        workers=workers.n_workers,
        batch_size=workers.batch_size,
        seconds=time.monotonic() - started,
        augment=augment,
        part=part,
        has_several_labels=bool(images.flags),
    )


def _is_kept(journal: Journal) -> bool:
    """Whether a journal is worth keeping: a part of a source may have no usable image."""
    return journal.n_images > 0 or (journal.info.part is not None and journal.n_seen > 0)


def _open_workers(
    images: Source,
    n_images: int,
    backbone: Path,
    scheduler: str | None,
    progress: Progress,
    **options: Any,
) -> tuple[Any, Sequence[Any]]:
    """Return the workers of this machine or of a cluster, and the images as they take them."""
    if scheduler is None:
        return Workers.open(backbone, n_images, **options), images.files()
    from cnncodes.extract.cluster import Cluster  # Dask is an extra

    options |= {"scheduler": scheduler, "progress": progress}
    return Cluster.open(backbone, n_images, **options), images.locations()


def _unchanged(store: CodeStore, info: CodesInfo, images: Source, seconds: float) -> Extraction:
    """Return the result where all codes were there."""
    notes = []
    if store.skipped:
        skipped = counted(len(store.skipped), "skipped image")
        notes.append(f"{skipped} tried again and left out as before")
    return Extraction(
        path=store.path,
        n_images=store.n_images,
        n_unlabelled=(
            images.n_unlabelled
            if images.flags
            else int((store.labels[:: store.n_views] == UNLABELLED).sum())
        ),
        n_resumed=0,
        n_reused=store.n_images,
        skipped=store.skipped,
        source_notes=list(images.notes),
        notes=notes,
        class_names=store.class_names,
        code_shape=info.code_shape,
        workers=0,
        batch_size=0,
        seconds=seconds,
        is_unchanged=True,
        augment=store.augment,
        part=None if store.part is None else (store.part.number, store.part.count),
        has_several_labels=bool(images.flags),
    )


def _compute(
    workers: Any,
    files: Sequence[Any],
    images: Source,
    earlier: Earlier,
    journal: Journal,
    progress: Progress,
    *,
    skips: bool,
) -> None:
    """Compute the codes of the images that a journal has not, and append them batch by batch.

    Raises
    ------
    ImageError
        An image cannot be used, and `skips` is false.
    """
    info, first = journal.info, journal.n_seen
    progress.begin(len(images.paths), first)
    batches = workers.run(
        files[first:],
        functools.partial(encode_codes, dtype=info.dtype),
        max_pixels=info.max_pixels,
        white=info.white,
        known=earlier.rows,
        augment=info.augment,
    )
    with closing(batches):
        for batch, chunks in batches:
            rows = _rows(images, first, batch, chunks or [], earlier, info.n_views)
            if not skips:
                _refuse(rows.skipped)
            journal.append(rows)
            n_reused = sum(image.digest in earlier.rows and not image.problem for image in batch)
            progress.skip(n_reused)
            progress.advance(len(batch) - n_reused)


def _check_row(backbone: Path, code_shape: Sequence[int], dtype: str) -> None:
    """Refuse codes of which one image takes more memory than `CodeStore` reads."""
    n_bytes = math.prod(code_shape) * np.dtype(dtype).itemsize
    if n_bytes > MAX_ROW_BYTES:
        raise FileFormatError(
            f"{backbone}: the codes of an image take {n_bytes:,} bytes in {dtype}, and at most "
            f"{MAX_ROW_BYTES:,} can be stored; use a backbone exported with pool avg"
        )


def _identify(images: Source, provider: str) -> str:
    """Return a digest of the images, with their sizes and times, and of what computes them."""
    digest = hashlib.sha256()
    digest.update(provider.encode())
    groups = images.groups or [""] * len(images.paths)
    weighting = [values for values in (images.weights, images.probabilities) if values]
    numbers = list(zip(*weighting, strict=True)) or [()] * len(images.paths)
    for path, label, group, own, file in zip(
        images.paths, images.labels, groups, numbers, images.files(), strict=True
    ):
        try:
            status = file.stat()
            state = (status.st_size, status.st_mtime_ns)
        except (OSError, ValueError):
            state = (-1, -1)
        digest.update(json.dumps([path, label, group, *own, *state]).encode())
    digest.update("".join(images.flags).encode())
    return digest.hexdigest()


def _refuse(skipped: Sequence[tuple[str, str]]) -> None:
    for path, problem in skipped:
        raise ImageError(f"{path}: {problem}; mend or remove it, or skip it with on_error='skip'")


def _rows(
    images: Source,
    offset: int,
    batch: Sequence[LoadedImage],
    chunks: Sequence[bytes],
    earlier: Earlier,
    n_views: int,
) -> Rows:
    """Return the rows of a batch to store; `chunks` are the codes computed in it, of each view."""
    computed = iter(chunks)
    rows = Rows()
    for image in batch:
        index = offset + image.index
        path = images.paths[index]
        if image.problem:
            rows.skipped.append((path, image.problem))
            continue
        is_reused = image.digest in earlier.rows
        views = earlier.chunks(image.digest) if is_reused else islice(computed, n_views)
        rows.chunks.extend(views)
        rows.labels.append(images.labels[index])
        rows.paths.append(path)
        rows.digests.append(image.digest)
        rows.groups.extend(images.groups[index : index + 1])
        rows.weights.extend(images.weights[index : index + 1])
        rows.probabilities.extend(images.probabilities[index : index + 1])
        rows.flags.extend(images.flags[index : index + 1])
        rows.remarks.extend(image.remarks)
    return rows


def _notes_on_gone(paths: Sequence[str], earlier: Earlier) -> list[str]:
    """Report images that the file had and the source, of all `paths`, has not."""
    gone = {*earlier.paths} - {*paths}
    if not gone:
        return []
    return [
        f"{counted(len(gone), 'path')} of the earlier file {'is' if len(gone) == 1 else 'are'} no "
        f"longer in the source, such as {shown(min(gone))}: removed, renamed, or of another source"
    ]


def _notes_on_columns(images: Source, earlier: Earlier) -> list[str]:
    """Report that a file with groups, weights or probabilities is replaced by one without."""
    notes = []
    if earlier.n_groups and not images.groups:
        notes.append(
            f"{counted(earlier.n_groups, 'group')} of the file that was there not kept, and a "
            "split may now separate their images: cnncodes extract --group-by folder makes groups "
            "of folders"
        )
    lost = [name for name in earlier.weighting if not getattr(images, name)]
    if lost:
        notes.append(
            f"{' and '.join(lost)} of the file that was there not kept: the source has none"
        )
    return notes


def _notes(images: Source, journal: Journal) -> list[str]:
    """Return notes on what was discarded or assumed, and on classes without codes."""
    notes = [f"discarded {journal.discarded}"] if journal.discarded else []
    part = journal.info.part
    notes += [] if part is None else [part.text]
    notes += notes_on_remarks(journal.remarks)
    if sum(remark.startswith(ASSUMED_WHITE) for remark in journal.remarks) > 1:
        notes.append(
            "images of 16 bits are scaled by different whites: pass the white of their camera, "
            "such as 4095 for 12 bits, to scale all alike"
        )
    of_part = label_numbers(images.flags) if images.flags else images.labels
    labels = range(len(images.class_names)) if part is None else {*of_part}
    several = bool(images.flags)
    return notes + notes_on_classes(
        images.class_names, labels, journal.label_counts, several=several
    )
