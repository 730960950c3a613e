"""The append-only journal in which codes are stored until the codes file is written.

A record holds a batch, its length and a checksum. A kill or a power failure leaves whole records
and perhaps a torn one, which is cut off on resuming; ``docs/file-formats.md`` describes the file.
A sqlite3 table with a commit per image takes 1.9 (without syncs) to 4.4 times as long, 134 to 317
µs per image where this takes 72 (10,000 chunks of InceptionV3, 21 kB each).
"""

from __future__ import annotations

import json
import os
import struct
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from cnncodes.errors import OutputError
from cnncodes.extract.writing import WEIGHTING, CodesInfo, Rows, write_codes
from cnncodes.files import JOURNAL_SIGNATURE
from cnncodes.hdf5 import reason_of
from cnncodes.images.multilabel import label_numbers
from cnncodes.output import foreign_object, open_unfinished, replacing
from cnncodes.text import counted

SECONDS_BETWEEN_CHECKPOINTS = 5.0
_LENGTH, _CHECKSUM = struct.Struct("<Q"), struct.Struct("<I")
_ANY_JOURNAL = b"cnncodes-j"  # first bytes of a journal of any release


class Journal:
    """The codes of an unfinished extraction, on disk.

    Attributes
    ----------
    path : Path
        The file.
    info : CodesInfo
        What is common to all images.
    n_images : int
        Images with codes.
    label_counts : Counter of int
        Number of images with codes for each label, -1 standing for none.
    remarks : Counter of str
        Number of images with codes for each remark on what was assumed or mended.
    skipped : list of (str, str)
        Path and reason of each image that could not be used.
    discarded : str
        The codes of another extraction that were in the file, in words; empty if there were none.
    """

    def __init__(self, file: BinaryIO, path: Path, info: CodesInfo) -> None:
        self._file = file
        self._end = 0  # of the last whole record
        self._checkpoint = time.monotonic()
        self.path = path
        self.info = info
        self.n_images = 0
        self.label_counts: Counter[int] = Counter()
        self.remarks: Counter[str] = Counter()
        self.skipped: list[tuple[str, str]] = []
        self.discarded = ""

    @classmethod
    def open(cls, path: Path, info: CodesInfo, request: str, *, overwrite: bool = False) -> Journal:
        """Resume the journal of the same extraction, or start one.

        Parameters
        ----------
        path : Path
            The file.
        info : CodesInfo
            What is common to all images.
        request : str
            Identifies the images, so that only the same extraction is resumed.
        overwrite : bool
            Whether codes of another extraction may be discarded.

        Raises
        ------
        OutputError
            The file cannot be written, another process is writing it, it is no journal, or it
            keeps codes of another extraction.
        """
        header = json.dumps({"request": request, **info.to_json()}).encode()
        try:
            journal = cls(open_unfinished(path), path, info)
            try:
                if not journal._resume(header):
                    if journal.discarded and not overwrite:
                        raise OutputError(
                            f"{path}: keeps {journal.discarded}; finish that one with the same "
                            "command, choose another output, or pass overwrite=True to discard them"
                        )
                    journal._start(header)
            except BaseException:
                journal._file.close()
                raise
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({reason_of(error)})") from error
        return journal

    @property
    def n_seen(self) -> int:
        """Number of images processed, the skipped ones included."""
        return self.n_images + len(self.skipped)

    def append(self, rows: Rows) -> None:
        """Append a batch of images, with chunks by `encode_codes`.

        Raises
        ------
        OutputError
            The disk refuses it; earlier batches are kept.
        """
        description = {**vars(rows), "chunks": [len(chunk) for chunk in rows.chunks]}
        for name in (*WEIGHTING, "flags"):
            if not description[name]:  # as in journals of sources without
                del description[name]
        try:
            self._write(b"\n".join([json.dumps(description).encode(), b"".join(rows.chunks)]))
            self._count(rows)
            if time.monotonic() - self._checkpoint > SECONDS_BETWEEN_CHECKPOINTS:
                self._sync()
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot be written ({reason_of(error)}); it keeps {self.n_seen} "
                "images, and the same command goes on from there"
            ) from error

    def finish(self, output: Path, *, overwrite: bool = True) -> None:
        """Write the codes file and remove the journal.

        The file depends on the images alone, not on how often the work was interrupted.

        Parameters
        ----------
        output : Path
            The codes file.
        overwrite : bool
            Whether a file at `output` may be replaced.

        Raises
        ------
        OutputError
            The file cannot be written; the journal stays.
        """
        try:
            with replacing(output, overwrite=overwrite) as temporary:
                write_codes(temporary, self.info, self.rows(), self.n_images)
        except OutputError as error:
            raise OutputError(f"{error}; {self.path} keeps the codes until then") from error
        self.discard()

    def rows(self) -> Iterator[Rows]:
        """Yield the batches, in order."""
        self._file.seek(len(JOURNAL_SIGNATURE))
        records = _records(self._file)
        next(records)  # the header
        return map(_rows, records)

    def discard(self) -> None:
        """Close the journal and remove it."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the journal and keep it.

        Raises
        ------
        OutputError
            The last batches may not be on the disk.
        """
        if self._file.closed:
            return
        try:
            self._sync()
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({reason_of(error)})") from error
        finally:
            self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except OutputError:
            if not isinstance(error, OutputError):  # else the failure is reported already
                raise

    def _start(self, header: bytes) -> None:
        try:
            self._file.truncate(0)
            self._write(header, before=JOURNAL_SIGNATURE)
            self._sync()
        except BaseException:  # an interrupt too
            self.discard()
            raise

    def _resume(self, header: bytes) -> bool:
        """Count the records and cut off a torn one; False if they are of another extraction.

        Raises
        ------
        OutputError
            The file is no journal of cnncodes.
        """
        self._file.seek(0)
        # An interrupt may leave a journal empty, or with a part of its signature; a power failure
        # with zeros behind that.
        signature = self._file.read(len(JOURNAL_SIGNATURE))
        signature = signature.rstrip(b"\0") or signature
        if not (signature.startswith(_ANY_JOURNAL) or _ANY_JOURNAL.startswith(signature)):
            raise foreign_object(self.path, "no journal of cnncodes extract")
        if signature != JOURNAL_SIGNATURE:
            if len(signature) == len(JOURNAL_SIGNATURE):
                self.discarded = "codes of an extraction by another release of cnncodes"
            return False
        records = _records(self._file)
        first = next(records, None)
        if first is None:
            return False
        if first != header:
            try:
                n_images = sum(len(_rows(record).labels) for record in records)
                difference = _difference(json.loads(first), json.loads(header))
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise foreign_object(self.path, "a damaged journal") from error
            if n_images:
                self.discarded = (
                    f"the codes of {counted(n_images, 'image')}, of an interrupted extraction "
                    f"{difference}"
                )
            return False
        self._end = self._file.tell()
        for record in records:
            self._count(_rows(record))
            self._end = self._file.tell()
        self._file.truncate(self._end)
        return True

    def _count(self, rows: Rows) -> None:
        self.n_images += len(rows.labels)
        self.label_counts.update(label_numbers(rows.flags) if rows.flags else rows.labels)
        self.remarks.update(rows.remarks)
        self.skipped += rows.skipped

    def _write(self, record: bytes, before: bytes = b"") -> None:
        """Append a record, whole or not at all."""
        length = _LENGTH.pack(len(record))
        content = b"".join([before, length, _checksum(length, record), record])
        rest = memoryview(content)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except BaseException:  # an interrupt too
            self._file.truncate(self._end)
            raise
        self._end += len(content)

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._checkpoint = time.monotonic()


def _checksum(length: bytes, record: bytes) -> bytes:
    """Return the CRC-32 of both: that of nothing is 0, as in the zeros a power failure leaves."""
    return _CHECKSUM.pack(zlib.crc32(record, zlib.crc32(length)))


def _records(file: BinaryIO) -> Iterator[bytes]:
    """Yield the complete records from the current position; each ends at the file's position."""
    size = os.fstat(file.fileno()).st_size
    while True:
        start = file.tell()
        length, checksum = file.read(_LENGTH.size), file.read(_CHECKSUM.size)
        if len(checksum) < _CHECKSUM.size:
            return
        (n_bytes,) = _LENGTH.unpack(length)
        if n_bytes > size - start:  # a damaged length must not have gigabytes read
            return
        record = file.read(n_bytes)
        if len(record) < n_bytes or _checksum(length, record) != checksum:
            return
        yield record


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Return in words by what the headers of two journals differ."""
    old, new = ({"augment": "none", "part": "all", **header} for header in (old, new))
    names = ("backbone_sha256", "dtype", "max_pixels", "white", "augment", "source", "part")
    for name in names:
        if old.get(name) != new[name]:
            values = "" if name == "backbone_sha256" else f" ({old.get(name)}, not {new[name]})"
            return f"with another {name.removesuffix('_sha256')}{values}"
    return "of other images, changed ones or with another provider"


def _rows(record: bytes) -> Rows:
    line, _, content = record.partition(b"\n")
    description = json.loads(line)
    chunks, start = [], 0
    for size in description["chunks"]:
        chunks.append(content[start : start + size])
        start += size
    skipped = [(path, reason) for path, reason in description["skipped"]]
    return Rows(**{**description, "chunks": chunks, "skipped": skipped})
