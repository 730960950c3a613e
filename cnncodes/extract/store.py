"""The codes file: an HDF5 file that any HDF5 reader can open.

Its layout is written down in ``docs/file-formats.md``. An extraction writes to
``NAME.partial`` and renames it when complete, so a file under its own name is always whole.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cnncodes import __version__
from cnncodes.errors import FileFormatError, OutputError
from cnncodes.model_file import BackboneInfo, later_format

FORMAT = "1"
# Every HDF5 library reads gzip. A chunk is an image, so that images are compressed, copied and
# picked one by one.
CODES: dict[str, Any] = {"chunk": 1, "compression": "gzip", "compression_opts": 1}
_SHA256 = re.compile("[0-9a-f]{64}")
_TEXT = h5py.string_dtype("utf-8")


class CodeStore:
    """The codes of a collection of images, on disk.

    Open an existing file with `CodeStore.open`; `create` and `resume` are for the extraction.

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
        # While the file grows: what is told of the images, and of the skipped ones.
        self._told = (hashlib.sha256(), hashlib.sha256())
        # Kept, since threads that encode must leave HDF5 to the one that writes.
        self._dtype = np.dtype(np.float16)

    @classmethod
    def open(cls, path: str | Path) -> CodeStore:
        """Open a complete codes file for reading.

        Raises
        ------
        FileFormatError
            The file is absent, damaged, foreign, incomplete or of a later format.
        """
        path = Path(path)
        store = cls(_open_hdf5(path, "r"), path)
        try:
            store._check()
        except FileFormatError:
            store.close()
            raise
        return store

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        backbone: BackboneInfo,
        backbone_sha256: str,
        code_shape: Sequence[int],
        dtype: str,
        source: str,
        class_names: Sequence[str],
        request: str,
    ) -> CodeStore:
        """Start a new file; `path` must not exist.

        Parameters
        ----------
        path : Path
            The file to create.
        backbone : BackboneInfo
            What computes the codes.
        backbone_sha256 : str
            SHA-256 of the backbone's file.
        code_shape : sequence of int
            Shape of one image's codes.
        dtype : {"float16", "float32"}
            How codes are stored.
        source : str
            Where the images come from, as the user named it.
        class_names : sequence of str
            Names of the classes, in the order of their labels.
        request : str
            Identifies the extraction, so that only the same one is resumed.

        Raises
        ------
        OutputError
            The file cannot be created.
        """
        try:
            file = h5py.File(path, "x")
        except OSError as error:
            raise OutputError(f"{path}: cannot be created ({_reason(error)})") from error
        file.attrs["format"] = FORMAT
        file.attrs["kind"] = "codes"
        file.attrs["created_with"] = _versions()
        file.attrs["backbone"] = json.dumps(backbone.to_metadata())
        file.attrs["backbone_sha256"] = backbone_sha256
        file.attrs["class_names"] = json.dumps(list(class_names))
        file.attrs["source"] = _encode(source)
        file.attrs["request"] = request
        file.attrs["complete"] = False
        _growing(file, "codes", dtype, tuple(code_shape), **CODES)
        _growing(file, "labels", "int32", (), chunk=1024)
        _growing(file, "paths", _TEXT, (), chunk=1024)
        _growing(file, "digests", "S64", (), chunk=1024)
        skipped = file.create_group("skipped")
        _growing(skipped, "paths", _TEXT, (), chunk=64)
        _growing(skipped, "reasons", _TEXT, (), chunk=64)
        store = cls(file, path)
        store._dtype = np.dtype(dtype)
        file.attrs["told"] = store._told_digest()
        return store

    @classmethod
    def resume(cls, path: Path, request: str) -> CodeStore | None:
        """Open an unfinished file to go on with it.

        Returns
        -------
        CodeStore or None
            None if there is none, or it is unreadable or of another extraction.

        Raises
        ------
        OutputError
            Another process is writing it.
        """
        if not path.exists():
            return None
        try:
            store = cls(h5py.File(path, "r+"), path)
        except BlockingIOError as error:
            raise OutputError(f"{path}: another extraction is writing it; wait for it") from error
        except OSError:
            return None
        try:
            if text_attribute(store._file, "request") == request and store._consistent():
                for start in range(0, len(store), 256):
                    store.codes[start : start + 256]  # a block never written cannot be read
                store._tell(store.labels.tolist(), store.paths, store.digests, store.skipped)
                if text_attribute(store._file, "told") == store._told_digest():
                    store._dtype = store.codes.dtype
                    return store
        except Exception:  # what a crash left may hold anything; it is made anew
            pass
        store.close()
        return None

    def encode(self, codes: NDArray[np.float32]) -> list[bytes]:
        """Turn codes into the bytes that are stored; any thread may.

        Parameters
        ----------
        codes : ndarray of float32, shape (n_images, *code_shape)
            The codes.

        Returns
        -------
        list of bytes
            For each image its chunk of the file, compressed.

        Raises
        ------
        OutputError
            The codes are too large or too small for the stored dtype.
        """
        with np.errstate(over="ignore"):  # what does not fit becomes infinite, told below
            stored = codes.astype(self._dtype)
        if not np.isfinite(stored).all() and np.isfinite(codes).all():
            raise OutputError(
                f"{self.path}: codes up to {np.abs(codes).max():.0f} do not fit float16; "
                "pass --dtype float32"
            )
        if codes.any() and not stored.any():
            raise OutputError(
                f"{self.path}: codes of at most {np.abs(codes).max():.1e} vanish in float16; "
                "pass --dtype float32"
            )
        return [_compress(each.tobytes()) for each in stored]

    def append(
        self,
        codes: NDArray[np.float32] | Sequence[bytes],
        labels: Sequence[int],
        paths: Sequence[str],
        digests: Sequence[str],
        skipped: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Add images and, as pairs of path and reason, the ones that were skipped.

        The codes are of shape (n_images, *code_shape), or what `encode` made of them.

        Raises
        ------
        OutputError
            The codes do not fit the stored dtype, or the disk refuses them.
        """
        chunks = self.encode(codes) if isinstance(codes, np.ndarray) else codes
        try:
            _extend_chunks(self._file["codes"], chunks)
            _extend(self._file["labels"], list(labels))
            _extend(self._file["paths"], [_encode(path) for path in paths])
            _extend(self._file["digests"], [digest.encode() for digest in digests])
            _extend(self._file["skipped/paths"], [_encode(path) for path, _ in skipped])
            _extend(self._file["skipped/reasons"], [_encode(reason) for _, reason in skipped])
            self._tell(labels, paths, digests, skipped)
            self._file.attrs["told"] = self._told_digest()
            self._file.flush()
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({_reason(error)})") from error

    def discard(self) -> None:
        """Close the file and remove it."""
        self.close()
        self.path.unlink(missing_ok=True)

    def finish(self, path: Path) -> None:
        """Mark the file complete, close it and give it its final name."""
        try:
            self._file.attrs["complete"] = True
            for name in ("request", "told"):
                del self._file.attrs[name]
            self.close()
            self.path.replace(path)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({_reason(error)})") from error
        self.path = path

    @property
    def codes(self) -> Any:
        """The codes, an HDF5 dataset of shape (n_images, *code_shape); index it to read."""
        return self._file["codes"]

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

    def __len__(self) -> int:
        """Return the number of images with codes."""
        return int(self._file["labels"].shape[0])

    @property
    def n_seen(self) -> int:
        """Number of images dealt with, the skipped ones included."""
        return len(self) + int(self._file["skipped/paths"].shape[0])

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
        if text_attribute(self._file, "kind") != "codes":
            raise FileFormatError(
                f"{self.path}: an HDF5 file, but not one of codes; make one with: cnncodes extract"
            )
        version = text_attribute(self._file, "format")
        if version != FORMAT:
            raise later_format(self.path, version, text_attribute(self._file, "created_with"))
        if not self._file.attrs.get("complete", False):
            raise FileFormatError(
                f"{self.path}: is unfinished; run the same cnncodes extract again to go on with it"
            )
        try:
            names, labels = self.class_names, self.labels
            whole = (
                self._consistent()
                and isinstance(names, list)
                and all(isinstance(name, str) for name in names)
                and labels.dtype == np.int32
                and (len(labels) == 0 or (labels.min() >= -1 and labels.max() < len(names)))
                and bool(self.backbone and self.backbone_sha256)
                and all(map(_SHA256.fullmatch, self.digests))
            )
        except FileFormatError:  # the description of the backbone is not one
            whole = False
        except Exception as error:  # HDF5 objects of any kind may stand where ours belong
            raise FileFormatError(
                f"{self.path}: is damaged ({_reason(error)}); extract it again"
            ) from error
        if not whole:
            raise FileFormatError(f"{self.path}: contradicts itself; extract it again")

    def _tell(
        self,
        labels: Sequence[int],
        paths: Sequence[str],
        digests: Sequence[str],
        skipped: Sequence[tuple[str, str]],
    ) -> None:
        """Digest what is stored beside the codes, which has no checksum of its own."""
        images, skips = self._told
        for label, path, digest in zip(labels, paths, digests, strict=True):
            images.update(json.dumps([label, _stored(path), digest]).encode())
        for path, reason in skipped:
            skips.update(json.dumps([_stored(path), _stored(reason)]).encode())

    def _told_digest(self) -> str:
        return "".join(each.hexdigest() for each in self._told)

    def _consistent(self) -> bool:
        """Whether all that is stored for each image is there for the same number of images."""
        images = {self._file[name].shape[0] for name in ("codes", "labels", "paths", "digests")}
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


def _open_hdf5(path: Path, mode: str) -> h5py.File:
    if not path.is_file():
        raise FileFormatError(f"{path}: no such file; make one with: cnncodes extract")
    try:
        return h5py.File(path, mode)
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be opened as HDF5 ({_reason(error)})") from error


def _compress(content: bytes) -> bytes:
    """Deflate, looking for runs of one byte only: codes are mostly zeros, and it is quick."""
    deflate = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    return deflate.compress(content) + deflate.flush()


def _growing(
    group: h5py.Group, name: str, dtype: Any, shape: tuple[int, ...], *, chunk: int, **options: Any
) -> None:
    """Create an empty dataset that grows along its first axis."""
    group.create_dataset(
        name,
        shape=(0, *shape),
        maxshape=(None, *shape),
        chunks=(chunk, *shape),
        dtype=dtype,
        **options,
    )


def _extend(dataset: h5py.Dataset, values: Any) -> None:
    if len(values):
        before = dataset.shape[0]
        dataset.resize(before + len(values), axis=0)
        dataset[before:] = values


def _extend_chunks(dataset: h5py.Dataset, chunks: Sequence[bytes]) -> None:
    """Add rows that are compressed already, each a chunk of its own."""
    before = dataset.shape[0]
    dataset.resize(before + len(chunks), axis=0)
    for row, chunk in enumerate(chunks, start=before):
        dataset.id.write_direct_chunk((row, *[0] * (dataset.ndim - 1)), chunk)


def _stored(text: str) -> str:
    """HDF5's strings end at a null byte. No file name has one, but a path in a CSV file may."""
    return text.replace("\0", "\\0")


def _encode(text: str) -> bytes:
    """File names need not be UTF-8; the bytes that are not survive the round trip."""
    return _stored(text).encode("utf-8", "surrogateescape")


def _decode(dataset: h5py.Dataset) -> list[str]:
    return [value.decode("utf-8", "surrogateescape") for value in dataset[:]]


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).strip().partition("\n")[0]
