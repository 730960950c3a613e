"""Reading HDF5 files of untrusted origin.

h5py alone is not enough: it follows links to other files, allocates whatever length a text claims,
decompresses without a limit, and may never return from a damaged list of texts. So h5py reports
the offset and type of each object, and values are read from there directly. The layouts are those
of the HDF5 File Format Specification 3.0: III.E (global heap), IV.A.1 (object headers of version
1) and IV.A.2.m (attributes).
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5f, h5g, h5l, h5o, h5s, h5t, h5z
from numpy.typing import DTypeLike, NDArray

from cnncodes.bounds import MAX_ROW_BYTES, MAX_TEXT_BYTES
from cnncodes.errors import FileFormatError
from cnncodes.files import check_regular
from cnncodes.output import OPEN_ELSEWHERE, is_open_elsewhere
from cnncodes.text import first_line

MAX_ATTRIBUTE_BYTES = 16_000_000
# Largest total of all heaps: a fixed part and one per text. HDF5 makes heaps of 4096 bytes or more.
HEAP_SLACK, HEAP_BYTES_PER_TEXT = 64 << 20, 8192
LARGEST_HEAP = MAX_ATTRIBUTE_BYTES + HEAP_BYTES_PER_TEXT
# Raised by h5py for objects that are damaged or were never written.
UNREADABLE = (OSError, RuntimeError, MemoryError)
REWRITTEN = "is stored in a way that cnncodes does not write; use the file as cnncodes wrote it"
_ATTRIBUTE, _CONTINUATION = 0x000C, 0x0010  # types of messages in an object header
_SHARED = 2  # flag of a message that is stored in another object
_HEAP_SIGNATURE, _HEADER_BYTES = b"GCOL", 16  # of a heap, and of each object in it
_REFERENCE = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])
_CACHE_BYTES = 1 << 16
_CUT_OFF = re.compile(r"truncated file: eof = (\d+),.* stored_eof = (\d+)")  # as HDF5 says it
_BLOCK = 4 << 20  # bytes of a dataset that are read at a time

Heaps = dict[int, dict[int, bytes]]


class PlainFile:
    """An HDF5 file, open for reading, without anything in other files.

    Every method raises ValueError, or one of `UNREADABLE`, for unexpected content.

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
        check_regular(path)
        try:
            self._file = h5py.File(path, "r", locking=False)  # not every disk has file locks
            _limit_cache(self._file)
            self._raw = RawFile(self._file, path.open("rb"))
        except UNREADABLE as error:
            if is_open_elsewhere(error):
                raise FileFormatError(f"{path}: {OPEN_ELSEWHERE}") from error
            raise FileFormatError(
                f"{path}: cannot be opened as HDF5 ({reason_of(error)})"
            ) from error
        self.size = self._raw.size

    def __contains__(self, name: str) -> bool:
        """Return whether the root group has an entry of a name, without following it."""
        return bool(self._file.id.links.exists(name.encode()))

    def rows(self, name: str, *dtypes: DTypeLike) -> h5py.Dataset:
        """Return a dataset of which each row is compressed by itself, with gzip.

        Parameters
        ----------
        name : str
            Its path from the root group.
        *dtypes : dtype
            The dtypes it may have.

        Returns
        -------
        h5py.Dataset, shape (n_rows, ...)
            The dataset; its rows are not read, and HDF5 does not limit their decompressed size.
        """
        dataset = h5py.Dataset(self._find(name))
        if dataset.dtype not in dtypes or dataset.ndim < 2:
            raise ValueError(f"{name!r} has another type or shape than it should have")
        layout = dataset.id.get_create_plist()
        filters = [layout.get_filter(number)[0] for number in range(layout.get_nfilters())]
        if dataset.chunks != (1, *dataset.shape[1:]) or filters != [h5z.FILTER_DEFLATE]:
            raise ValueError(f"{name!r} {REWRITTEN}")
        if not 0 < math.prod(dataset.chunks) * dataset.dtype.itemsize <= MAX_ROW_BYTES:
            raise ValueError(f"a row of {name!r} is empty or too large")
        return dataset

    def length(self, name: str) -> int:
        """Return the number of rows of a dataset of one dimension."""
        return int(self._vector(name).shape[0])

    def vector(self, name: str, dtype: DTypeLike) -> NDArray[Any]:
        """Read a dataset of one dimension.

        Parameters
        ----------
        name : str
            Its path from the root group.
        dtype : dtype
            The dtype it must have.

        Returns
        -------
        ndarray, shape (n_rows,)
            Its values.
        """
        dataset = self._vector(name)
        if dataset.dtype != dtype:
            raise ValueError(f"{name!r} has another type than it should have")
        return self._read(name, dataset, np.dtype(dtype))

    def matrix(self, name: str, dtype: DTypeLike) -> NDArray[Any]:
        """Read a dataset of two dimensions, of the dtype it must have, as `vector`."""
        dataset = self._find(name)
        if dataset.rank != 2 or dataset.dtype != dtype:
            raise ValueError(f"{name!r} has another type or shape than it should have")
        n_rows, n_columns = dataset.shape
        numbers = self._read(name, dataset, np.dtype(dtype), n=n_rows * n_columns)
        return numbers.reshape(n_rows, n_columns)

    def texts(self, name: str, *, filled: bool = True) -> list[str]:
        """Read a dataset of texts of one dimension.

        Parameters
        ----------
        name : str
            Its path from the root group.
        filled : bool
            Whether empty texts are refused. A hole in the file may claim any number of them.

        Returns
        -------
        list of str
            The texts, of at most `MAX_TEXT_BYTES` bytes each. What is not UTF-8 is escaped by
            surrogates.
        """
        dataset = self._vector(name)
        kind = dataset.get_type()
        if not isinstance(kind, h5t.TypeStringID):
            raise ValueError(f"{name!r} is no list of texts")
        variable = kind.is_variable_str()
        contents = (self._variable_texts if variable else self._fixed_texts)(name, dataset)
        texts = []
        for content in contents:
            text = content.partition(b"\0")[0].decode("utf-8", "surrogateescape")
            if filled and not text:
                raise ValueError(f"{name!r} has an empty text")
            texts.append(text)
        return texts

    def text_attribute(self, name: str, errors: str = "strict") -> str:
        """Return an attribute of the root group, or "" where it is absent or no single text.

        Parameters
        ----------
        name : str
            Its name.
        errors : str
            What to do about bytes that are not UTF-8, as for `bytes.decode`.
        """
        attribute = self._attribute(name)
        if attribute is None or not isinstance(attribute.get_type(), h5t.TypeStringID):
            return ""
        values = self._raw.texts_of(self._file.id, name)
        if values is None:
            raise ValueError(f"its {name} {REWRITTEN}")
        return values[0].decode("utf-8", errors)

    def number_attribute(self, name: str) -> int | None:
        """Return an attribute of the root group, a number or boolean; None where it is absent."""
        if not self.has_attribute(name):
            return None
        attribute = self._attribute(name)
        if attribute is None or attribute.dtype.kind not in "iub":
            raise ValueError(f"its {name} is no whole number")
        return int(self._file.attrs[name])

    def has_attribute(self, name: str) -> bool:
        """Return whether the root group has an attribute."""
        return bool(h5a.exists(self._file.id, name.encode()))

    def close(self) -> None:
        """Close the file."""
        self._raw.file.close()
        self._file.close()

    def __enter__(self) -> PlainFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _find(self, name: str) -> h5d.DatasetID:
        """Open a dataset without following links or opening any other file."""
        opened = self._file.id
        for part in name.encode().split(b"/"):
            if not isinstance(opened, h5g.GroupID | h5f.FileID) or not opened.links.exists(part):
                raise ValueError(f"{name!r} is missing")
            if opened.links.get_info(part).type != h5l.TYPE_HARD:
                raise ValueError(f"{name!r} is a link")
            opened = h5o.open(opened, part)
        if not isinstance(opened, h5d.DatasetID):
            raise ValueError(f"{name!r} is no dataset")
        layout = opened.get_create_plist()
        if layout.get_layout() == h5d.VIRTUAL or layout.get_external_count():
            raise ValueError(f"the values of {name!r} are in another file")
        return opened

    def _vector(self, name: str) -> h5d.DatasetID:
        dataset = self._find(name)
        if dataset.rank != 1:
            raise ValueError(f"{name!r} has another shape than it should have")
        return dataset

    def _read(
        self, name: str, dataset: h5d.DatasetID, dtype: np.dtype[Any], start: int = 0, n: int = -1
    ) -> NDArray[Any]:
        """Read `n` rows from `start` on, or all, of a contiguous dataset."""
        n = dataset.shape[0] if n < 0 else n
        if n == 0:
            return np.empty(0, dtype)
        offset = dataset.get_offset()
        if offset is None:  # in chunks or in the object header, or never written
            raise ValueError(f"{name!r} {REWRITTEN}")
        offset += start * dtype.itemsize
        if offset + n * dtype.itemsize > self.size:
            raise ValueError(f"{name!r} is cut off")
        self._raw.file.seek(offset)
        return np.fromfile(self._raw.file, dtype, n)

    def _blocks(
        self, name: str, dataset: h5d.DatasetID, dtype: np.dtype[Any]
    ) -> Iterator[NDArray[Any]]:
        """Read a contiguous dataset, some megabytes at a time."""
        n_rows, n_block = dataset.shape[0], _BLOCK // dtype.itemsize
        for start in range(0, n_rows, n_block):
            yield self._read(name, dataset, dtype, start, min(n_block, n_rows - start))

    def _fixed_texts(self, name: str, dataset: h5d.DatasetID) -> Iterator[bytes]:
        n_bytes = dataset.get_type().get_size()
        if n_bytes > MAX_TEXT_BYTES:
            raise ValueError(f"{name!r} has texts of {n_bytes:,} bytes")
        for texts in self._blocks(name, dataset, np.dtype(f"S{n_bytes}")):
            yield from texts.tolist()

    def _variable_texts(self, name: str, dataset: h5d.DatasetID) -> Iterator[bytes]:
        heaps: Heaps = {}
        left = HEAP_SLACK + HEAP_BYTES_PER_TEXT * dataset.shape[0]
        for references in self._blocks(name, dataset, _REFERENCE):
            for length, address, index in references.tolist():
                if length > MAX_TEXT_BYTES:
                    raise ValueError(f"{name!r} has a text of {length:,} bytes")
                if length and address not in heaps:
                    # A heap may also hold the large text of an attribute.
                    heaps[address] = self._raw.heap(address, min(left, LARGEST_HEAP))
                    left -= sum(map(len, heaps[address].values()))
                yield self._raw.referred(heaps, length, address, index)

    def _attribute(self, name: str) -> h5a.AttrID | None:
        """Open an attribute, if there is one of a single value."""
        if not self.has_attribute(name):
            return None
        attribute = h5a.open(self._file.id, name.encode())
        return attribute if attribute.get_space().get_simple_extent_type() == h5s.SCALAR else None


def _limit_cache(file: h5py.File) -> None:
    """Limit what HDF5 keeps of the index of a file's rows, by default 400 bytes of each row.

    Reading it again, from the memory of the system, takes some microseconds for a row.
    """
    configuration = file.id.get_mdc_config()
    configuration.set_initial_size = True
    configuration.initial_size = configuration.min_size = configuration.max_size = _CACHE_BYTES
    file.id.set_mdc_config(configuration)


class RawFile:
    """The bytes of an HDF5 file, read at the offsets that HDF5 reports.

    Parameters
    ----------
    file : h5py.File
        The file.
    content : file object
        The same, opened as bytes.

    Attributes
    ----------
    file : file object
        As `content`.
    size : int
        Its length in bytes.
    """

    def __init__(self, file: h5py.File, content: IO[bytes]) -> None:
        self.file = content
        self.size = content.seek(0, os.SEEK_END)
        self._base = file.userblock_size
        self._sizes = file.id.get_create_plist().get_sizes()

    def text_list(self, group: h5py.Group, name: str) -> list[str]:
        """Return an attribute of a group that is a list of texts.

        Raises
        ------
        ValueError
            It is no such list, or not stored in HDF5's default layout.
        """
        attribute = h5a.open(group.id, name.encode())
        if not math.prod(attribute.shape):
            return []
        values = self.texts_of(group.id, name)
        if values is None:
            raise ValueError(f"{name} is no list of texts")
        return [value.decode() for value in values]

    def texts_of(self, group: h5o.ObjectID, name: str) -> list[bytes] | None:
        """Return the texts of an attribute; None where it is not in HDF5's default layout."""
        attribute = h5a.open(group, name.encode())
        kind = attribute.get_type()
        values = [value for other, value in self._attributes(group) if other == name.encode()]
        if len(values) != 1 or not isinstance(kind, h5t.TypeStringID):
            return None
        variable = kind.is_variable_str()
        n_bytes = _REFERENCE.itemsize if variable else kind.get_size()
        size = math.prod(attribute.shape) * n_bytes
        if not size == attribute.get_storage_size() <= len(values[0]):
            return None
        parts = [values[0][at : at + n_bytes] for at in range(0, size, n_bytes)]
        if variable:
            heaps: Heaps = {}
            parts = [self.referred(heaps, *struct.unpack("<IQI", part)) for part in parts]
        return [part.partition(b"\0")[0] for part in parts]

    def referred(self, heaps: Heaps, length: int, address: int, index: int) -> bytes:
        """Return a text of variable length, and remove it from the heaps read so far."""
        if not length:
            return b""
        if length > MAX_ATTRIBUTE_BYTES:
            raise ValueError(f"a text has {length:,} bytes")
        if address not in heaps:
            heaps[address] = self.heap(address, LARGEST_HEAP)
        content = heaps[address].pop(index, None)
        if content is None or len(content) != length:  # each belongs to one text
            raise ValueError("a heap of texts is damaged")
        return content

    def heap(self, address: int, most: int) -> dict[int, bytes]:
        """Read a global heap of at most `most` bytes; return its objects by index."""
        start = self._base + address
        if start + _HEADER_BYTES > self.size:
            raise ValueError("a text is behind the end of the file")
        self.file.seek(start)
        header = self.file.read(_HEADER_BYTES)
        signature, size = struct.unpack("<4s4xQ", header)
        if signature != _HEAP_SIGNATURE or not _HEADER_BYTES <= size <= most:
            raise ValueError("a heap of texts is damaged")
        content = self.file.read(size - _HEADER_BYTES)
        objects: dict[int, bytes] = {}
        at = 0
        while at + _HEADER_BYTES <= len(content):
            index, length = struct.unpack_from("<H6xQ", content, at)
            if index == 0:  # free space
                break
            at += _HEADER_BYTES
            if at + length > len(content):
                raise ValueError("a heap of texts is damaged")
            objects[index] = content[at : at + length]
            at += -(-length // 8) * 8
        return objects

    def _attributes(self, group: h5o.ObjectID) -> Iterator[tuple[bytes, bytes]]:
        """Yield name and stored value of each attribute of a group.

        Object headers of version 1 are read, which HDF5 writes unless its latest format is asked
        for.
        """
        for message in self._messages(group):
            version, name_bytes, type_bytes, space_bytes = struct.unpack_from("<BxHHH", message)
            if version != 1:
                continue
            # Each of the three parts is padded to a multiple of 8 bytes; the value follows.
            start = 8 + sum(-(-each // 8) * 8 for each in (name_bytes, type_bytes, space_bytes))
            yield message[8 : 8 + name_bytes].rstrip(b"\0"), message[start:]

    def _messages(self, group: h5o.ObjectID) -> Iterator[bytes]:
        """Yield the attribute messages of an object header."""
        header = h5o.get_info(group)
        if header.hdr.version != 1 or self._sizes != (8, 8):
            return
        self.file.seek(self._base + header.addr)
        (length,) = struct.unpack("<8xI4x", self.file.read(_HEADER_BYTES))
        blocks = [(self._base + header.addr + _HEADER_BYTES, length)]
        for start, n_bytes in blocks:  # which grows
            if len(blocks) > header.hdr.nchunks or n_bytes > header.hdr.space.total:
                raise ValueError("an object header is damaged")
            self.file.seek(start)
            block = self.file.read(n_bytes)
            at = 0
            while at + 8 <= len(block):
                kind, length, flags = struct.unpack_from("<HHB", block, at)
                message = block[at + 8 : at + 8 + length]
                at += 8 + length
                if kind == _CONTINUATION:
                    where, size = struct.unpack_from("<QQ", message)
                    blocks.append((self._base + where, size))
                elif kind == _ATTRIBUTE and not flags & _SHARED:
                    yield message


def reason_of(error: Exception) -> str:
    """Return the reason of an error of the system or of HDF5, without a file's name."""
    number = errno_of(error)
    if number is not None:
        return os.strerror(number)
    if cut := _CUT_OFF.search(str(error)):
        return (
            f"cut off after {int(cut[1]):,} of {int(cut[2]):,} bytes: wait until it is copied, "
            "copy it again or make it again"
        )
    return getattr(error, "strerror", None) or first_line(error)


def errno_of(error: Exception) -> int | None:
    """Return the system's error number in the text of an HDF5 error; None without one."""
    number = re.search(r"errno = (\d+)", str(error))
    return None if number is None else int(number[1])
