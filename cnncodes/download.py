"""A file from the network: checked, resumed where it broke off, never half there.

What has arrived is kept beside the file as ``NAME.part``, with the time of change that the server
states for the file: by it the server recognizes whether the rest still belongs to it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from email.utils import formatdate, parsedate_to_datetime
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.request import Request, build_opener

from cnncodes._version import __version__
from cnncodes.errors import CnncodesError
from cnncodes.files import digest_of
from cnncodes.progress import NoProgress, Progress
from cnncodes.text import first_line

MEGABYTE = 1_000_000
SECONDS_OF_SILENCE = 30
_BLOCK = 1 << 18
_NOT_SATISFIABLE = 416


class _BrokenOffError(Exception):
    """The connection failed; what has arrived is in the ``.part`` file."""


def download(
    address: str,
    path: Path,
    *,
    size: int | None = None,
    checksum: str = "",
    remedy: str = "",
    error: type[CnncodesError] = CnncodesError,
    progress: Progress | None = None,
) -> None:
    """Download a file, by the proxy that the environment names.

    Parameters
    ----------
    address : str
        The URL.
    path : Path
        Where the file goes; the folder is made.
    size : int, optional
        Size of the file in bytes.
    checksum : str
        ``ALGORITHM:HEX`` with an algorithm of `hashlib`, or empty.
    remedy : str
        What to do where it cannot be downloaded, added to the error.
    error : subclass of CnncodesError
        What to raise.
    progress : Progress, optional
        Counts megabytes.

    Raises
    ------
    CnncodesError
        Of the class `error`: the network or the server refuses, the disk does, or the file is
        not the one that `size` and `checksum` describe.
    KeyboardInterrupt
        With a message that names the ``.part`` file, from which the next call goes on.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch(address, part, size, progress or NoProgress())
        fault = fault_of(part, size, checksum)
        if fault:
            part.unlink()
        else:
            part.replace(path)
    except _BrokenOffError as cause:
        kept = f"; {part} holds what has arrived, and is continued" if _size_of(part) else ""
        raise error(
            f"{address}: cannot be downloaded ({cause}){kept}{remedy and '; '}{remedy}"
        ) from cause
    except OSError as cause:
        raise error(f"{part}: cannot be written ({cause.strerror or cause})") from cause
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"{part} holds what has arrived, and the same command continues it"
        ) from None
    if fault:
        raise error(f"{address}: is not the expected file ({fault}){remedy and '; '}{remedy}")


def fault_of(path: Path, size: int | None, checksum: str) -> str:
    """Return in which way a file is not the one that is described; empty if it is.

    Parameters
    ----------
    path : Path
        The file.
    size, checksum
        As for `download`.

    Raises
    ------
    OSError
        It cannot be read.
    """
    n_bytes = path.stat().st_size
    if size is not None and n_bytes != size:
        return f"it has {n_bytes:,} bytes, not {size:,}"
    algorithm, _, wanted = checksum.partition(":")
    if wanted:
        # Against damage: the address is one of https, and the algorithm the publisher's choice.
        digest = digest_of(path, algorithm)
        if digest != wanted:
            return f"its {algorithm.upper()} is {digest}, not {wanted}"
    return ""


def _fetch(address: str, part: Path, size: int | None, progress: Progress) -> None:
    """Complete a ``.part`` file, in several connections where each brings some of it."""
    while True:
        before = _size_of(part)
        if size is not None and before == size:
            return
        try:
            _transfer(address, part, before, progress)
            return
        except _BrokenOffError:
            if _size_of(part) <= before:
                raise


def _transfer(address: str, part: Path, start: int, progress: Progress) -> None:
    """Append what a server sends from byte `start` on, or write all that it sends."""
    headers = {"User-Agent": f"cnncodes/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        headers["If-Range"] = formatdate(part.stat().st_mtime, usegmt=True)
    try:
        request = Request(address, headers=headers)
        response = build_opener().open(request, timeout=SECONDS_OF_SILENCE)
    except HTTPError as cause:
        cause.close()
        if cause.code == _NOT_SATISFIABLE and start:  # longer than the file, or complete
            part.unlink()
            return _transfer(address, part, 0, progress)
        raise _BrokenOffError(f"the server answers {cause.code} {cause.reason}") from cause
    except (OSError, HTTPException) as cause:
        reason = getattr(cause, "reason", cause)  # URLError's is an error or a text
        raise _BrokenOffError(str(reason) or type(cause).__name__) from cause
    with response:
        continues = response.status == 206 and _starts_at(response.headers, start)
        start = start if continues else 0
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else 0
        progress.begin(total // MEGABYTE, start // MEGABYTE, unit="MB")
        try:
            with part.open("ab" if continues else "wb") as file:
                end = _copy(response, file, start, progress)
        finally:
            _set_time(part, response.headers)
    if end < total:
        raise _BrokenOffError(f"the connection ended after {end:,} of {total:,} bytes")
    return None


def _copy(response: IO[bytes], file: IO[bytes], start: int, progress: Progress) -> int:
    """Write a response to a file that has `start` bytes; return how many it has then."""
    end = start
    while True:
        try:
            block = response.read(_BLOCK)
        except (OSError, HTTPException) as cause:
            raise _BrokenOffError(first_line(cause)) from cause
        if not block:
            return end
        file.write(block)
        end += len(block)
        progress.advance(end // MEGABYTE - (end - len(block)) // MEGABYTE)


def _starts_at(headers: HTTPMessage, start: int) -> bool:
    """Whether a partial response begins where it was asked to."""
    return headers.get("Content-Range", "").startswith(f"bytes {start}-")


def _set_time(path: Path, headers: HTTPMessage) -> None:
    """Give a file the time of change that the server states."""
    with suppress(OSError, TypeError, ValueError):  # there is none, or it is no time
        changed = parsedate_to_datetime(headers["Last-Modified"]).timestamp()
        os.utime(path, (changed, changed))


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
