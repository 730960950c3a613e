"""Which codes files go into one, and which of their images, with what label and group.

A value that two files may both have of an image is one of `COLUMNS`; a further one needs a line
there, and its field in `Rows`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from cnncodes.bounds import fault_of_labels
from cnncodes.errors import CnncodesError, FileFormatError, ParameterError, SourceError
from cnncodes.extract.store import CodeStore
from cnncodes.extract.writing import CodesInfo
from cnncodes.hdf5 import PlainFile
from cnncodes.images.limits import DEFAULT_MAX_PIXELS
from cnncodes.images.multilabel import UNKNOWN, from_matrix, names_in
from cnncodes.models.metadata import networks_text
from cnncodes.progress import Progress
from cnncodes.text import case_twins, counted, listed, shown

Skipped = list[tuple[str, str]]
_Values = tuple[frozenset[Hashable], ...]  # of an image, for each column; empty without one


@dataclass(frozen=True)
class Column:
    """A value of each image.

    Attributes
    ----------
    field : str
        Its field in `Rows`.
    noun, state : str
        What a value is, and what an image with one is, before the value in messages.
    missing : hashable
        What stands for no value.
    read : callable
        Returns the value of each image of a codes file; no items where the file has none.
    encode : callable
        Returns values as `Rows` has them.
    show : callable
        Returns a value as messages have it.
    """

    field: str
    noun: str
    state: str
    missing: Hashable
    read: Callable[[CodeStore], list[Any]]
    encode: Callable[[list[Any], CodesInfo], list[Any]]
    show: Callable[[Any, CodesInfo], str] = lambda value, _: str(value)


def _read_labels(store: CodeStore) -> list[str]:
    names = [*store.class_names, ""]  # label −1 means none
    return [names[label] for label in store.of_images(store.labels).tolist()]


def _encode_labels(labels: list[str], info: CodesInfo) -> list[int]:
    index = {name: number for number, name in enumerate(info.class_names)} | {"": -1}
    return [index[label] for label in labels]


def _read_flags(store: CodeStore) -> list[str]:
    matrix = store.label_matrix
    flags = [] if matrix is None else from_matrix(store.of_images(matrix))
    return ["" if each == UNKNOWN * len(each) else each for each in flags]


def _encode_flags(flags: list[str], info: CodesInfo) -> list[str]:
    return [each or UNKNOWN * len(info.class_names) for each in flags]


COLUMNS = (
    Column("labels", "label", "labelled", "", _read_labels, _encode_labels),
    Column(
        *("groups", "group", "in the group", ""),
        read=lambda store: store.of_images(store.groups),
        encode=lambda groups, _: groups,
    ),
    Column(
        *("weights", "weight", "of weight", 1.0),
        read=lambda store: store.of_images(store.weights).tolist(),
        encode=lambda weights, _: weights,
    ),
    Column(
        *("probabilities", "probability", "of probability", 1.0),
        read=lambda store: store.of_images(store.probabilities).tolist(),
        encode=lambda probabilities, _: probabilities,
    ),
    Column(
        *("flags", "labels", "labelled", ""),
        read=_read_flags,
        encode=_encode_flags,
        show=lambda flags, info: names_in(flags, info.class_names) or "nothing",
    ),
)


@dataclass(frozen=True)
class Input:
    """What is known of a codes file while the others are read; it is not kept open.

    Attributes
    ----------
    path : Path
        The file.
    info : CodesInfo
        What is common to its images.
    made_with : str
        Versions of what computed the codes.
    n_images : int
        Images with codes.
    paths : list of str
        The paths of these.
    columns : frozenset of str
        Fields of the columns that it has.
    skipped : list of (str, str)
        Path and reason of each image that could not be used.
    state : tuple of int
        Device, number, size and time of the file, by which it is the same and unchanged.
    """

    path: Path
    info: CodesInfo
    made_with: str
    n_images: int
    paths: list[str]
    columns: frozenset[str]
    skipped: Skipped
    state: tuple[int, ...]

    @classmethod
    def read(cls, path: Path) -> Input:
        """Look at a file.

        Raises
        ------
        FileFormatError
            It is no whole codes file.
        """
        with CodeStore.open(path) as store:
            info = CodesInfo(
                backbone=store.backbone,
                backbone_sha256=store.backbone_sha256,
                code_shape=tuple(store.codes.shape[1:]),
                dtype=store.codes.dtype.name,
                source=store.source,
                class_names=tuple(store.class_names),
                max_pixels=store.max_pixels or DEFAULT_MAX_PIXELS,
                white=store.white,
                augment=store.augment,
                part=store.part,
            )
            return cls(
                path=path,
                info=info,
                made_with=store.created_with,
                n_images=store.n_images,
                paths=store.of_images(store.paths),
                columns=frozenset(column.field for column in COLUMNS if column.read(store)),
                skipped=store.skipped,
                state=cls.state_of(path),
            )

    def open(self) -> CodeStore:
        """Open the file again, which need not be checked again.

        Raises
        ------
        FileFormatError
            It has changed since.
        """
        store = CodeStore(PlainFile(self.path))
        if self.state_of(self.path) != self.state:
            store.close()
            raise FileFormatError(f"{self.path}: has changed while it was merged; merge again")
        return store

    @staticmethod
    def state_of(path: Path) -> tuple[int, ...]:
        """Return what changes when another file takes the place of one, or it is written."""
        status = path.stat()
        return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def in_order(files: Sequence[Input]) -> list[Input]:
    """Return files in the order of their paths, parts in that of their numbers.

    Raises
    ------
    ParameterError
        A file or a part is there twice, a part is missing, or only some files are parts.
    """
    known: dict[tuple[int, ...], Path] = {}
    for file in files:
        other = known.setdefault(file.state[:2], file.path)
        if other is not file.path:
            raise ParameterError(f"{other} and {file.path}: are the same file; name it once")
    ordered = sorted(files, key=lambda file: str(file.path))
    divided = [file for file in ordered if file.info.part is not None]
    if not divided:
        return ordered
    for file in ordered:
        if file.info.part is None:
            raise ParameterError(
                f"{divided[0].path} is part {divided[0].info.part} of a source, and {file.path} is "
                "no part of it; merge the parts first, and then their file with others"
            )
    return _parts_in_order(divided)


def _parts_in_order(files: Sequence[Input]) -> list[Input]:
    parts: dict[int, Input] = {}
    first = files[0].info.part
    assert first is not None
    for file in files:
        part = file.info.part
        assert part is not None
        if part.count != first.count:
            raise ParameterError(
                f"{files[0].path} is part {first} and {file.path} is part {part}; merge parts of "
                "the same number"
            )
        if part.part_of != first.part_of:
            raise ParameterError(
                f"{files[0].path} and {file.path}: are parts of different sources, or of one that "
                "has changed in between; extract the parts of its present images"
            )
        other = parts.setdefault(part.number, file)
        if other is not file:
            raise ParameterError(
                f"{other.path} and {file.path}: are both part {part}; name one of them"
            )
    missing = [number for number in range(1, first.count + 1) if number not in parts]
    if missing:
        is_one = len(missing) == 1
        numbers = listed([f"{number}/{first.count}" for number in missing])
        raise ParameterError(
            f"{files[0].info.source}: {'part' if is_one else 'parts'} {numbers} "
            f"{'is' if is_one else 'are'} missing; extract {'it' if is_one else 'them'}, and merge "
            f"all {first.count} parts"
        )
    return [parts[number] for number in sorted(parts)]


def check_alike(files: Sequence[Input]) -> None:
    """Refuse codes that no single extraction could have made.

    Raises
    ------
    FileFormatError
        Two files are of different networks or settings.
    """
    first = files[0]
    for file in files[1:]:
        old, new = first.info, file.info
        if old.backbone_sha256 != new.backbone_sha256:
            networks = networks_text(
                old.backbone, old.backbone_sha256, new.backbone, new.backbone_sha256
            )
            raise FileFormatError(
                f"{first.path} and {file.path}: are of different networks ({networks}); only codes "
                "of one network are merged"
            )
        is_one = first.n_images > 0 and file.n_images > 0
        if is_one and ("flags" in first.columns) != ("flags" in file.columns):
            raise FileFormatError(
                f"{first.path} and {file.path}: have several labels for an image in one of them, "
                "and one in the other; extract one of them again"
            )
        if "flags" in first.columns and old.class_names != new.class_names:
            raise FileFormatError(
                f"{first.path} and {file.path}: have different labels, several for an image; only "
                "files with the same labels are merged"
            )
        settings = ["dtype", "code_shape", "augment", "white"]
        settings += [] if old.part is None else ["max_pixels", "class_names"]
        for name in settings:
            one, two = getattr(old, name), getattr(new, name)
            if one != two:
                values = f" ({_setting(one)}, not {_setting(two)})"
                raise FileFormatError(
                    f"{first.path} and {file.path}: were extracted with different {name}{values}; "
                    "extract one of them again"
                )


def _setting(value: Any) -> str:
    if isinstance(value, tuple):
        return listed([str(each) for each in value])
    return "guessed" if value is None else str(value)


def sorted_classes(
    files: Iterable[tuple[Path, Sequence[str]]], *, error: type[CnncodesError] = SourceError
) -> list[str]:
    """Return the names of the classes of several files, each given as its path and names, sorted.

    Raises
    ------
    error
        Names that are not in one file differ in case only.
    """
    first: dict[str, Path] = {}  # the file of each name
    for path, names in files:
        for name in names:
            first.setdefault(name, path)
    for one, two in (pair for alike in case_twins(first) for pair in combinations(alike, 2)):
        if first[one] != first[two]:
            raise error(
                f"{first[one]} and {first[two]}: the classes {shown(one)} and {shown(two)} differ "
                "only in case or in the form of letters; rename one and extract it again"
            )
    return sorted(first)


def united_classes(files: Sequence[Input]) -> tuple[tuple[str, ...], list[str]]:
    """Return the classes of all files, sorted, and a note where their lists differ.

    Raises
    ------
    SourceError
        They are too many, or two differ in case only.
    """
    lists = [file.info.class_names for file in files]
    if files[0].info.part is not None or "flags" in files[0].columns:  # alike, in one order
        return lists[0], []
    names = tuple(sorted_classes((file.path, file.info.class_names) for file in files))
    if fault := fault_of_labels(names):
        raise SourceError(f"{files[0].path} and others: {fault}")
    if all(each == names for each in lists):
        return names, []
    return names, [f"the classes of the files differ; together they are {len(names)}"]


@dataclass
class Comparison:
    """What several files have of the same images.

    Attributes
    ----------
    files : list of Input
        The files, in the order of their images.
    dropped : list of set of int
        For each file its images that an earlier one has too.
    """

    files: list[Input]
    dropped: list[set[int]] = field(init=False)
    _filled: list[dict[str, dict[str, Any]]] = field(init=False)
    _counts: Counter[str] = field(default_factory=Counter)
    _repeated: list[str] = field(default_factory=list)
    _known: dict[Hashable, tuple[int, str, _Values]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.dropped = [set() for _ in self.files]
        self._filled = [defaultdict(dict) for _ in self.files]

    @property
    def columns(self) -> set[str]:
        """Fields of the columns that any file has; labels are in all."""
        return {"labels"}.union(*(file.columns for file in self.files))

    def compare(self, progress: Progress, *, rename: bool) -> None:
        """Find the images of each file that an earlier one has too.

        Raises
        ------
        SourceError
            Two files contradict each other about an image.
        """
        progress.begin(len(self.files), unit="files compared")
        earlier: set[str] = set()  # digests
        for number, file in enumerate(self.files):
            with file.open() as store:
                images = self._described(file, store)
            repeated: dict[str, None] = {}
            for path, (digest, values) in images.items():
                key = (path, digest) if rename else path
                old = self._known.get(key)
                if old is None:
                    self._known[key] = (number, digest, values)
                    self._counts["copies"] += digest in earlier
                elif old[1] == digest:
                    self._known[key] = self._reconciled(path, old, number, values)
                    repeated[path] = None
                else:
                    raise SourceError(
                        f"{self.files[old[0]].path} and {file.path}: have different images called "
                        f"{path}; pass rename=True to put the name of its codes file in front of "
                        "each path"
                    )
            self.dropped[number] = {at for at, path in enumerate(file.paths) if path in repeated}
            self._repeated += repeated
            earlier.update(digest for digest, _ in images.values())
            progress.advance(1)

    def _described(self, file: Input, store: CodeStore) -> dict[str, tuple[str, _Values]]:
        """Return digest and values of each image, by its path, which a CSV file may repeat."""
        read = [column.read(store) or [column.missing] * file.n_images for column in COLUMNS]
        sets: dict[tuple[Any, ...], _Values] = {}  # images share them
        images: dict[str, tuple[str, _Values]] = {}
        for path, digest, *each in zip(
            file.paths, store.of_images(store.digests), *read, strict=True
        ):
            key = tuple(each)
            if key not in sets:
                sets[key] = tuple(
                    frozenset({value} - {column.missing})
                    for value, column in zip(key, COLUMNS, strict=True)
                )
            other, values = images.get(path, (digest, sets[key]))
            if other != digest:
                raise SourceError(
                    f"{file.path}: has two different images called {path}; extract it again"
                )
            if values is not sets[key]:
                values = tuple(a | b for a, b in zip(values, sets[key], strict=True))
            images[path] = (digest, values)
        return images

    def _reconciled(
        self, path: str, old: tuple[int, str, _Values], number: int, values: _Values
    ) -> tuple[int, str, _Values]:
        """Give an image the values that only one of two files has."""
        earlier, digest, known = old
        merged = list(known)
        for index, column in enumerate(COLUMNS):
            one, two = known[index], values[index]
            if one == two:
                continue
            if (one and two) or len(two) > 1:
                info = self.files[number].info
                texts = [
                    " and ".join(sorted(column.show(value, info) for value in each)) or "nothing"
                    for each in (one, two)
                ]
                raise SourceError(
                    f"{self.files[earlier].path} and {self.files[number].path}: {path} is "
                    f"{column.state} {shown(texts[0])} in one and {shown(texts[1])} in the other; "
                    "correct one and extract it again"
                )
            self._counts[column.field] += 1
            if two:
                (self._filled[earlier][column.field][path],) = two
                merged[index] = two
        return (earlier, digest, tuple(merged))

    def values(self, number: int, column: Column, store: CodeStore) -> list[Any]:
        """Return the values of a column for the images of a file, those of other files included."""
        paths = self.files[number].paths
        values = column.read(store) or [column.missing] * len(paths)
        filled = self._filled[number].get(column.field)
        if not filled:
            return values
        return [filled.get(path, value) for path, value in zip(paths, values, strict=True)]

    def skipped(self, *, rename: bool) -> Skipped:
        """Return path and reason of the images that could not be used, in the order of the files.

        Those of collections are named once, and not where another file has their codes.
        """
        if rename:
            return [
                (f"{file.path.stem}/{path}", reason)
                for file in self.files
                for path, reason in file.skipped
            ]
        everything = [each for file in self.files for each in file.skipped]
        if self.files[0].info.part is not None:
            return everything
        first = dict(reversed(everything))
        paths = dict.fromkeys(path for path, _ in everything)
        return [(path, first[path]) for path in paths if path not in self._known]

    def notes(self) -> list[str]:
        """Return notes on images that several files have."""
        notes = []
        if self._repeated:
            notes.append(
                f"{counted(len(self._repeated), 'image')} in two files with the same path and "
                f"content, kept once: {listed(self._repeated)}"
            )
        for column in COLUMNS:
            if n_images := self._counts[column.field]:
                notes.append(
                    f"{counted(n_images, 'image')} with {column.noun} in one file and none in "
                    f"another, kept with the {column.noun}"
                )
        if n_copies := self._counts["copies"]:
            notes.append(
                f"{counted(n_copies, 'image')} equal to one of another path in another file, and "
                "kept: cnncodes overlap lists such copies"
            )
        return notes
