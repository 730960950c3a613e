"""Reading a codes file: `CodeStore`."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from h5py._objects import phil  # h5py's lock, which its direct reading and writing do not take
from numpy.typing import NDArray

from cnncodes.bounds import MAX_LABELS, MAX_WEIGHT
from cnncodes.errors import FileFormatError
from cnncodes.extract.source_part import SourcePart
from cnncodes.extract.writing import FORMAT, SOURCES, WEIGHTING, checksum_of
from cnncodes.files import check_filled, exists, is_journal
from cnncodes.hdf5 import UNREADABLE, PlainFile, reason_of
from cnncodes.images.multilabel import UNKNOWN_VALUE, from_matrix, label_texts
from cnncodes.images.sources import root_of
from cnncodes.models.kinds import needing
from cnncodes.models.metadata import BackboneInfo, later_format
from cnncodes.parameters import VIEWS, WHITE, as_path
from cnncodes.text import class_nouns, counted, shown, views_text

_REMEDY = "make one with: cnncodes extract"
UNFINISHED = "is unfinished; run the same cnncodes extract again to go on with it"
LARGEST_RATIO = 1100  # beyond what deflate can compress
_HEXADECIMAL = np.isin(np.arange(256), list(b"0123456789abcdef"))


class CodeStore:
    """The codes of a collection of images, on disk.

    Open a file with `CodeStore.open`. Each image has `n_views` rows, one after the other: row
    ``i * n_views`` is image i itself. Its label, path, digest, group, weight
    and probability stand in each of them.

    Attributes
    ----------
    path : Path
        The file.

    Examples
    --------
    >>> with CodeStore.open("codes.h5") as store:  # doctest: +SKIP
    ...     X, y = store.codes[:], store.labels
    """

    def __init__(self, file: PlainFile) -> None:
        self._file = file
        self.path = file.path

    @classmethod
    def open(cls, path: str | Path) -> CodeStore:
        """Open a complete codes file for reading.

        Raises
        ------
        FileFormatError
            The file is absent, damaged, foreign, incomplete or of a later format; or it leads to
            other files, or its content is far larger than the file.
        ParameterError
            `path` is no path.
        """
        path = as_path(path, "path")
        with needing(path, ("codes", "journal", "damaged"), "a codes file", _REMEDY):
            store = cls(_open_plain(path))
            try:
                store._check()
            except FileFormatError:
                store.close()
                raise
        return store

    @cached_property
    def codes(self) -> Any:
        """The codes, an HDF5 dataset of shape (n_rows, *code_shape); index it to read."""
        return self._file.rows("codes", np.float16, np.float32)

    @property
    def augment(self) -> str:
        """Which views of each image have a row: ``none``, ``hflip``, ``hvflip`` or ``d4``."""
        if not self._file.has_attribute("augment"):
            return "none"
        return self._file.text_attribute("augment")

    @cached_property
    def n_views(self) -> int:
        """Number of rows of each image, 1 without views."""
        augment = self.augment
        if augment not in VIEWS:
            raise FileFormatError(
                f"{self.path}: its views {augment!r:.40} are unknown to this release; extract it "
                "again"
            )
        return VIEWS[augment]

    def of_images(self, values: Any) -> Any:
        """Return those of the values of all rows that stand in the first row of an image.

        Parameters
        ----------
        values : sequence of length n_rows
            Such as `labels` or `paths`; may be empty.

        Returns
        -------
        sequence of length n_images
            Of the same type.
        """
        return values[:: self.n_views]

    @property
    def n_images(self) -> int:
        """Number of images with codes."""
        return len(self) // self.n_views

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of the codes of a row."""
        return int(math.prod(self.codes.shape[1:]) * self.codes.dtype.itemsize)

    def rows(self, indices: Iterable[int]) -> Iterator[NDArray[Any]]:
        """Yield the codes of some rows, flattened, faster than `codes` and in any thread.

        Parameters
        ----------
        indices : iterable of int
            The rows.

        Yields
        ------
        ndarray of float16 or float32, shape (n_features,)
            The codes of one row.

        Raises
        ------
        FileFormatError
            A row is damaged, or holds the codes of another.
        """
        dtype = self.codes.dtype
        for index in indices:
            yield np.frombuffer(self._unpacked(self._chunk(int(index)), int(index)), dtype)

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """For each row its index in `class_names`, −1 where it has none; shape (n_rows,)."""
        return self._file.vector("labels", np.int32)

    @cached_property
    def label_matrix(self) -> NDArray[np.uint8] | None:
        """Which rows have each label, where images may have several; None where they have one.

        It is of shape (n_rows, n_labels): 1, 0, or 255 where it is unknown.
        """
        if "label_matrix" not in self._file:
            return None
        return self._file.matrix("label_matrix", np.uint8)

    @cached_property
    def paths(self) -> list[str]:
        """For each row the path of its image, relative to the source."""
        return self._file.texts("paths")

    @cached_property
    def digests(self) -> list[str]:
        """For each row the SHA-256 of its image's file, hexadecimal."""
        return [digest.decode() for digest in self._digests.tolist()]

    @cached_property
    def _digests(self) -> NDArray[np.bytes_]:
        return self._file.vector("digests", "S64")

    def raw_digests(self, n_bytes: int = 32) -> NDArray[np.uint8]:
        """Return the first bytes of the digest of each image, of shape (n_images, n_bytes)."""
        digests = self.of_images(self._digests).astype(f"S{2 * n_bytes}")
        content = bytes.fromhex(digests.tobytes().decode())
        return np.frombuffer(content, np.uint8).reshape(-1, n_bytes)

    @cached_property
    def checksums(self) -> NDArray[np.uint32] | None:
        """For each row the Adler-32 of its codes' bytes; shape (n_rows,), None if absent."""
        return self._file.vector("checksums", np.uint32) if "checksums" in self._file else None

    @cached_property
    def groups(self) -> list[str]:
        """For each row the name of its group, "" where it has none; empty without groups."""
        return self._file.texts("groups", filled=False) if "groups" in self._file else []

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """For each row how much its image counts in training; empty without weights."""
        return self._numbers("weights")

    @cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """For each row how probable its label is; empty without probabilities."""
        return self._numbers("probabilities")

    def _numbers(self, name: str) -> NDArray[np.float64]:
        return self._file.vector(name, np.float64) if name in self._file else np.zeros(0)

    @cached_property
    def skipped(self) -> list[tuple[str, str]]:
        """Path and reason of each image that could not be used."""
        paths, reasons = (self._file.texts(f"skipped/{each}") for each in ("paths", "reasons"))
        return list(zip(paths, reasons, strict=True))

    @cached_property
    def part(self) -> SourcePart | None:
        """Which part of its source the file holds; None for all of it."""
        if not self._file.has_attribute("part"):
            return None
        part, part_of = map(self._file.text_attribute, ("part", "part_of"))
        return SourcePart.parse(part, part_of)

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the images: that they are a part only."""
        return () if self.part is None else (f"{self.path} is {self.part.text}",)

    @cached_property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of their labels."""
        names: list[str] = json.loads(self._file.text_attribute("class_names"))
        return names

    @cached_property
    def backbone(self) -> BackboneInfo:
        """The network that computed the codes."""
        described = json.loads(self._file.text_attribute("backbone"))
        return BackboneInfo.from_metadata(described, self.path)

    @property
    def backbone_sha256(self) -> str:
        """SHA-256 of the backbone's file."""
        return self._file.text_attribute("backbone_sha256")

    @property
    def source(self) -> str:
        """The source of the images, as the user named it."""
        return self._file.text_attribute("source", "surrogateescape")

    @property
    def source_name(self) -> str:
        """The source without the folder it is in, or such names of all sources of a merged file."""
        return SOURCES.join(PureWindowsPath(each).name for each in self.source.split(SOURCES))

    @property
    def sources(self) -> list[str]:
        """The source of the images, or those of a merged file."""
        return [self.source] if exists(Path(self.source)) else self.source.split(SOURCES)

    @property
    def files(self) -> list[Path]:
        """The file of each image, where it was when it was extracted."""
        root = root_of(Path(self.sources[0]))
        return [root / path for path in self.of_images(self.paths)]

    @property
    def created_with(self) -> str:
        """Versions of the packages that wrote the file; empty if not stored."""
        return self._file.text_attribute("created_with")

    @property
    def max_pixels(self) -> int | None:
        """An image with more pixels was skipped; None if not stored."""
        return self._file.number_attribute("max_pixels")

    @property
    def white(self) -> int | None:
        """The value of white in 16-bit grey; None if it was guessed from each image."""
        return self._file.number_attribute("white")

    def chunk(self, index: int) -> bytes:
        """Return the codes of a row as `compress` made them.

        Raises
        ------
        FileFormatError
            They are damaged.
        """
        chunk = self._chunk(index)
        self._unpacked(chunk, index)  # checked, since it is copied into another file
        return chunk

    def stored_chunk(self, index: int) -> bytes:
        """Return the codes of a row as `chunk`, but not decompressed to check them.

        They are compared with the checksum of the row; without one, as in older files,
        decompressed.

        Raises
        ------
        FileFormatError
            They are unreadable, or those of another row.
        """
        return self.chunk(index) if self.checksums is None else self._chunk(index)

    def _chunk(self, index: int) -> bytes:
        """Read the chunk of a row, whose last bytes are the checksum of its content."""
        try:
            with phil:
                offset = (index, *[0] * (self.codes.ndim - 1))
                chunk: bytes = self.codes.id.read_direct_chunk(offset)[1]
        except UNREADABLE as error:
            raise self._damage(index, error) from error
        if self.checksums is not None and checksum_of(chunk) != self.checksums[index]:
            raise self._damage(index, ValueError("not those that were stored there"))
        return chunk

    def _unpacked(self, chunk: bytes, index: int) -> bytes:
        """Decompress a chunk; HDF5 would do it in one thread only, and without a limit."""
        n_bytes = self.row_bytes
        inflate = zlib.decompressobj()
        try:
            content = inflate.decompress(
                chunk, n_bytes + 1
            )  # one more, to reach the end of the stream
        except zlib.error as error:
            raise self._damage(index, error) from error
        if len(content) != n_bytes or not inflate.eof:
            raise self._damage(index, ValueError("it holds more or fewer numbers than it should"))
        return content

    def _damage(self, index: int, error: Exception) -> FileFormatError:
        try:
            image = f"of {shown(self.paths[index])} "
        except FileFormatError:  # they are damaged too
            image = ""
        damage = FileFormatError(
            f"{self.path}: the codes {image}in row {index} are damaged ({reason_of(error)}); "
            "extract it again"
        )
        damage.__cause__ = error
        return damage

    def __len__(self) -> int:
        """Return the number of rows, `n_views` for each image."""
        return int(self.codes.shape[0])

    def __repr__(self) -> str:
        if not self.codes:  # HDF5 has closed it
            return f"<CodeStore {str(self.path)!r}: closed>"
        nouns = class_nouns(several=self.label_matrix is not None)
        classes = counted(len(self.class_names), *nouns)
        return (
            f"<CodeStore {str(self.path)!r}: {views_text(self.n_images, self.n_views)}, {classes}, "
            f"codes {self.codes.shape[1:]} {self.codes.dtype} of {self.backbone.backbone}>"
        )

    def release(self) -> None:
        """Forget what takes memory for each image; it is read again when it is wanted."""
        for name in ("paths", "digests", "_digests", "groups", "skipped"):
            self.__dict__.pop(name, None)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> CodeStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self) -> None:
        """Refuse a file that is not a whole codes file of this format."""
        try:
            self._check_kind()
            whole = self._is_whole()
        except FileFormatError:
            raise
        except Exception as error:  # an object of any kind may have one of our names
            raise FileFormatError(
                f"{self.path}: is damaged ({reason_of(error)}); extract it again"
            ) from error
        if not whole:
            raise FileFormatError(f"{self.path}: contradicts itself; extract it again")

    def _check_kind(self) -> None:
        """Refuse a file of another kind or format, or an unfinished one."""
        file = self._file
        if file.text_attribute("kind") != "codes":
            raise FileFormatError(f"{self.path}: an HDF5 file, but not one of codes; {_REMEDY}")
        version = file.text_attribute("format")
        if version != FORMAT:
            raise later_format(self.path, version, self.created_with)
        if not file.number_attribute("complete"):
            raise FileFormatError(f"{self.path}: {UNFINISHED}")

    def _is_whole(self) -> bool:
        """Whether all parts of a codes file are present, readable and consistent."""
        if not (self._consistent() and self._holds_codes()):  # before reading what it claims
            return False
        # Paths first: none is empty, so the file really holds as many as it claims.
        _ = self.paths, self.groups, self.skipped
        try:
            described = bool(self.backbone and self.backbone_sha256)
        except FileFormatError:
            described = False
        names, labels = self.class_names, self.labels
        _ = self.source, self.created_with, self.checksums, self.part
        return (
            described
            and self._has_whole_images()
            and self._has_whole_matrix()
            and self._file.has_attribute("source")
            and isinstance(names, list)
            and len(names) <= MAX_LABELS
            and all(isinstance(name, str) for name in names)
            and (len(labels) == 0 or (labels.min() >= -1 and labels.max() < len(names)))
            and bool(_HEXADECIMAL[self._digests.view(np.uint8)].all())
            and (self.max_pixels or 1) >= 1
            and (self.white is None or self.white in WHITE)
            and bool(((self.weights >= 0) & (self.weights <= MAX_WEIGHT)).all())
            and bool(((self.probabilities > 0) & (self.probabilities <= 1)).all())
        )

    def _has_whole_images(self) -> bool:
        """Whether all views of an image are present, and described alike."""
        n_views = self.n_views
        if n_views == 1:
            return True
        columns = [self.labels.tolist(), self.paths, self._digests.tolist(), self.groups]
        columns += [self.weights.tolist(), self.probabilities.tolist()]
        return all(
            len(values) % n_views == 0
            and all(values[view::n_views] == values[::n_views] for view in range(1, n_views))
            for values in columns
        )

    @property
    def label_texts(self) -> list[str]:
        """For each image its label, or all of them, as one text."""
        matrix = self.label_matrix
        flags = [] if matrix is None else from_matrix(self.of_images(matrix))
        return label_texts(self.of_images(self.labels).tolist(), self.class_names, flags)

    def _has_whole_matrix(self) -> bool:
        """Whether the labels of a file with several per image are such, and alike in all views."""
        matrix = self.label_matrix
        if matrix is None:
            return True
        if matrix.shape != (len(self), len(self.class_names)) or not matrix.size:
            return False
        views = matrix.reshape(-1, self.n_views, matrix.shape[1])
        return bool(
            np.isin(matrix, (0, 1, UNKNOWN_VALUE)).all()
            and (views == views[:, :1]).all()
            and (self.labels < 0).all()
        )

    def _holds_codes(self) -> bool:
        """Whether a file of this size can hold the codes."""
        return bool(self.codes.nbytes <= LARGEST_RATIO * self._file.size)

    def _consistent(self) -> bool:
        """Whether all datasets of images have the same number of rows."""
        optional = [name for name in ("checksums", "groups", *WEIGHTING) if name in self._file]
        images = {self._file.length(name) for name in ("labels", "paths", "digests", *optional)}
        skips = {self._file.length(f"skipped/{name}") for name in ("paths", "reasons")}
        return len(images | {len(self)}) == len(skips) == 1


def _open_plain(path: Path) -> PlainFile:
    check_filled(path, _REMEDY)
    if is_journal(path):
        raise FileFormatError(f"{path}: {UNFINISHED}")
    return PlainFile(path)
