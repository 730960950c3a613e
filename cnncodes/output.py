"""Writing results so that nothing is half-written and nothing that was there is lost."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cnncodes.errors import OutputError

OPEN_ELSEWHERE = "is open in another program; close it there, and run the command again"
# Windows's numbers: what it answers where a file that is to be replaced is open, and elsewhere.
_ACCESS_DENIED, _SHARING_VIOLATION, _LOCK_VIOLATION = 5, 32, 33


def check_output(path: Path, *, overwrite: bool, inputs: Iterable[str | Path] = ()) -> None:
    """Say now, before hours of work, that a result could not be written.

    Parameters
    ----------
    path : Path
        The file that is to be written.
    overwrite : bool
        Whether a file that stands there may be replaced.
    inputs : iterable of str or Path
        What the result is made from, which is never replaced.

    Raises
    ------
    OutputError
        The folder is missing or read-only, the path is a folder or an input, or a file stands
        there.
    """
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; name a file inside it")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: the folder {path.parent} does not exist; create it first")
    if path.exists() and any(Path(each).exists() and path.samefile(each) for each in inputs):
        raise OutputError(f"{path}: is what the result is made from; choose another name")
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: exists already; choose another name or pass --overwrite")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path}: the folder {path.parent} cannot be written to")


@contextmanager
def replacing(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a temporary sibling to write to; rename it to `path` when the block succeeds.

    A failure or an interrupt inside the block removes the temporary file and leaves whatever
    stood at `path` as it was.

    Parameters
    ----------
    path : Path
        Where the result goes.
    overwrite : bool
        Whether a file that stands there may be replaced.

    Yields
    ------
    Path
        An empty file in the same folder, so that the rename is atomic.

    Raises
    ------
    OutputError
        As `check_output`, or when the file system refuses the write.
    """
    check_output(path, overwrite=overwrite)
    # Named before it is there, so that an interrupt at any moment finds it to remove.
    temporary = path.with_name(f".cnncodes-{secrets.token_hex(8)}")
    try:
        temporary.touch(mode=0o600, exist_ok=False)
        yield temporary
        _allow_reading(temporary)
        _sync(temporary)
        temporary.replace(path)
        with suppress(OSError):  # not every system lets a folder be opened; it is renamed anyhow
            _sync(path.parent)
    except OSError as error:
        denied = getattr(error, "winerror", None) == _ACCESS_DENIED and os.access(path, os.W_OK)
        if denied or is_open_elsewhere(error):
            raise OutputError(f"{path}: {OPEN_ELSEWHERE}") from error
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def is_open_elsewhere(error: Exception) -> bool:
    """Tell whether a file is refused because another program has it open, or a lock on it."""
    return (
        isinstance(error, BlockingIOError)
        or getattr(error, "winerror", None) in (_SHARING_VIOLATION, _LOCK_VIOLATION)
        or f"GetLastError() = {_LOCK_VIOLATION}" in str(error)  # which is how HDF5 puts it
    )


def _sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    opened = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _allow_reading(path: Path) -> None:
    """Give the file the permissions a plain `open` would have; until now it was private."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)
