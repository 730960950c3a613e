"""Reading an HDF5 file that a stranger may have made.

HDF5 lets a dataset be a link or stand in another file, a text of a gigabyte take a few bytes of
the file, and many rows share one text. So each object is looked at before it is read: it must be
stored in the file itself and have the expected type, and the length of every text must be known
and bounded. Of texts of variable length HDF5 itself tells the length by allocating that much, so
the lengths are taken from the references that stand for the texts in the file (HDF5 File Format
Specification 3.0, sections IV.A.2.m, "The Attribute Message", and VIII.E, "Variable-length").
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5l, h5o, h5s, h5t
from numpy.typing import DTypeLike, NDArray

from cnncodes.bounds import MAX_TEXT_BYTES
from cnncodes.errors import FileFormatError
from cnncodes.files import check_regular
from cnncodes.output import OPEN_ELSEWHERE, is_open_elsewhere

MAX_ATTRIBUTE_BYTES = 16_000_000
# Values may take this much more than the file: those of other writers may be compressed.
SLACK_BYTES = 64 << 20
OBJECT_BYTES = 64  # that a text takes in Python, however short it is
# What h5py raises for what is damaged or was never written.
UNREADABLE = (OSError, RuntimeError, MemoryError)
_ATTRIBUTE, _CONTINUATION = 0x000C, 0x0010  # types of messages in an object header
_VARIABLE_LENGTH = 9  # class of a datatype
_SHARED = 2  # flag of a message that is stored elsewhere


class PlainFile:
    """An HDF5 file, open for reading, of which only what is in the file itself is read.

    Every method raises ValueError, or one of `UNREADABLE`, for what is not as it should be.

    Parameters
    ----------
    path : Path
        The file.

    Attributes
    ----------
    path : Path
        The file.
    size : int
        Its length in bytes.

    Raises
    ------
    FileFormatError
        It is absent, no regular file, or cannot be opened as HDF5.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = check_regular(path).st_size
        try:
            self._file = h5py.File(path, "r", locking=False)  # not every disk has file locks
        except UNREADABLE as error:
            if is_open_elsewhere(error):
                raise FileFormatError(f"{path}: {OPEN_ELSEWHERE}") from error
            raise FileFormatError(
                f"{path}: cannot be opened as HDF5 ({reason_of(error)})"
            ) from error

    def __contains__(self, name: str) -> bool:
        """Tell whether the root group has an entry of a name, without following it."""
        return bool(self._file.id.links.exists(name.encode()))

    def find(self, name: str) -> h5py.Dataset:
        """Return a dataset of this file, however large, without following links.

        Parameters
        ----------
        name : str
            Its path from the root group.

        Returns
        -------
        h5py.Dataset
            The dataset; its values are stored in this file, and are not read.
        """
        place = self._file.id
        for part in name.encode().split(b"/"):
            if not isinstance(place, h5g.GroupID) or not place.links.exists(part):
                raise ValueError(f"{name!r} is missing")
            if place.links.get_info(part).type != h5l.TYPE_HARD:
                raise ValueError(f"{name!r} is a link to another place")
            place = h5o.open(place, part)
        if not isinstance(place, h5d.DatasetID):
            raise ValueError(f"{name!r} is no dataset")
        layout = place.get_create_plist()
        if layout.get_layout() == h5d.VIRTUAL or layout.get_external_count():
            raise ValueError(f"the values of {name!r} are in another file")
        dataset = h5py.Dataset(place)
        if dataset.chunks is not None:  # each of which is read as a whole, whatever is in it
            self._check_bytes(name, math.prod(dataset.chunks) * dataset.dtype.itemsize)
        return dataset

    def vector(self, name: str, dtype: DTypeLike) -> h5py.Dataset:
        """Return a dataset of one dimension.

        Parameters
        ----------
        name : str
            Its path from the root group.
        dtype : dtype
            The dtype it must have.

        Returns
        -------
        h5py.Dataset, shape (n_rows,)
            The dataset; its rows are not read, and take little more memory than the file is long.
        """
        dataset = self.find(name)
        if dataset.ndim != 1 or dataset.dtype != dtype:
            raise ValueError(f"{name!r} has another type or shape than it should have")
        self._check_bytes(name, dataset.nbytes)
        return dataset

    def texts(self, name: str) -> h5py.Dataset:
        """Return a dataset of texts, of which none is longer than `MAX_TEXT_BYTES`.

        Parameters
        ----------
        name : str
            Its path from the root group.

        Returns
        -------
        h5py.Dataset, shape (n_texts,)
            The dataset; the texts are not read.
        """
        dataset = self.find(name)
        kind = dataset.id.get_type()
        if not isinstance(kind, h5t.TypeStringID) or dataset.ndim != 1:
            raise ValueError(f"{name!r} is no list of texts")
        if kind.is_variable_str():
            lengths = self._text_lengths(name, dataset)
            longest, n_bytes = int(lengths.max(initial=0)), int(lengths.sum(dtype=np.uint64))
        else:
            longest, n_bytes = kind.get_size(), len(dataset) * kind.get_size()
        if longest > MAX_TEXT_BYTES:
            raise ValueError(f"{name!r} has texts of up to {longest:,} bytes")
        self._check_bytes(name, n_bytes + OBJECT_BYTES * len(dataset))
        return dataset

    def text_attribute(self, name: str) -> str:
        """Return an attribute of the root group, or "" where it is absent or no single text."""
        attribute = self._attribute(name)
        if attribute is None or not isinstance(attribute.get_type(), h5t.TypeStringID):
            return ""
        if attribute.get_type().is_variable_str():
            lengths = [each for other, each in self._attribute_lengths() if other == name.encode()]
            address_bytes, _ = self._file.id.get_create_plist().get_sizes()
            # Of a shorter value HDF5 takes the rest of the reference from memory it never wrote.
            if not lengths or attribute.get_storage_size() != 8 + address_bytes:
                raise ValueError(f"its {name} is stored in a way that cnncodes does not write")
            length = max(lengths)
        else:
            length = attribute.get_type().get_size()
        if length > MAX_ATTRIBUTE_BYTES:
            raise ValueError(f"its {name} has {length:,} bytes")
        value = self._file.attrs[name]
        return value.decode() if isinstance(value, bytes) else str(value)

    def number_attribute(self, name: str) -> int | None:
        """Return an attribute of the root group, a number or boolean; None where it is absent."""
        if not self.has_attribute(name):
            return None
        attribute = self._attribute(name)
        if attribute is None or attribute.dtype.kind not in "iub":
            raise ValueError(f"its {name} is no whole number")
        return int(self._file.attrs[name])

    def has_attribute(self, name: str) -> bool:
        """Tell whether the root group has an attribute."""
        return bool(h5a.exists(self._file.id, name.encode()))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> PlainFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check_bytes(self, name: str, n_bytes: int) -> None:
        if n_bytes > self.size + SLACK_BYTES:
            raise ValueError(f"{name!r} claims {n_bytes:,} bytes")

    def _attribute(self, name: str) -> h5a.AttrID | None:
        """Open an attribute, if there is one of a single value."""
        if not self.has_attribute(name):
            return None
        attribute = h5a.open(self._file.id, name.encode())
        return attribute if attribute.get_space().get_simple_extent_type() == h5s.SCALAR else None

    def _text_lengths(self, name: str, dataset: h5py.Dataset) -> NDArray[np.uint32]:
        """Return the lengths in bytes, shape (n_texts,), of texts of variable length."""
        start = dataset.id.get_offset()
        if not len(dataset):
            return np.zeros(0, np.uint32)
        if start is None:  # in chunks, in the object header, or not written
            raise ValueError(f"{name!r} is not stored in one piece")
        address_bytes, _ = self._file.id.get_create_plist().get_sizes()
        reference = np.dtype(
            [("length", "<u4"), ("address", f"S{address_bytes}"), ("index", "<u4")]
        )
        references = np.fromfile(self.path, reference, len(dataset), offset=start)
        if len(references) < len(dataset):
            raise ValueError(f"{name!r} is cut off")
        lengths: NDArray[np.uint32] = references["length"]
        return lengths

    def _attribute_lengths(self) -> Iterator[tuple[bytes, int]]:
        """Give name and length in bytes of the root group's texts of variable length.

        Object headers of version 1 are read, which HDF5 writes unless its latest format is asked
        for.
        """
        for message in self._messages():
            version, name_bytes, type_bytes, space_bytes = struct.unpack_from("<BxHHH", message)
            if version != 1:
                continue
            name = message[8 : 8 + name_bytes].rstrip(b"\0")
            # Each of the three parts is padded to a multiple of 8 bytes; the value follows.
            start_of_type = 8 + -(-name_bytes // 8) * 8
            start_of_value = start_of_type + -(-type_bytes // 8) * 8 + -(-space_bytes // 8) * 8
            if message[start_of_type] & 0x0F == _VARIABLE_LENGTH:
                (length,) = struct.unpack_from("<I", message, start_of_value)
                yield name, length

    def _messages(self) -> Iterator[bytes]:
        """Give the attribute messages of the root group's object header."""
        header = h5o.get_info(self._file.id)
        base = self._file.userblock_size
        if header.hdr.version != 1:
            return
        with self.path.open("rb") as file:
            file.seek(base + header.addr)
            (length,) = struct.unpack("<8xI4x", file.read(16))
            blocks = [(base + header.addr + 16, length)]
            for start, n_bytes in blocks:  # which grows
                if len(blocks) > header.hdr.nchunks or n_bytes > header.hdr.space.total:
                    raise ValueError("its object header is damaged")
                file.seek(start)
                block = file.read(n_bytes)
                at = 0
                while at + 8 <= len(block):
                    kind, length, flags = struct.unpack_from("<HHB", block, at)
                    message = block[at + 8 : at + 8 + length]
                    at += 8 + length
                    if kind == _CONTINUATION:
                        where, size = struct.unpack_from("<QQ", message)
                        blocks.append((base + where, size))
                    elif kind == _ATTRIBUTE and not flags & _SHARED:
                        yield message


def reason_of(error: Exception) -> str:
    """Tell in few words, without a file's name, what the system or HDF5 raised."""
    first_line = str(error).strip().partition("\n")[0]
    return getattr(error, "strerror", None) or first_line or type(error).__name__
