"""Results are written to a temporary file and renamed: never half-written, nothing lost."""

from __future__ import annotations

import atexit
import os
import secrets
import stat
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

from cnncodes.errors import FileLockWarning, OutputError
from cnncodes.files import exists, is_folder, kind_of

OPEN_ELSEWHERE = "is open in another program; close it there, and run the command again"
# Windows's error codes for a file that is open elsewhere, or locked.
_ACCESS_DENIED, _SHARING_VIOLATION, _LOCK_VIOLATION = 5, 32, 33
# Against a link or a FIFO that replaces the path between its check and its opening; not on Windows.
_NO_LINK_OR_FIFO = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

_temporary: set[Path] = set()  # files of `replacing`

# Endings of each format, the first of which errors name; a table of `convert` has its own.
MODEL, CODES, RESULT, TABLE = (".onnx",), (".h5", ".hdf5"), (".json",), (".csv",)
FOLDER = ("",)  # has none
_CONVERTED = (".csv", ".tab", ".npz", ".parquet")
# A file of another format must not be called so; any other ending is the user's own affair.
_ENDINGS = frozenset(
    [
        *(*MODEL, *CODES, *RESULT, *_CONVERTED, ".keras", ".npy", ".tsv", ".xlsx", ".html", ".htm"),
        *(".svg", ".png", ".jpg", ".jpeg", ".pdf", ".zip", ".pkl", ".joblib", ".pt", ".pth"),
    ]
)


def check_output(
    path: Path,
    *,
    overwrite: bool,
    inputs: Iterable[str | Path] = (),
    endings: Sequence[str] = (),
) -> None:
    """Check before hours of work that a result can be written.

    Parameters
    ----------
    path : Path
        The file to write; of a symbolic link, its target.
    overwrite : bool
        Whether an existing file may be replaced; only a regular file ever is.
    inputs : iterable of str or Path
        What the result is made from, which is never replaced, whatever its name.
    endings : sequence of str
        Those of the result's format; another format's is refused. Empty for any ending.

    Raises
    ------
    OutputError
        The folder is missing or read-only, the path leads to a folder, device, FIFO, socket,
        input or the file that standard output or standard error goes to, a file exists, or the
        ending is that of another format.
    """
    status = _status(path)
    if status is not None and stat.S_ISDIR(status.st_mode):
        raise OutputError(f"{path}: is a folder; name a file inside it")
    if status is not None and not stat.S_ISREG(status.st_mode):
        raise OutputError(
            f"{path}: is {kind_of(status.st_mode)}, which is never replaced; name a regular file "
            "or a new one"
        )
    folder = _target(path).parent
    if not is_folder(folder):
        standing = next((each for each in (folder, *folder.parents) if exists(each)), folder)
        if exists(standing) and not is_folder(standing):
            raise OutputError(f"{path}: {standing} is no folder; choose another name")
        raise OutputError(f"{path}: the folder {folder} does not exist; create it first")
    if status is not None and any(_is_same(status, each) for each in inputs):
        raise OutputError(f"{path}: is what the result is made from; choose another name")
    if status is not None and any(_is_stream(status, number) for number in (1, 2)):
        raise OutputError(
            f"{path}: is where standard output or standard error goes; choose another name"
        )
    check_ending(path, endings)
    if status is not None and not overwrite:
        raise OutputError(f"{path}: exists already; choose another name or pass overwrite=True")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{path}: the folder {folder} cannot be written to")


def check_folder(
    folder: Path,
    names: Iterable[str] = (),
    *,
    purpose: str,
    overwrite: bool,
    inputs: Iterable[str | Path] = (),
    endings: Sequence[str] = (),
) -> None:
    """Check before hours of work that files can be written into a folder, new or existing.

    Parameters
    ----------
    folder : Path
        The folder.
    names : iterable of str
        The files to write.
    purpose : str
        What the folder is for, with its article.
    overwrite, inputs
        As for `check_output`, of each file.
    endings
        As for `check_output`, of a new folder.

    Raises
    ------
    OutputError
        The path leads to something else than a folder, or to an input, or as `check_output`.
    """
    if is_folder(folder):
        sources = list(inputs)
        status = _status(folder)
        if status is not None and any(_is_same(status, each) for each in sources):
            raise OutputError(
                f"{folder}: is what the result is made from; name another folder for {purpose}"
            )
        for name in names:
            check_output(folder / name, overwrite=overwrite, inputs=sources)
    elif exists(folder) or folder.is_symlink():  # one that leads nowhere
        raise OutputError(f"{folder}: is not a folder; name a folder for {purpose}")
    else:
        check_output(folder, overwrite=overwrite, endings=endings)


def check_ending(path: Path, endings: Sequence[str]) -> None:
    """Refuse a path whose ending is that of another format than the result has.

    Parameters
    ----------
    path : Path
        The file or folder to write.
    endings : sequence of str
        Those of the result's format; empty for any ending.

    Raises
    ------
    OutputError
        The ending is a known one, and none of `endings`.
    """
    suffix = path.suffix.lower()
    if not endings or suffix in endings or suffix not in _ENDINGS:
        return
    if endings == FOLDER:
        raise OutputError(
            f"{path}: a folder is written, not a {suffix} file; choose a name such as "
            f"{path.with_suffix('').name}"
        )
    another = path.with_suffix(endings[0]).name
    remedy = f"choose a name such as {another}"
    if endings == CODES and suffix in _CONVERTED:
        remedy += f", and make a {suffix} file of it by cnncodes convert"
    raise OutputError(f"{path}: a {endings[0]} file is written, not a {suffix} file; {remedy}")


def check_unfinished(path: Path) -> None:
    """Refuse anything but a regular file at the path of unfinished work.

    A symbolic link is refused too: the user has not named this path.

    Raises
    ------
    OutputError
        It is a link, folder, FIFO, socket or device, or cannot be looked at.
    """
    status = _status(path, follow_links=False)
    if status is not None and not stat.S_ISREG(status.st_mode):
        raise foreign_object(path, kind_of(status.st_mode))


def open_unfinished(path: Path, *, mode: int = 0o600, remedy: str = "wait for it") -> BinaryIO:
    """Open and lock the file of unfinished work, to append; create it if it is absent.

    The lock is released when the file is closed or the process ends, however it ends.

    Parameters
    ----------
    path : Path
        The file.
    mode : int
        Permissions of a new file, before the umask. It is private by default, since what it
        becomes may replace a private file.
    remedy : str
        What to do where another process has the lock.

    Returns
    -------
    file object
        The file, unbuffered.

    Raises
    ------
    OutputError
        As `check_unfinished`, or another process has the lock.
    OSError
        It cannot be opened.
    """
    while True:
        check_unfinished(path)
        opener = partial(_open_plain, mode=mode)
        file = open(path, "a+b", buffering=0, opener=opener)  # noqa: SIM115
        try:
            try:
                _lock(file)
            except BlockingIOError:
                raise
            except OSError as error:  # as on NFS without its lock service, SMB and some of FUSE
                warnings.warn(
                    f"{path}: this disk has no file locks ({error.strerror or error}); take care "
                    "that no other process writes the same file",
                    FileLockWarning,
                    stacklevel=2,
                )
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except BlockingIOError as error:
            file.close()
            raise OutputError(f"{path}: another process is writing it; {remedy}") from error
        except FileNotFoundError:
            pass
        except BaseException:
            file.close()
            raise
        file.close()  # the process that held the lock has removed the file: try again


@contextmanager
def locked(path: Path, remedy: str) -> Iterator[None]:
    """Keep other processes out of the block, by a file that is there as long as it runs.

    Where the process is killed the file stays, and is locked no more.

    Parameters
    ----------
    path : Path
        The file.
    remedy : str
        What to do where another process is in the block.

    Raises
    ------
    OutputError
        As `open_unfinished`, or the file cannot be written.
    """
    try:
        file = open_unfinished(path, mode=0o666, remedy=remedy)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error
    with file:
        try:
            yield
        finally:
            with suppress(OSError):  # Windows removes no open file
                path.unlink()


def foreign_object(path: Path, kind: str) -> OutputError:
    """Return the error for a foreign object at the path of unfinished work.

    Parameters
    ----------
    path : Path
        The path.
    kind : str
        What it is, with its article.
    """
    return OutputError(
        f"{path}: is {kind}, and unfinished work is kept under that name; move it away"
    )


@contextmanager
def replacing(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary file beside `path`; rename it to `path` when the block succeeds.

    A failure or an interrupt inside the block removes the temporary file and leaves `path` as it
    was. A symbolic link stays: its target is replaced. The new file gets the permission bits of
    the one it replaces and, where this process may set them, its owner and group.

    Parameters
    ----------
    path : Path
        Where the result goes.
    overwrite : bool
        Whether an existing file may be replaced.

    Yields
    ------
    Path
        An empty file in the same folder as the target, so that the rename is atomic.

    Raises
    ------
    OutputError
        As `check_output`, or when the file system refuses the write.
    """
    check_output(path, overwrite=overwrite)
    target = _target(path)
    # Named before it exists, so that an interrupt at any moment can remove it.
    temporary = target.with_name(f".cnncodes-{secrets.token_hex(8)}")
    _temporary.add(temporary)
    try:
        # A new file has the permissions that the umask leaves; one that replaces another is
        # private while it is written.
        replaced = _status(target)
        temporary.touch(mode=0o666 if replaced is None else 0o600, exist_ok=False)
        yield temporary
        _sync(temporary)
        if replaced is not None:
            _set_permissions(temporary, replaced)
        temporary.replace(target)
        with suppress(OSError):  # not every system lets a folder be opened; it is renamed anyhow
            _sync(target.parent)
    except OSError as error:
        denied = getattr(error, "winerror", None) == _ACCESS_DENIED and os.access(path, os.W_OK)
        if denied or is_open_elsewhere(error):
            raise OutputError(f"{path}: {OPEN_ELSEWHERE}") from error
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)
        _temporary.discard(temporary)


@contextmanager
def filled_folder(path: Path) -> Iterator[None]:
    """Create a folder for the block if it is absent; remove it again if it stays empty.

    Raises
    ------
    OutputError
        The file system refuses.
    """
    is_new = not path.exists()
    try:
        path.mkdir(exist_ok=True)
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be created ({error.strerror})") from error
    finally:
        if is_new:  # a folder with files in it stays
            with suppress(OSError):
                path.rmdir()


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`, which it replaces when the block succeeds.

    A failure or an interrupt inside the block removes it and leaves `path` as it was.

    Parameters
    ----------
    path : Path
        Where the folder goes; a folder there is replaced.

    Yields
    ------
    Path
        An empty folder on the same file system.

    Raises
    ------
    OutputError
        The file system refuses.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".cnncodes-", dir=path.absolute().parent) as name:
            folder = Path(name, "new")
            folder.mkdir()
            yield folder
            if exists(path):
                path.rename(Path(name, "old"))
            folder.rename(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error


def _remove_temporary(process: int = os.getpid()) -> None:
    """Remove what an interrupt between `replacing` and its block has left, at the end."""
    if os.getpid() == process:  # not in a fork of it
        for path in _temporary:
            with suppress(OSError):
                path.unlink(missing_ok=True)


atexit.register(_remove_temporary)


def is_open_elsewhere(error: Exception) -> bool:
    """Return whether an error means that another program has a file open or locked."""
    return (
        isinstance(error, BlockingIOError)
        or getattr(error, "winerror", None) in (_SHARING_VIOLATION, _LOCK_VIOLATION)
        or f"GetLastError() = {_LOCK_VIOLATION}" in str(error)  # HDF5's wording
    )


def _sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    opened = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _status(path: Path, *, follow_links: bool = True) -> os.stat_result | None:
    """Return the status of a file; None where there is none."""
    try:
        return path.stat() if follow_links else path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # a loop of links, a name too long, a null byte
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{path}: cannot be written ({reason})") from error


def _target(path: Path) -> Path:
    """Return the target of a symbolic link, existing or not; any other path unchanged."""
    return path.resolve() if path.is_symlink() else path


def _is_same(status: os.stat_result, other: str | Path) -> bool:
    """Whether another path leads to the same file, by links of either kind."""
    try:
        return os.path.samestat(status, Path(other).stat())
    except (OSError, ValueError):  # whoever reads it reports that
        return False


def _is_stream(status: os.stat_result, descriptor: int) -> bool:
    """Whether a file is the one that a standard stream of this process is redirected to."""
    try:
        return os.path.samestat(status, os.fstat(descriptor))
    except OSError:  # it is closed
        return False


def _set_permissions(path: Path, replaced: os.stat_result) -> None:
    """Set the permissions of a private file to those of the file that it replaces."""
    mode = stat.S_IMODE(replaced.st_mode) & 0o777
    if not _set_owner(path, replaced):
        # Another group must not get what the former one could do, unless all can.
        mode &= 0o707 | (mode & 0o007) << 3
    path.chmod(mode)


def _set_owner(path: Path, replaced: os.stat_result) -> bool:
    """Set owner and group as far as this process may; return whether the group is right."""
    status = path.stat()
    if (status.st_uid, status.st_gid) == (replaced.st_uid, replaced.st_gid):
        return True
    for owner in (replaced.st_uid, -1):  # -1 leaves it
        with suppress(OSError):
            os.chown(path, owner, replaced.st_gid)
            return True
    return status.st_gid == replaced.st_gid


def _open_plain(path: str, flags: int, *, mode: int) -> int:
    """Open a file without following a link or waiting for the other end of a FIFO."""
    return os.open(path, flags | _NO_LINK_OR_FIFO, mode)


if sys.platform == "win32":
    import msvcrt

    def _lock(file: BinaryIO) -> None:
        file.seek(2**31 - 1)  # beyond the end: locked bytes cannot be read by others
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError as error:  # raised where another process has the lock
            raise BlockingIOError from error

else:
    import fcntl

    def _lock(file: BinaryIO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
