"""The wanted files of a zip or tar.gz archive that may come from anyone.

Nothing is unpacked by the names of an archive: a member is read only if its whole name matches the
pattern of a data set, which admits plain names, and its content is handed on with that path. Links,
devices, names that lead outside, duplicates, and more bytes or members than expected are refused.
"""

from __future__ import annotations

import gzip
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

from cnncodes.errors import SourceError
from cnncodes.text import first_line, shortened

MOST_MEMBERS = 100_000
_MOST_DIRECTORY = 1 << 24  # bytes of a zip archive's table of contents, which is read whole
_END = b"PK\5\6"  # the record at the end of a zip archive, which names the size of that table
_END_LENGTH, _COMMENT_LENGTH, _SIZE_AT = 22, 1 << 16, 12
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DAMAGES = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError),
    *(NotImplementedError, RuntimeError, ValueError, OverflowError),
)


class _RefusedError(Exception):
    """The archive holds what must not be unpacked."""


class _Budget:
    """The number of bytes that an archive may still unpack to.

    Parameters
    ----------
    most : int
        That number at the beginning.
    """

    def __init__(self, most: int) -> None:
        self._left = self._most = most

    def read(self, stream: IO[bytes], size: int = -1) -> bytes:
        """Return the next bytes of a stream, at most `size` if that is not negative."""
        beyond = self._left + 1
        content = stream.read(beyond if size < 0 else min(size, beyond))
        self._left -= len(content)
        if self._left < 0:
            raise _RefusedError(f"it unpacks to more than {self._most / 1e6:,.0f} MB")
        return content


class _Bounded:
    """A stream that is read within a budget.

    Parameters
    ----------
    stream : file object
        The stream.
    budget : _Budget
        The budget.
    """

    def __init__(self, stream: IO[bytes], budget: _Budget) -> None:
        self._stream, self._budget = stream, budget

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, at most `size` if that is not negative."""
        return self._budget.read(self._stream, size)


def read_archive(
    archive: Path, members: re.Pattern[str], *, inner: str = "", most: int
) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of each wanted member of an archive, in its order.

    Parameters
    ----------
    archive : Path
        A zip or tar.gz file.
    members : re.Pattern
        Matches the names of wanted members; its group ``path`` is what is yielded.
    inner : str
        Name of a tar.gz archive inside a zip archive which is read in its place.
    most : int
        Number of bytes that the archive may unpack to.

    Raises
    ------
    SourceError
        The file cannot be read, is of another kind, damaged, or holds what must not be unpacked.
    """
    seen: set[str] = set()
    try:
        with archive.open("rb") as file:
            for path, content in _members(file, members, inner, _Budget(most)):
                if path in seen:
                    raise _RefusedError(f"it holds {path} twice")
                seen.add(path)
                yield path, content
    except _RefusedError as error:
        raise SourceError(f"{archive}: is not unpacked ({error}); download it again") from error
    except _DAMAGES as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise SourceError(
            f"{archive}: cannot be unpacked ({shortened(str(reason), 100)}); download it again"
        ) from error


def _members(
    file: IO[bytes], members: re.Pattern[str], inner: str, budget: _Budget
) -> Iterator[tuple[str, bytes]]:
    signature = file.read(2)
    file.seek(0)
    if signature == b"PK":
        yield from _members_of_zip(file, members, inner, budget)
    elif signature == b"\x1f\x8b":
        yield from _members_of_tar(file, members, budget)
    else:
        raise _RefusedError("it is neither a zip nor a tar.gz archive")


def _members_of_zip(
    file: IO[bytes], members: re.Pattern[str], inner: str, budget: _Budget
) -> Iterator[tuple[str, bytes]]:
    _check_directory(file)
    with zipfile.ZipFile(file) as archive:
        _check_number(len(archive.infolist()))
        for info in archive.infolist():
            name, kind = info.filename, stat.S_IFMT(info.external_attr >> 16)
            _check_name(name)
            is_inner = bool(inner) and PurePosixPath(name).name == inner
            match = members.fullmatch(name)
            if match is None and not is_inner:
                continue
            if kind not in (0, stat.S_IFREG):
                raise _RefusedError(f"{_quoted(name)} in it is no regular file")
            if info.flag_bits & 1:
                raise _RefusedError(f"{_quoted(name)} in it is encrypted")
            if info.compress_type not in _ZIP_METHODS:
                raise _RefusedError(f"{_quoted(name)} in it is compressed in an unusual way")
            with archive.open(info) as opened:
                if is_inner:
                    yield from _members_of_tar(opened, members, budget)
                elif match is not None:
                    yield match["path"], budget.read(opened)


def _members_of_tar(
    file: IO[bytes], members: re.Pattern[str], budget: _Budget
) -> Iterator[tuple[str, bytes]]:
    n_members = 0
    with gzip.GzipFile(fileobj=file) as unzipped:
        # Also what is skipped is read, so that all of it counts.
        bounded = cast("IO[bytes]", _Bounded(cast("IO[bytes]", unzipped), budget))
        with tarfile.open(fileobj=bounded, mode="r|") as archive:
            while (member := archive.next()) is not None:
                n_members += 1
                _check_number(n_members)
                _check_name(member.name)
                match = members.fullmatch(member.name)
                if match is None:
                    continue
                opened = archive.extractfile(member) if _is_plain(member) else None
                if opened is None:
                    raise _RefusedError(f"{_quoted(member.name)} in it is no regular file")
                yield match["path"], opened.read()


def _is_plain(member: tarfile.TarInfo) -> bool:
    """Return whether a member has its content in it: no link, device, hole or folder."""
    return member.isreg() and not member.issparse()


def _check_directory(file: IO[bytes]) -> None:
    """Refuse a zip archive whose table of contents takes much memory."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _END_LENGTH - _COMMENT_LENGTH))
    tail = file.read()
    at = tail.rfind(_END)
    if at >= 0 and len(tail) - at >= _END_LENGTH:
        (n_bytes,) = struct.unpack_from("<I", tail, at + _SIZE_AT)
        if n_bytes > _MOST_DIRECTORY:
            raise _RefusedError(f"it has more than {MOST_MEMBERS:,} files")
    file.seek(0)


def _check_number(n_members: int) -> None:
    if n_members > MOST_MEMBERS:
        raise _RefusedError(f"it has more than {MOST_MEMBERS:,} files")


def _check_name(name: str) -> None:
    """Refuse an archive that names a file outside the folder it is unpacked to."""
    parts = name.replace("\\", "/").split("/")
    if (not parts[0] and len(parts) > 1) or ".." in parts or parts[0].endswith(":"):
        raise _RefusedError(f"{_quoted(name)} in it leads outside its folder")


def _quoted(name: str) -> str:
    return shortened(repr(name), 80)
