"""What a codes file holds, and how it is written: an HDF5 file that any HDF5 reader can open.

``docs/file-formats.md`` specifies its layout. It is written once all codes are computed, so a file
under its own name is always whole; until then a `journal` holds them.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py._objects import phil  # h5py's lock, which its direct reading and writing do not take
from numpy.typing import NDArray

from cnncodes._version import created_with
from cnncodes.errors import OutputError
from cnncodes.extract.source_part import SourcePart
from cnncodes.hdf5 import errno_of, reason_of
from cnncodes.images.multilabel import to_matrix
from cnncodes.models.metadata import BackboneInfo
from cnncodes.parameters import VIEWS

FORMAT = "1"
# Every HDF5 library reads gzip.
COMPRESSION: dict[str, Any] = {"compression": "gzip", "compression_opts": 1}
SOURCES = " + "  # between the sources of a merged file
SOURCES_NAMED = 10  # of them, at most
CHECKSUM_BYTES = 4  # at the end of a zlib stream: the Adler-32 of what was compressed
WEIGHTING = ("weights", "probabilities")  # datasets of a number for each row
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
