"""A file from the network: checked, resumed where it broke off, never half there.

What has arrived is kept beside the file as ``NAME.part``, with the time of change that the server
states for the file: by it the server recognizes whether the rest still belongs to it.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from email.utils import formatdate, parsedate_to_datetime
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.parse import urljoin, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from cnncodes._version import __version__
from cnncodes.errors import CnncodesError, OutputError
from cnncodes.files import digest_of, exists, is_file, kind_of
from cnncodes.output import open_unfinished
from cnncodes.progress import NoProgress, Progress
from cnncodes.text import shortened

MEGABYTE = 1_000_000
SECONDS_OF_SILENCE = 30
_BLOCK = 1 << 18
_PARTIAL, _NOT_SATISFIABLE = 206, 416
_MOST_BYTES = 1 << 32  # of a file whose size is not known
_MOST_LETTERS = 100  # of what a server says


class _BrokenOffError(Exception):
    """The connection failed; what has arrived is in the ``.part`` file."""


class _OtherFileError(Exception):
    """The server has another file than the one that is described."""


def download(
    address: str,
    path: Path,
    *,
    size: int | None = None,
    checksum: str = "",
    remedy: str = "",
    disk_remedy: str = "",
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
    disk_remedy : str
        What to do where it cannot be written, added to the error.
    error : subclass of CnncodesError
        What to raise.
    progress : Progress, optional
        Counts megabytes.

    Raises
    ------
    CnncodesError
        Of the class `error`: the network or the server refuses, the disk does, or the file is
        not the one that `size` and `checksum` describe.
    OutputError
        Something other than a regular file is in the way, or another process downloads the file.
    KeyboardInterrupt
        With a message that names the ``.part`` file, from which the next call goes on.
    """
    part = path.with_name(f"{path.name}.part")
    remedy, disk_remedy = (f"; {each}" if each else "" for each in (remedy, disk_remedy))
    try:
        if exists(path) and not is_file(path):
            kind = kind_of(path.stat().st_mode)
            raise OutputError(f"{path}: is {kind}, and the download has that name; move it away")
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_unfinished(part, mode=0o666):
            try:
                _complete(address, part, size, checksum, progress or NoProgress())
            finally:
                if not _size_of(part):
                    with suppress(OSError):  # Windows removes no open file
                        part.unlink()
        part.replace(path)
    except _BrokenOffError as cause:
        kept = f"; the same command goes on after {n / 1e6:.1f} MB" if (n := _size_of(part)) else ""
        raise error(f"{address}: cannot be downloaded ({cause}){kept}{remedy}") from cause
    except _OtherFileError as cause:
        raise error(f"{address}: is not the expected file ({cause}){remedy}") from cause
    except OSError as cause:
        reason = cause.strerror or cause
        raise error(f"{part}: cannot be written ({reason}){disk_remedy}") from cause
    except KeyboardInterrupt:
        if not _size_of(part):
            raise
        raise KeyboardInterrupt(
            f"{part} holds what has arrived, and the same command continues it"
        ) from None


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


def _complete(
    address: str, part: Path, size: int | None, checksum: str, progress: Progress
) -> None:
    """Complete a ``.part`` file and check it; begin again where its beginning was not right."""
    while True:
        is_resumed = _size_of(part) > 0
        _fetch(address, part, size, progress)
        fault = fault_of(part, size, checksum)
        if not fault:
            return
        os.truncate(part, 0)
        if not is_resumed:
            raise _OtherFileError(fault)


def _fetch(address: str, part: Path, size: int | None, progress: Progress) -> None:
    """Fetch what a ``.part`` file lacks, in several connections where each brings some of it."""
    while True:
        before = _size_of(part)
        if size is not None and before == size:
            return
        try:
            _transfer(address, part, size, progress)
            return
        except _BrokenOffError:
            if _size_of(part) <= before:
                raise


def _transfer(address: str, part: Path, size: int | None, progress: Progress) -> None:
    """Append what a server sends of the rest, or write all that it sends.

    What has arrived earlier is kept until the answer's headers have been checked.
    """
    start = _size_of(part)
    try:
        response = _open(address, part, start)
    except HTTPError as cause:
        cause.close()
        # Longer than the file, or complete.
        if cause.code == _NOT_SATISFIABLE and start and (size is None or start > size):
            os.truncate(part, 0)
            return _transfer(address, part, size, progress)
        raise _BrokenOffError(_answer(cause.code, cause.reason)) from cause
    except (OSError, HTTPException, ValueError) as cause:
        raise _BrokenOffError(_reason(cause)) from cause
    with response:
        continues = response.status == _PARTIAL
        if not continues:
            start = 0
        most, total = size or _MOST_BYTES, _checked_total(response, start, size)
        progress.begin(total // MEGABYTE, start // MEGABYTE, unit="MB")
        try:
            with part.open("ab" if continues else "wb") as file:
                end = _copy(response, file, start, most, progress)
                if end > most:
                    file.truncate(start)
                    raise _OtherFileError(f"it has more than {most:,} bytes")
        finally:
            _set_time(part, response.headers)
    if end < total or not end:
        raise _BrokenOffError(f"the connection ended after {end:,} of {total:,} bytes")
    return None


def _open(address: str, part: Path, start: int) -> HTTPResponse:
    """Ask for a file, from byte `start` on if it is that of the ``.part`` file."""
    headers = {"User-Agent": f"cnncodes/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        headers["If-Range"] = formatdate(part.stat().st_mtime, usegmt=True)
    request = Request(address, headers=headers)
    response: HTTPResponse = build_opener(_Redirect).open(request, timeout=SECONDS_OF_SILENCE)
    return response


class _Redirect(HTTPRedirectHandler):
    """Goes on to http and https only; `urllib` would go on to ftp, and fail at what is no URL."""

    def http_error_302(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage
    ) -> HTTPResponse | None:
        """Return the answer of the other address."""
        location = headers.get("Location", "")
        try:
            scheme = urlsplit(urljoin(req.full_url, location)).scheme
        except ValueError:
            scheme = ""
        if scheme not in ("http", "https"):
            raise HTTPError(req.full_url, code, f"{msg}: {location}", headers, fp)
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _checked_total(response: HTTPResponse, start: int, size: int | None) -> int:
    """Return the size of the file by an answer's headers, 0 if unknown; refuse another file."""
    if response.headers.get_content_type() == "text/html":
        raise _BrokenOffError("a web page came in its place, as from a network that wants a login")
    stated = response.length
    if response.status == _PARTIAL:
        stated_range = response.headers.get("Content-Range", "")
        parts = re.fullmatch(r"bytes (\d+)-\d+/(\d{1,30}|\*)", stated_range)
        if parts is None or parts[1] != str(start):
            raise _BrokenOffError("the server sends another part than it was asked for")
        if parts[2] != "*":
            stated = int(parts[2])
        elif stated is not None:
            stated += start
    elif response.status != 200:
        raise _BrokenOffError(_answer(response.status, response.reason))
    if size is None and (stated or 0) > _MOST_BYTES:
        raise _OtherFileError(f"it has more than {_MOST_BYTES:,} bytes")
    if size is not None and stated not in (None, size):
        raise _OtherFileError(f"it has {shortened(f'{stated:,}', 30)} bytes, not {size:,}")
    return size or stated or 0


def _copy(response: IO[bytes], file: IO[bytes], start: int, most: int, progress: Progress) -> int:
    """Write a response to a file that has `start` bytes; return how many it has then.

    It ends soon after `most` bytes, since a response need not.
    """
    end = start
    while end <= most:
        try:
            block = response.read(_BLOCK)
        except (OSError, HTTPException, ValueError) as cause:
            raise _BrokenOffError(_reason(cause)) from cause
        if not block:
            break
        file.write(block)
        end += len(block)
        progress.advance(end // MEGABYTE - (end - len(block)) // MEGABYTE)
    return end


def _answer(code: int, reason: str) -> str:
    return f"the server answers {code} {_one_line(reason)}"


def _reason(cause: Exception) -> str:
    """Return why a connection failed; `URLError` has an error or a text as its reason."""
    reason = getattr(cause, "reason", cause)
    return _one_line(str(getattr(reason, "strerror", None) or reason) or type(cause).__name__)


def _one_line(text: str) -> str:
    return shortened(text.strip().partition("\n")[0], _MOST_LETTERS)


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
