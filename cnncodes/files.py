"""A look at a path before it is opened: reading a FIFO or a device may hang or never end."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from cnncodes.errors import FileFormatError

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
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


def check_regular(path: Path, remedy: str = "") -> os.stat_result:
    """Refuse a path that is not a regular file, without opening it; links are followed.

    Parameters
    ----------
    path : Path
        The file that is to be read.
    remedy : str
        What to do where there is no such file, added to the error.

    Returns
    -------
    os.stat_result
        The status of the file.

    Raises
    ------
    FileFormatError
        It is absent, cannot be looked at, or is a folder, FIFO, socket or device.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileFormatError(f"{path}: no such file{remedy and '; '}{remedy}") from error
    except (OSError, ValueError) as error:  # a null byte is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise FileFormatError(f"{path}: cannot be read ({reason})") from error
    if not stat.S_ISREG(status.st_mode):
        raise FileFormatError(
            f"{path}: is {kind_of(status.st_mode)}, not a regular file; name a regular file"
        )
    return status


def is_hdf5(path: Path) -> bool:
    """Tell whether a regular file begins as HDF5 does, at byte 0 or behind a user block.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    bool
        Whether the signature stands at byte 0, 512, 1024, 2048 and so on.

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
