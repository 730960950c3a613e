"""The codes file: an HDF5 file that any HDF5 reader can open.

Its layout is written down in ``docs/file-formats.md``. It is written once all codes are there, so
a file under its own name is always whole; until then they gather in a `journal`.
"""

from __future__ import annotations

import json
import math
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from h5py._objects import phil  # h5py's lock, which its direct reading and writing do not take
from numpy.typing import NDArray

from cnncodes import __version__
from cnncodes.errors import FileFormatError
from cnncodes.model_file import BackboneInfo, later_format
from cnncodes.output import OPEN_ELSEWHERE, is_open_elsewhere

FORMAT = "1"
UNFINISHED = "is unfinished; run the same cnncodes extract again to go on with it"
JOURNAL_SIGNATURE = b"cnncodes-j1\n"
# Every HDF5 library reads gzip.
COMPRESSION: dict[str, Any] = {"compression": "gzip", "compression_opts": 1}
LARGEST_RATIO = 1100  # of deflate, to which nothing shrinks further
# What h5py raises for a chunk that is damaged, and for one that was never written.
_UNREADABLE = (OSError, RuntimeError, MemoryError)
_SHA256 = re.compile("[0-9a-f]{64}")
_TEXT = h5py.string_dtype("utf-8")


@dataclass(frozen=True)
class CodesInfo:
    """What is common to all images of a codes file.

    Attributes
    ----------
    backbone : BackboneInfo
        What computes the codes.
    backbone_sha256 : str
        SHA-256 of the backbone's file.
    code_shape : tuple of int
        Shape of one image's codes.
    dtype : {"float16", "float32"}
        How codes are stored.
    source : str
        Where the images come from, as the user named it.
    class_names : tuple of str
        Names of the classes, in the order of their labels.
    max_pixels : int
        An image with more pixels was skipped.
    white : int, optional
        The value of white in 16-bit grey; by default it was guessed from each image.
    """

    backbone: BackboneInfo
    backbone_sha256: str
    code_shape: tuple[int, ...]
    dtype: str
    source: str
    class_names: tuple[str, ...]
    max_pixels: int
    white: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return JSON types."""
        return {**asdict(self), "backbone": self.backbone.to_metadata()}


@dataclass(frozen=True)
class Rows:
    """Some images, as they are stored.

    Attributes
    ----------
    chunks : list of bytes
        Their codes, each image's compressed by `compress`.
    labels : list of int
        Their indices in the class names, −1 without a label.
    paths, digests : list of str
        Their paths, and the SHA-256 of their files.
    groups : list of str
        Their groups, empty for an image without one; no items if the source has no groups.
    skipped : list of (str, str)
        Path and reason of images beside them that could not be used.
    remarks : list of str
        What was assumed or mended of some of the images.
    """

    chunks: list[bytes] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def compress(content: bytes) -> bytes:
    """Deflate, looking for runs of one byte only: codes are mostly zeros, and it is quick."""
    deflate = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    return deflate.compress(content) + deflate.flush()


def write_codes(path: Path, info: CodesInfo, batches: Iterable[Rows], n_images: int) -> None:
    """Write a codes file.

    Parameters
    ----------
    path : Path
        The file; what stands there is replaced.
    info : CodesInfo
        What is common to all images.
    batches : iterable of Rows
        The images.
    n_images : int
        How many there are.

    Raises
    ------
    OSError
        The disk refuses it.
    """
    told = Rows()
    try:
        # No lock, which not every disk has: whoever calls us has chosen a file that is new.
        with h5py.File(path, "w", locking=False) as file, phil:
            _describe(file, info)
            shape = info.code_shape
            codes = file.create_dataset(
                "codes", (n_images, *shape), info.dtype, chunks=(1, *shape), **COMPRESSION
            )
            for rows in batches:
                for row, chunk in enumerate(rows.chunks, start=len(told.labels)):
                    codes.id.write_direct_chunk((row, *[0] * len(shape)), chunk)
                told.labels.extend(rows.labels)
                told.paths.extend(rows.paths)
                told.digests.extend(rows.digests)
                told.groups.extend(rows.groups)
                told.skipped.extend(rows.skipped)
            file.create_dataset("labels", data=told.labels, dtype="int32")
            file.create_dataset(
                "digests", data=[each.encode() for each in told.digests], dtype="S64"
            )
            if told.groups:
                file.create_dataset("groups", data=list(map(_encode, told.groups)), dtype=_TEXT)
            for name, values in (
                ("paths", told.paths),
                ("skipped/paths", [path for path, _ in told.skipped]),
                ("skipped/reasons", [reason for _, reason in told.skipped]),
            ):
                file.create_dataset(name, data=list(map(_encode, values)), dtype=_TEXT)
    except (OSError, RuntimeError) as error:  # HDF5 raises either, and tells the cause in a text
        number = re.search(r"errno = (\d+)", str(error))
        if number is None:
            raise OSError(reason_of(error)) from error
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


class CodeStore:
    """The codes of a collection of images, on disk.

    Open a file with `CodeStore.open`.

    Attributes
    ----------
    path : Path
        The file.

    Examples
    --------
    >>> with CodeStore.open("codes.h5") as store:  # doctest: +SKIP
    ...     X, y = store.codes[:], store.labels
    """

    def __init__(self, file: h5py.File, path: Path) -> None:
        self._file = file
        self.path = path

    @classmethod
    def open(cls, path: str | Path) -> CodeStore:
        """Open a complete codes file for reading.

        Raises
        ------
        FileFormatError
            The file is absent, damaged, foreign, incomplete or of a later format.
        """
        path = Path(path)
        store = cls(_open_hdf5(path), path)
        try:
            store._check()
        except FileFormatError:
            store.close()
            raise
        return store

    @property
    def codes(self) -> Any:
        """The codes, an HDF5 dataset of shape (n_images, *code_shape); index it to read."""
        return self._file["codes"]

    @property
    def by_row(self) -> bool:
        """Whether the codes are laid out as `rows` needs them; `codes` reads any layout."""
        codes = self.codes
        plain = not (codes.shuffle or codes.fletcher32 or codes.scaleoffset)
        whole = codes.chunks == (1, *codes.shape[1:])
        return bool(whole and plain and codes.compression == "gzip")

    def rows(self, places: Iterable[int]) -> Iterator[NDArray[Any]]:
        """Give the codes at some places, flattened, quicker than `codes` and in any thread.

        Raises
        ------
        FileFormatError
            A row is damaged.
        """
        codes = self.codes
        n_bytes, dtype = math.prod(codes.shape[1:]) * codes.dtype.itemsize, codes.dtype
        beginning = [0] * (codes.ndim - 1)
        for place in places:
            try:
                with phil:
                    chunk = codes.id.read_direct_chunk((int(place), *beginning))[1]
                # Decompressed here and not by HDF5, which lets only one thread do that.
                content = zlib.decompress(chunk, bufsize=n_bytes)
                if len(content) != n_bytes:
                    raise ValueError(f"{len(content)} bytes, not {n_bytes}")
            except (zlib.error, ValueError, *_UNREADABLE) as error:
                raise self._damage(place, error) from error
            yield np.frombuffer(content, dtype)

    @property
    def labels(self) -> NDArray[np.int32]:
        """For each image its index in `class_names`, −1 where it has none; shape (n_images,)."""
        labels: NDArray[np.int32] = self._file["labels"][:]
        return labels

    @property
    def paths(self) -> list[str]:
        """For each image its path, relative to the source."""
        return _decode(self._file["paths"])

    @property
    def digests(self) -> list[str]:
        """For each image the SHA-256 of its file, hexadecimal."""
        return [digest.decode() for digest in self._file["digests"][:]]

    @property
    def groups(self) -> list[str]:
        """For each image the name of its group, "" where it has none; empty without groups."""
        return _decode(self._file["groups"]) if "groups" in self._file else []

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Path and reason of each image that could not be used."""
        paths, reasons = self._file["skipped/paths"], self._file["skipped/reasons"]
        return list(zip(_decode(paths), _decode(reasons), strict=True))

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of their labels."""
        names: list[str] = json.loads(self._file.attrs["class_names"])
        return names

    @property
    def backbone(self) -> BackboneInfo:
        """What computed the codes."""
        return BackboneInfo.from_metadata(json.loads(self._file.attrs["backbone"]), self.path)

    @property
    def backbone_sha256(self) -> str:
        """SHA-256 of the backbone's file."""
        return str(self._file.attrs["backbone_sha256"])

    @property
    def source(self) -> str:
        """Where the images came from, as the user named it."""
        return str(self._file.attrs["source"])

    @property
    def created_with(self) -> str:
        """The versions of what made the file; empty if it does not say."""
        return text_attribute(self._file, "created_with")

    @property
    def max_pixels(self) -> int | None:
        """An image with more pixels was skipped; None if the file does not tell."""
        value = self._file.attrs.get("max_pixels")
        return None if value is None else int(value)

    @property
    def white(self) -> int | None:
        """The value of white in 16-bit grey; None if it was guessed from each image."""
        value = self._file.attrs.get("white")
        return None if value is None else int(value)

    def chunk(self, place: int) -> bytes:
        """Return the codes at a place as `compress` made them.

        Raises
        ------
        FileFormatError
            They are damaged.
        """
        codes = self.codes
        try:
            if not self.by_row:
                return compress(codes[place].tobytes())
            with phil:
                chunk: bytes = codes.id.read_direct_chunk((place, *[0] * (codes.ndim - 1)))[1]
        except _UNREADABLE as error:
            raise self._damage(place, error) from error
        return chunk

    def _damage(self, place: int, error: Exception) -> FileFormatError:
        return FileFormatError(
            f"{self.path}: the codes at place {place} are damaged ({reason_of(error)}); extract it "
            "again"
        )

    def __len__(self) -> int:
        """Return the number of images with codes."""
        return int(self._file["labels"].shape[0])

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> CodeStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check(self) -> None:
        """Refuse a file that is not a whole codes file of this format."""
        try:
            self._check_kind()
            whole = self._is_whole()
        except FileFormatError:
            raise
        except Exception as error:  # HDF5 objects of any kind may stand where ours belong
            raise FileFormatError(
                f"{self.path}: is damaged ({reason_of(error)}); extract it again"
            ) from error
        if not whole:
            raise FileFormatError(f"{self.path}: contradicts itself; extract it again")

    def _check_kind(self) -> None:
        """Refuse a file that is another one or not finished."""
        if text_attribute(self._file, "kind") != "codes":
            raise FileFormatError(
                f"{self.path}: an HDF5 file, but not one of codes; make one with: cnncodes extract"
            )
        version = text_attribute(self._file, "format")
        if version != FORMAT:
            raise later_format(self.path, version, text_attribute(self._file, "created_with"))
        if not self._file.attrs.get("complete", False):
            raise FileFormatError(f"{self.path}: {UNFINISHED}")

    def _is_whole(self) -> bool:
        """Whether all that belongs to a codes file is there, and goes together."""
        if not (self._consistent() and self._holds_codes()):  # before as much is read as it claims
            return False
        try:
            described = bool(self.backbone and self.backbone_sha256)
        except FileFormatError:
            described = False
        names, labels = self.class_names, self.labels
        # These raise an error if they cannot be read.
        _ = self.paths, self.groups, self.skipped
        _ = self.created_with, self.max_pixels, self.white
        return (
            described
            and isinstance(names, list)
            and all(isinstance(name, str) for name in names)
            and labels.dtype == np.int32
            and (len(labels) == 0 or (labels.min() >= -1 and labels.max() < len(names)))
            and all(map(_SHA256.fullmatch, self.digests))
            and isinstance(self._file.attrs["source"], str)
        )

    def _holds_codes(self) -> bool:
        """Whether the codes are stored in this file, in chunks, and no more than fit into it."""
        codes = self._file["codes"]
        return (
            codes.dtype in (np.float16, np.float32)
            and codes.ndim > 1
            and codes.chunks is not None
            and not codes.is_virtual
            and not codes.external
            and codes.nbytes <= LARGEST_RATIO * self.path.stat().st_size
        )

    def _consistent(self) -> bool:
        """Whether all that is stored for each image is there for the same number of images."""
        datasets = ["codes", "labels", "paths", "digests", *({"groups"} & self._file.keys())]
        images = {self._file[name].shape[0] for name in datasets}
        skips = {self._file[name].shape[0] for name in ("skipped/paths", "skipped/reasons")}
        return len(images) == len(skips) == 1


def _versions() -> str:
    """Name what the codes depend on, but for the backbone."""
    import onnxruntime
    import PIL

    return (
        f"cnncodes {__version__}, onnxruntime {onnxruntime.__version__}, Pillow {PIL.__version__}"
    )


def text_attribute(file: h5py.File, name: str) -> str:
    """Return a file's attribute, or "" where it is absent or anything but a text."""
    value = file.attrs.get(name)
    return value if isinstance(value, str) else ""


def is_journal(path: Path) -> bool:
    """Tell whether a file holds the codes of an extraction that has not ended."""
    try:
        with path.open("rb") as file:
            return file.read(len(JOURNAL_SIGNATURE)) == JOURNAL_SIGNATURE
    except OSError:
        return False


def open_unlocked(path: Path) -> h5py.File:
    """Open an HDF5 file for reading, on a disk without file locks too.

    Raises
    ------
    OSError
        It is damaged, foreign or not readable.
    """
    return h5py.File(path, locking=False)


def _open_hdf5(path: Path) -> h5py.File:
    if not path.is_file():
        raise FileFormatError(f"{path}: no such file; make one with: cnncodes extract")
    if is_journal(path):
        raise FileFormatError(f"{path}: {UNFINISHED}")
    try:
        return open_unlocked(path)
    except OSError as error:
        if is_open_elsewhere(error):
            raise FileFormatError(f"{path}: {OPEN_ELSEWHERE}") from error
        raise FileFormatError(f"{path}: cannot be opened as HDF5 ({reason_of(error)})") from error


def _describe(file: h5py.File, info: CodesInfo) -> None:
    file.attrs["format"] = FORMAT
    file.attrs["kind"] = "codes"
    file.attrs["created_with"] = _versions()
    file.attrs["backbone"] = json.dumps(info.backbone.to_metadata())
    file.attrs["backbone_sha256"] = info.backbone_sha256
    file.attrs["class_names"] = json.dumps(info.class_names)
    file.attrs["source"] = _encode(info.source)
    file.attrs["max_pixels"] = info.max_pixels
    if info.white is not None:
        file.attrs["white"] = info.white
    file.attrs["complete"] = True


def _stored(text: str) -> str:
    """HDF5's strings end at a null byte. No file name has one, but a path in a CSV file may."""
    return text.replace("\0", "\\0")


def _encode(text: str) -> bytes:
    """File names need not be UTF-8; the bytes that are not survive the round trip."""
    return _stored(text).encode("utf-8", "surrogateescape")


def _decode(dataset: h5py.Dataset) -> list[str]:
    return [value.decode("utf-8", "surrogateescape") for value in dataset[:]]


def reason_of(error: Exception) -> str:
    """Tell in few words, without a file's name, what the system or HDF5 raised."""
    return getattr(error, "strerror", None) or str(error).strip().partition("\n")[0]
