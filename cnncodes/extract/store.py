"""The codes file: an HDF5 file that any HDF5 reader can open.

``docs/file-formats.md`` specifies its layout. It is written once all codes are computed, so a file
under its own name is always whole; until then a `journal` holds them.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path, PureWindowsPath
from typing import Any

import h5py
import numpy as np
from h5py._objects import phil  # h5py's lock, which its direct reading and writing do not take
from numpy.typing import NDArray

from cnncodes._version import created_with
from cnncodes.bounds import MAX_LABELS, MAX_WEIGHT
from cnncodes.errors import FileFormatError, OutputError
from cnncodes.extract.source_part import SourcePart
from cnncodes.files import check_filled, exists, is_journal
from cnncodes.hdf5 import UNREADABLE, PlainFile, errno_of, reason_of
from cnncodes.images.multilabel import UNKNOWN_VALUE, from_matrix, label_texts, to_matrix
from cnncodes.images.sources import root_of
from cnncodes.models.kinds import needing
from cnncodes.models.metadata import BackboneInfo, later_format
from cnncodes.parameters import VIEWS, WHITE, as_path
from cnncodes.text import class_nouns, counted, views_text

FORMAT = "1"
_REMEDY = "make one with: cnncodes extract"
UNFINISHED = "is unfinished; run the same cnncodes extract again to go on with it"
# Every HDF5 library reads gzip.
COMPRESSION: dict[str, Any] = {"compression": "gzip", "compression_opts": 1}
SOURCES = " + "  # between the sources of a merged file
SOURCES_NAMED = 10  # of them, at most
LARGEST_RATIO = 1100  # beyond what deflate can compress
CHECKSUM_BYTES = 4  # at the end of a zlib stream: the Adler-32 of what was compressed
WEIGHTING = ("weights", "probabilities")  # datasets of a number for each row
_HEXADECIMAL = np.isin(np.arange(256), list(b"0123456789abcdef"))
_TEXT = h5py.string_dtype("utf-8")


@dataclass(frozen=True)
class CodesInfo:
    """What is common to all images of a codes file.

    Attributes
    ----------
    backbone : BackboneInfo
        The network that computes the codes.
    backbone_sha256 : str
        SHA-256 of the backbone's file.
    code_shape : tuple of int
        Shape of one image's codes.
    dtype : {"float16", "float32"}
        How codes are stored.
    source : str
        The source of the images, as the user named it.
    class_names : tuple of str
        Names of the classes, in the order of their labels.
    max_pixels : int
        An image with more pixels was skipped.
    white : int, optional
        The value of white in 16-bit grey; by default it was guessed from each image.
    augment : {"none", "hflip", "hvflip", "d4"}
        Which views of each image have codes, as for `make_views`.
    part : SourcePart, optional
        Which of the parts of the source the images are; by default all of it.
    """

    backbone: BackboneInfo
    backbone_sha256: str
    code_shape: tuple[int, ...]
    dtype: str
    source: str
    class_names: tuple[str, ...]
    max_pixels: int
    white: int | None = None
    augment: str = "none"
    part: SourcePart | None = None

    @property
    def n_views(self) -> int:
        """Number of rows of each image."""
        return VIEWS[self.augment]

    def to_json(self) -> dict[str, Any]:
        """Return JSON types."""
        values = {**asdict(self), "backbone": self.backbone.to_metadata()}
        if self.augment == "none":  # as in files of releases without views
            del values["augment"]
        del values["part"]
        if self.part is not None:
            values |= {"part": str(self.part), "part_of": self.part.part_of}
        return values


@dataclass(frozen=True)
class Rows:
    """A batch of images, as stored.

    Attributes
    ----------
    chunks : list of bytes
        The codes of each view of each image, compressed by `compress`.
    labels : list of int
        Their indices in the class names, −1 without a label.
    paths, digests : list of str
        Their paths, and the SHA-256 of their files.
    groups : list of str
        Their groups, empty for an image without one; no items if the source has no groups.
    weights, probabilities : list of float
        How much they count in training, and how probable their labels are; no items if the source
        has none.
    skipped : list of (str, str)
        Path and reason of each image of the batch that could not be used.
    remarks : list of str
        What was assumed or mended of some of the images.
    flags : list of str
        Their labels as in `images.multilabel`; no items if images have one label at most.
    """

    chunks: list[bytes] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)


def joint_source(sources: Sequence[str]) -> str:
    """Return the source of codes of several sources, of which the first ten are named."""
    more = [f"{len(sources) - SOURCES_NAMED} more"] if len(sources) > SOURCES_NAMED else []
    return SOURCES.join([*sources[:SOURCES_NAMED], *more])


def compress(content: bytes) -> bytes:
    """Compress with deflate's run-length strategy: quick, and codes are mostly zeros."""
    deflate = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    return deflate.compress(content) + deflate.flush()


def encode_codes(codes: NDArray[np.float32], dtype: str) -> list[bytes]:
    """Return codes as they are stored.

    Parameters
    ----------
    codes : ndarray of float32, shape (n_rows, *code_shape)
        The codes.
    dtype : {"float16", "float32"}
        How they are stored.

    Returns
    -------
    list of bytes
        The compressed chunk of each row.

    Raises
    ------
    OutputError
        The codes are too large or too small for `dtype`.
    """
    with np.errstate(over="ignore"):  # what does not fit becomes infinite: refused below
        stored = codes.astype(dtype)
    if not np.isfinite(stored).all() and np.isfinite(codes).all():
        raise OutputError(
            f"codes up to {np.abs(codes).max():.0f} do not fit float16; store them with "
            "dtype='float32'"
        )
    if codes.any() and not stored.any():
        raise OutputError(
            f"codes of at most {np.abs(codes).max():.1e} all become 0 in float16; store them "
            "with dtype='float32'"
        )
    return [compress(each.tobytes()) for each in stored]


def write_codes(
    path: Path,
    info: CodesInfo,
    batches: Iterable[Rows],
    n_images: int,
    *,
    made_with: str | None = None,
) -> None:
    """Write a codes file.

    Parameters
    ----------
    path : Path
        The file, replaced if it exists.
    info : CodesInfo
        What is common to all images.
    batches : iterable of Rows
        The images.
    n_images : int
        Number of images.
    made_with : str, optional
        Versions of what computed the codes; by default those of this process.

    Raises
    ------
    OSError
        The disk refuses it.
    """
    stored = Rows()
    checksums: list[int] = []
    n_views = info.n_views

    def of_rows(values: list[Any]) -> list[Any]:
        return [value for value in values for _ in range(n_views)]

    try:
        # Not every disk has locks, and the caller chooses a new file.
        with h5py.File(path, "w", locking=False) as file, phil:
            _describe(file, info, made_with)
            shape = info.code_shape
            layout: dict[str, Any] = {"chunks": (1, *shape), **COMPRESSION}
            if n_images == 0:  # of a part; h5py wants room for a chunk
                layout["maxshape"] = (None, *shape)
            codes = file.create_dataset("codes", (n_images * n_views, *shape), info.dtype, **layout)
            write, rest = codes.id.write_direct_chunk, (0,) * len(shape)
            for rows in batches:
                for row, chunk in enumerate(rows.chunks, start=len(checksums)):
                    write((row, *rest), chunk)
                    checksums.append(checksum_of(chunk))
                stored.labels.extend(rows.labels)
                stored.paths.extend(rows.paths)
                stored.digests.extend(rows.digests)
                stored.groups.extend(rows.groups)
                stored.weights.extend(rows.weights)
                stored.probabilities.extend(rows.probabilities)
                stored.flags.extend(rows.flags)
                stored.skipped.extend(rows.skipped)
            file.create_dataset("labels", data=of_rows(stored.labels), dtype="int32")
            file.create_dataset("checksums", data=checksums, dtype="uint32")
            digests = of_rows([each.encode() for each in stored.digests])
            file.create_dataset("digests", data=digests, dtype="S64")
            groups = list(map(_encode, of_rows(stored.groups)))
            if groups:
                file.create_dataset("groups", data=groups, dtype=_TEXT)
            for name in WEIGHTING:
                if numbers := of_rows(getattr(stored, name)):
                    file.create_dataset(name, data=numbers, dtype="float64")
            if stored.flags:
                matrix = to_matrix(of_rows(stored.flags), len(info.class_names))
                file.create_dataset("label_matrix", data=matrix)
            for name, values in (
                ("paths", of_rows(stored.paths)),
                ("skipped/paths", [path for path, _ in stored.skipped]),
                ("skipped/reasons", [reason for _, reason in stored.skipped]),
            ):
                file.create_dataset(name, data=list(map(_encode, values)), dtype=_TEXT)
    except (OSError, RuntimeError) as error:  # HDF5 raises either; the cause is in its text
        number = errno_of(error)
        if number is None:
            raise OSError(reason_of(error)) from error
        raise OSError(number, reason_of(error)) from error


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
        damage = FileFormatError(
            f"{self.path}: the codes in row {index} are damaged ({reason_of(error)}); extract it "
            "again"
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


def checksum_of(chunk: bytes) -> int:
    """Return the Adler-32 of a zlib stream's content, its last bytes."""
    return int.from_bytes(chunk[-CHECKSUM_BYTES:], "big")


def _describe(file: h5py.File, info: CodesInfo, made_with: str | None) -> None:
    if made_with is None:
        import PIL  # not for those who only read

        made_with = f"{created_with('onnxruntime')}, Pillow {PIL.__version__}"
    file.attrs["format"] = FORMAT
    file.attrs["kind"] = "codes"
    file.attrs["created_with"] = made_with
    file.attrs["backbone"] = json.dumps(info.backbone.to_metadata())
    file.attrs["backbone_sha256"] = info.backbone_sha256
    file.attrs["class_names"] = json.dumps(info.class_names)
    file.attrs["source"] = _encode(info.source)
    file.attrs["max_pixels"] = info.max_pixels
    if info.white is not None:
        file.attrs["white"] = info.white
    if info.augment != "none":
        file.attrs["augment"] = info.augment
    for name, value in ({} if info.part is None else info.part.to_json()).items():
        file.attrs[name] = value
    file.attrs["complete"] = True


def _stored(text: str) -> str:
    """Escape null bytes, which end HDF5's strings; a path in a CSV file may have one."""
    return text.replace("\0", "\\0")


def _encode(text: str) -> bytes:
    """Encode a file name, which need not be UTF-8; other bytes survive the round trip."""
    return _stored(text).encode("utf-8", "surrogateescape")
