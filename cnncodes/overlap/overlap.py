"""Find the images that two collections share, or that one holds twice.

Files with the same SHA-256 are the same image. Near copies are found by the cosine of their codes
where both collections are codes files, else by that of `descriptors` of their pixels.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncodes.errors import FileFormatError, SourceError
from cnncodes.extract.store import CodeStore
from cnncodes.files import is_folder, is_hdf5
from cnncodes.head.rows import CodeRows
from cnncodes.images.decoding import load_images
from cnncodes.images.sources import find_images, root_of
from cnncodes.machine import available_threads
from cnncodes.overlap.descriptors import (
    SIZE,
    Descriptors,
    describe_codes,
    describe_views,
    image_views,
)
from cnncodes.overlap.search import similar_pairs
from cnncodes.parameters import SIMILARITY, as_path
from cnncodes.progress import NoProgress, Progress
from cnncodes.text import counted

IMAGE_THRESHOLD, CODE_THRESHOLD = 0.93, 0.95
MAX_PAIRS = 100_000
SAME, NEAR = "same", "near"


@dataclass(frozen=True)
class Pair:
    """Two images that are copies of each other.

    Attributes
    ----------
    a, b : int
        Their indices in the two collections.
    kind : {"same", "near"}
        Whether the files are equal.
    score : float
        Cosine of their descriptors; 1 for equal files.
    """

    a: int
    b: int
    kind: str
    score: float


@dataclass(frozen=True)
class Collection:
    """The images of a collection.

    Attributes
    ----------
    name : str
        The folder, CSV or codes file.
    root : Path
        Folder that `paths` are relative to.
    paths, digests : list of str
        Path and SHA-256 of each image; instead of the latter a text of its own where the file
        cannot be read.
    descriptors : Descriptors
        Of each image; zeros for one that cannot be used.
    notes : list of str
        What cannot be compared.
    """

    name: str
    root: Path
    paths: list[str]
    digests: list[str]
    descriptors: Descriptors
    notes: list[str]


@dataclass(frozen=True)
class Overlap:
    """Copies between two collections, or within one.

    Attributes
    ----------
    a, b : Collection
        The collections; one object if they are the same.
    by : {"codes", "pixels"}
        What was compared.
    threshold : float
        Lowest score of a near copy.
    pairs : list of Pair
        The most certain first.
    notes : list of str
        What was left out.
    """

    a: Collection
    b: Collection
    by: str
    threshold: float
    pairs: list[Pair]
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return JSON types, the images of the pairs by their paths."""
        return {
            "a": self.a.name,
            "b": self.b.name,
            "by": self.by,
            "threshold": self.threshold,
            "pairs": [
                {**asdict(each), "a": self.a.paths[each.a], "b": self.b.paths[each.b]}
                for each in self.pairs
            ],
            "notes": self.notes,
        }


def find_overlap(
    a: str | Path,
    b: str | Path | None = None,
    *,
    threshold: float | None = None,
    progress: Progress | None = None,
) -> Overlap:
    """Find copies of images between two collections, or within one.

    Parameters
    ----------
    a, b : str or Path
        Folders of images, CSV files as for `extract`, or codes files. Without `b`, or if it is
        `a`, copies within `a` are found. Of a codes file the images themselves are read only
        if the other collection is none.
    threshold : float, optional
        Lowest cosine of a near copy, by default `CODE_THRESHOLD` for codes and
        `IMAGE_THRESHOLD` for pixels.
    progress : Progress, optional
        Counts the images.

    Returns
    -------
    Overlap
        The pairs. Of files with equal content, the first in `a` is paired with each other one.

    Raises
    ------
    SourceError
        A collection has no images, or none that can be used.
    FileFormatError
        A codes file is damaged, or the codes are of two networks.
    TrainingError
        Codes are not finite.
    ParameterError
        `threshold` is out of range.
    """
    progress = progress or NoProgress()
    first = as_path(a, "a")
    second = first if b is None else as_path(b, "b")
    if threshold is not None:
        threshold = SIMILARITY.check(threshold, "threshold")
    is_within = first.resolve() == second.resolve()
    sources = [first] if is_within else [first, second]
    by_codes = all(_is_codes(path) for path in sources)
    if threshold is None:
        threshold = CODE_THRESHOLD if by_codes else IMAGE_THRESHOLD
    if by_codes:
        _check_networks(first, second)
    read = _read_codes if by_codes else _read_images
    collections = [read(path, progress) for path in sources]
    one, two = collections[0], collections[-1]
    rest = None if is_within else two.descriptors
    (i, j, scores), n_near = similar_pairs(one.descriptors, rest, threshold, MAX_PAIRS, progress)
    near = [
        Pair(a, b, NEAR, round(score, 4))
        for a, b, score in zip(i.tolist(), j.tolist(), scores.tolist(), strict=True)
        if one.digests[a] != two.digests[b]
    ]
    notes = [note for each in collections for note in each.notes]
    if n_near > MAX_PAIRS:
        notes.append(
            f"{n_near:,} pairs are similar, and the {MAX_PAIRS:,} most similar are kept; use a "
            "higher threshold if images that are no copies are among them"
        )
    elif len(near) > max(len(one.paths), len(two.paths)):
        otherwise = ", or compare the images instead of codes" if by_codes else ""
        notes.append(
            f"{len(near):,} near pairs are more than there are images, so most are hardly copies; "
            f"use a higher threshold{otherwise}"
        )
    pairs = [*_equal_files(one, two), *near]
    return Overlap(one, two, "codes" if by_codes else "pixels", threshold, pairs, notes)


def _is_codes(path: Path) -> bool:
    return not is_folder(path) and (path.suffix == ".h5" or is_hdf5(path))


def _check_networks(first: Path, second: Path) -> None:
    with CodeStore.open(first) as one, CodeStore.open(second) as two:
        if one.backbone_sha256 != two.backbone_sha256:
            raise FileFormatError(
                f"{second}: has codes of another network than {first}; extract both with the same "
                "backbone, or compare the images"
            )


def _read_codes(path: Path, progress: Progress) -> Collection:
    """Read a codes file; codes are averaged over height and width, where copies differ."""
    with CodeStore.open(path) as store:
        n_features = store.codes.shape[-1]
        # The images themselves: a view of one is no copy of it.
        rows = CodeRows(store, np.arange(0, len(store), store.n_views))
        pooled = np.empty((len(rows), n_features), np.float32)
        progress.begin(len(rows), unit="images read")
        for span, block in rows.blocks():
            pooled[span] = block.reshape(len(block), -1, n_features).mean(axis=1)
            progress.advance(len(block))
        return Collection(
            name=str(path),
            root=root_of(Path(store.source)),
            paths=store.of_images(store.paths),
            digests=store.of_images(store.digests),
            descriptors=describe_codes(pooled),
            notes=[],
        )


def _read_images(path: Path, progress: Progress) -> Collection:
    """Read the images of a source, or those of a codes file where they were."""
    if _is_codes(path):
        with CodeStore.open(path) as store:
            root, paths = root_of(Path(store.source)), store.of_images(store.paths)
    else:
        source = find_images(path)
        root, paths = source.root, list(source.paths)
    views: list[NDArray[np.float32]] = []
    digests: list[str] = []
    unusable: list[str] = []
    threads = available_threads()
    progress.begin(len(paths), unit="images read")
    files = [root / each for each in paths]
    blank = np.zeros((SIZE, SIZE, 3), np.uint8)
    with closing(load_images(files, SIZE, threads=threads, ahead=2 * threads)) as loaded:
        for image in loaded:
            digests.append(image.digest or f"unreadable {path} {image.index}")
            views.append(image_views(blank if image.pixels is None else image.pixels))
            if image.pixels is None:
                unusable.append(f"{paths[image.index]}: {image.problem}")
            progress.advance(1)
    if len(unusable) == len(paths):
        raise SourceError(f"{path}: none of its images can be used, such as {unusable[0]}")
    notes = []
    if unusable:
        notes.append(
            f"{path}: {counted(len(unusable), 'image')} cannot be compared, such as {unusable[0]}"
        )
    return Collection(str(path), root, paths, digests, describe_views(np.stack(views)), notes)


def _equal_files(one: Collection, two: Collection) -> list[Pair]:
    """Pair the first image of each SHA-256 in `one` with all others that have it."""
    first: dict[str, int] = {}
    for index, digest in enumerate(one.digests):
        first.setdefault(digest, index)
    return [
        Pair(first[digest], index, SAME, 1.0)
        for index, digest in enumerate(two.digests)
        if digest in first and not (one is two and first[digest] == index)
    ]
