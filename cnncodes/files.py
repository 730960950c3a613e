"""Checks of a path before it is opened: reading a FIFO or a device may never end.

Also the signatures and the SHA-256 of files.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

from cnncodes.errors import CnncodesError, FileFormatError

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
JOURNAL_SIGNATURE = b"cnncodes-j1\n"
_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISLNK, "a symbolic link"),
)


def kind_of(mode: int) -> str:
    """Name the kind of a file by its mode, as ``st_mode`` of `os.stat` has it.

    Parameters
    ----------
    mode : int
        The mode.

    Returns
    -------
    str
        The kind with its article, such as "a folder"; "a regular file" for any other.
    """
    return next((name for matches, name in _KINDS if matches(mode)), "a regular file")


def is_folder(path: Path) -> bool:
    """Return whether a path leads to a folder; False also where it cannot be looked at.

    `Path.is_dir` raises for a name that is too long or a folder that may not be searched. Whoever
    opens the path as a file reports that.
    """
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: Path) -> bool:
    """Return whether a path leads to a regular file; False also where it cannot be looked at."""
    return os.path.isfile(path)  # noqa: PTH113


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, hexadecimal, as `digest_of`."""
    return digest_of(path, "sha256")


def readable_sha256(path: Path) -> str:
    """Return the SHA-256 of a regular file, hexadecimal; empty where it cannot be read."""
    try:
        return sha256_of(path) if is_file(path) else ""
    except OSError:
        return ""


def digest_of(path: Path, algorithm: str) -> str:
    """Return a digest of a file's content, hexadecimal, reading a megabyte at a time.

    Parameters
    ----------
    path : Path
        The file.
    algorithm : str
        A name in `hashlib`. It identifies content and protects against damage, no more.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def exists(path: Path) -> bool:
    """Return whether a path exists; False also where it cannot be looked at."""
    return os.path.exists(path)  # noqa: PTH110


def is_url(location: str) -> bool:
    """Return whether a location is a URL of any scheme; a drive has one letter, and is none."""
    return re.match(r"[a-z][a-z0-9+.-]+://", location, re.IGNORECASE) is not None


def remedy_for_absent(path: Path) -> str:
    """Return what to do about an absent file whose path is a web address or a pattern; else "".

    Parameters
    ----------
    path : Path
        A path that does not exist. `pathlib` leaves one slash of the two in an address.
    """
    if re.match(r"(https?|ftp):[/\\]", str(path), re.IGNORECASE):
        return "this is a web address; download the file, and name it"
    if re.search(r"[*?[]", str(path)):
        return "a pattern stands for files only without quotes around it, and where some match it"
    return ""


def check_regular(
    path: Path, remedy: str = "", *, error: type[CnncodesError] = FileFormatError
) -> os.stat_result:
    """Refuse a path that is not a regular file, without opening it; links are followed.

    Parameters
    ----------
    path : Path
        The file that is to be read.
    remedy : str
        What to do about an absent file or a folder, added to the error.
    error : subclass of CnncodesError
        What to raise.

    Returns
    -------
    os.stat_result
        The status of the file.

    Raises
    ------
    CnncodesError
        Of the class `error`: the file is absent, cannot be looked at, or is a folder, FIFO,
        socket or device.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as cause:
        remedy = remedy_for_absent(path) or remedy
        raise error(f"{path}: no such file{remedy and '; '}{remedy}") from cause
    except (OSError, ValueError) as cause:  # a null byte is a ValueError
        reason = getattr(cause, "strerror", None) or cause
        raise error(f"{path}: cannot be read ({reason})") from cause
    if not stat.S_ISREG(status.st_mode):
        if stat.S_ISDIR(status.st_mode):
            remedy = remedy or "name a regular file"
            raise error(f"{path}: is a folder, not a regular file; {remedy}")
        # Not the remedy, which would read as the way to make a FIFO.
        raise error(f"{path}: is {kind_of(status.st_mode)}, but a regular file is needed")
    return status


def check_filled(
    path: Path, remedy: str = "", *, error: type[CnncodesError] = FileFormatError
) -> os.stat_result:
    """Refuse what `check_regular` refuses, and a file of size 0.

    Files of /proc have that size too, and reading some of them waits for ever.

    Parameters
    ----------
    path, remedy, error
        As for `check_regular`.

    Returns
    -------
    os.stat_result
        The status of the file.

    Raises
    ------
    CnncodesError
        As `check_regular`, or the file is empty.
    """
    status = check_regular(path, remedy, error=error)
    if not status.st_size:
        raise error(f"{path}: is an empty file{remedy and '; '}{remedy}")
    return status


def is_hdf5(path: Path) -> bool:
    """Return whether a regular file begins as HDF5 does, at byte 0 or after a user block.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    bool
        Whether the signature is at byte 0, 512, 1024, 2048 and so on.

    Raises
    ------
    FileFormatError
        As `check_regular`, or the file cannot be read.
    """
    size = check_regular(path).st_size
    start = 0
    try:
        with path.open("rb") as file:
            while start < size:
                file.seek(start)
                if file.read(len(HDF5_SIGNATURE)) == HDF5_SIGNATURE:
                    return True
                start = 2 * start or 512
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be read ({error.strerror})") from error
    return False


def is_journal(path: Path) -> bool:
    """Return whether a regular file holds the codes of an extraction that has not ended."""
    try:
        check_regular(path)
        with path.open("rb") as file:
            return file.read(len(JOURNAL_SIGNATURE)) == JOURNAL_SIGNATURE
    except (OSError, FileFormatError):
        return False
