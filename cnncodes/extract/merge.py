"""One codes file of several: the parts of one source, or collections of one network.

Chunks are copied as they are stored. `merging` decides which images are kept, with what label.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Thread

from cnncodes.bounds import MAX_PATH_LENGTH, fault_of_text
from cnncodes.errors import ParameterError, SourceError
from cnncodes.extract.chunks import ChunkReader
from cnncodes.extract.merging import (
    COLUMNS,
    Comparison,
    Input,
    check_alike,
    in_order,
    united_classes,
)
from cnncodes.extract.unusable import notes_on_classes, warn_of_skipped
from cnncodes.extract.writing import SOURCES, CodesInfo, Rows, joint_source, write_codes
from cnncodes.images.multilabel import label_numbers
from cnncodes.images.sources import UNLABELLED
from cnncodes.output import CODES, check_output, replacing
from cnncodes.parameters import VIEWS, as_path, one_or_more_paths
from cnncodes.progress import NoProgress, Progress
from cnncodes.text import counted, listed

# Of codes that are read before they are written: their size decompressed, and their number.
BLOCK_BYTES, BLOCK_IMAGES = 4 << 20, 1024
SECONDS_BETWEEN_SYNCS = 0.1


@dataclass(frozen=True)
class Merge:
    """A codes file made of others.

    Attributes
    ----------
    path : Path
        The file.
    files : list of Path
        What it was made of, in the order of its images.
    n_images : int
        Images in it.
    n_skipped : int
        Images that could not be used when the codes were computed.
    class_names : list of str
        The classes.
    code_shape : tuple of int
        Shape of one image's codes.
    augment : {"none", "hflip", "d4"}
        Which views of each image have codes.
    source : str
        The sources of the images.
    notes : list of str
        What was left out, united or changed.
    has_several_labels : bool
        Whether an image may have several of the classes.
    """

    path: Path
    files: list[Path]
    n_images: int
    n_skipped: int
    class_names: list[str]
    code_shape: tuple[int, ...]
    augment: str
    source: str
    notes: list[str]
    has_several_labels: bool = False

    @property
    def n_views(self) -> int:
        """Number of rows of each image."""
        return VIEWS[self.augment]


def merge_codes(
    paths: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    rename: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Merge:
    """Join codes files of one network into one, without computing anything again.

    All parts of a source (`extract` with `part`) become the file of the whole source, byte for
    byte. Other files are joined in the order of their paths, by the rules of docs/scale.md.

    Parameters
    ----------
    paths : sequence of str or Path
        The codes files, in any order.
    output : str or Path
        The codes file to write.
    rename : bool
        Whether the name of its codes file is put in front of each image's path, so that
        collections may use the same paths for different images.
    overwrite : bool
        Whether a file at `output` may be replaced.
    progress : Progress, optional
        Counts the files, then the images.

    Returns
    -------
    Merge
        The result.

    Raises
    ------
    FileFormatError
        A file is no codes file or damaged, or two are of different networks or settings.
    ParameterError
        A part is missing, a file or a part is there twice, or `rename` does not fit the files.
    SourceError
        Two files contradict each other about an image, or there is none in all.
    OutputError
        The output cannot be written, or is one of the inputs.

    Warns
    -----
    SourceWarning
        More than a fifth of all images could not be used.
    """
    progress = progress or NoProgress()
    paths, output = one_or_more_paths(paths, "paths"), as_path(output, "output")
    check_output(output, overwrite=overwrite, inputs=paths, endings=CODES)
    progress.begin(len(paths), unit="files looked at")
    files = in_order([_counted(Input.read(path), progress) for path in paths])
    check_alike(files)
    is_divided = files[0].info.part is not None
    comparison = Comparison(files)
    if is_divided and rename:
        raise ParameterError("rename=True is not for parts of one source; leave it out")
    if rename:
        _check_prefixes(files)
    if not is_divided:
        comparison.compare(progress, rename=rename)
    info, notes = _united_info(files)
    skipped = comparison.skipped(rename=rename)
    n_images = sum(file.n_images for file in files) - sum(map(len, comparison.dropped))
    if n_images == 0:
        first = f"; the first, {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise SourceError(f"{files[0].path}: no image in all files has codes{first}")
    label_counts: Counter[int] = Counter()

    def batches() -> Iterator[Rows]:
        progress.begin(n_images, unit="images")
        for number in range(len(files)):
            for rows in _rows_of(number, comparison, info, rename=rename):
                label_counts.update(label_numbers(rows.flags) if rows.flags else rows.labels)
                progress.advance(len(rows.paths))
                yield rows
        yield Rows(skipped=skipped)

    made_with = dict.fromkeys(file.made_with for file in files)
    with replacing(output, overwrite=overwrite) as temporary, _written_meanwhile(temporary):
        write_codes(temporary, info, batches(), n_images, made_with="; ".join(made_with))
    warn_of_skipped(skipped, n_images + len(skipped), progress)
    several = "flags" in files[0].columns
    if info.class_names and not several and (n_without := label_counts[UNLABELLED]):
        notes.append(f"{counted(n_without, 'image')} without a label")
    if is_divided:
        every = range(len(info.class_names))
        notes += notes_on_classes(info.class_names, every, label_counts, several=several)
    return Merge(
        path=output,
        files=[file.path for file in files],
        n_images=n_images,
        n_skipped=len(skipped),
        class_names=list(info.class_names),
        code_shape=info.code_shape,
        augment=info.augment,
        source=info.source,
        notes=[*comparison.notes(), *notes],
        has_several_labels=several,
    )


@contextmanager
def _written_meanwhile(path: Path) -> Iterator[None]:
    """Have the system write a file to the disk while it grows, so that the end need not wait."""
    if not hasattr(os, "fdatasync"):  # it is of POSIX
        yield
        return
    ended = Event()

    def write() -> None:
        with path.open("rb") as file, suppress(OSError):  # which the writer reports
            while not ended.wait(SECONDS_BETWEEN_SYNCS):
                os.fdatasync(file.fileno())

    thread = Thread(target=write, name="sync", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _counted(file: Input, progress: Progress) -> Input:
    progress.advance(1)
    return file


def _united_info(files: Sequence[Input]) -> tuple[CodesInfo, list[str]]:
    """Return what is common to all images, and notes on what differed."""
    infos, notes = [file.info for file in files], []
    names, note_on_names = united_classes(files)
    notes += note_on_names
    sources = list(dict.fromkeys(each for info in infos for each in info.source.split(SOURCES)))
    is_divided = infos[0].part is not None
    if is_divided:
        source = infos[0].source
        if len({info.source for info in infos}) > 1:
            notes.append("the source was named in different ways; recorded is that of part 1")
    else:
        source = joint_source(sources)
    most = max(info.max_pixels for info in infos)
    if any(info.max_pixels != most for info in infos):
        notes.append(f"max_pixels differs between the files; recorded is the largest, {most}")
    if len({file.made_with for file in files}) > 1:
        notes.append("the files were made with different versions; all are recorded")
    without = [file.path for file in files if "groups" not in file.columns and file.n_images]
    if len(without) < sum(file.n_images > 0 for file in files) and without:
        notes.append(
            f"{counted(len(without), 'file')} without groups, so these images are in none: "
            f"{listed([str(path) for path in without])}"
        )
    info = replace(infos[0], class_names=names, source=source, max_pixels=most, part=None)
    return info, notes


def _rows_of(
    number: int, comparison: Comparison, info: CodesInfo, *, rename: bool
) -> Iterator[Rows]:
    """Yield the images of a file that are kept, a few at a time."""
    file = comparison.files[number]
    with file.open() as store, ChunkReader(store) as reader:
        digests = store.of_images(store.digests)
        dropped = comparison.dropped[number]
        kept = [image for image in range(file.n_images) if image not in dropped]
        columns = {
            column: column.encode(comparison.values(number, column, store), info)
            for column in COLUMNS
            if column.field in comparison.columns
        }
        prefix = f"{file.path.stem}/" if rename else ""
        n_views = info.n_views
        size = max(1, min(BLOCK_IMAGES, BLOCK_BYTES // (store.row_bytes * n_views)))
        for start in range(0, len(kept), size):
            images = kept[start : start + size]
            yield Rows(
                chunks=reader.read(
                    [n_views * image + view for image in images for view in range(n_views)]
                ),
                paths=[prefix + file.paths[image] for image in images],
                digests=[digests[image] for image in images],
                **{
                    column.field: [values[image] for image in images]
                    for column, values in columns.items()
                },
            )


def _check_prefixes(files: Sequence[Input]) -> None:
    """Refuse files whose names do not tell their images apart."""
    named: dict[str, Path] = {}
    for file in files:
        other = named.setdefault(file.path.stem, file.path)
        if other != file.path:
            raise ParameterError(
                f"{other} and {file.path}: have one name, which rename=True puts in front of the "
                "paths of their images; rename one of the files"
            )
        longest = max(file.paths, key=len, default="")
        fault = fault_of_text(f"{file.path.stem}/{longest}", "a path", MAX_PATH_LENGTH)
        if fault:
            raise SourceError(f"{file.path}: {fault}, with the name of the file in front")
