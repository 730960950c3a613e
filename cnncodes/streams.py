"""Standard streams as people have them: closed, full, without an encoding for every letter.

The command line calls `prepare` before anything else. From then on standard output and error
exist, writing a letter that the encoding lacks gives a replacement character, a standard error
that cannot be written is passed over, and a standard output that cannot be written ends the
command as any other output that cannot.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, TextIO, cast

from cnncodes.errors import OutputError

if TYPE_CHECKING:
    from typing_extensions import Buffer


def prepare() -> None:
    """Make the standard streams fit to be used; a second call changes nothing."""
    _open_closed_descriptors()
    if sys.stdin is None:  # as under pythonw
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123
    sys.stdout = _prepared(sys.stdout, sys.__stdout__)
    sys.stderr = _prepared(sys.stderr, sys.__stderr__)


def write_as_utf8() -> None:
    """Let standard output be UTF-8, as programs expect of CSV and JSON; a terminal stays."""
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8")


class _StandardFile(io.FileIO):
    """A standard stream that meets its first failed write, and none after it."""

    _failed = False

    def write(self, content: Buffer, /) -> int:
        """Write, unless a write has failed before or there is nothing to write, as click tries."""
        n_bytes = memoryview(content).nbytes
        if self._failed or n_bytes == 0:
            return n_bytes
        try:
            return super().write(content)
        except OSError as error:
            if self.fileno() == 2:  # nobody can be told
                self._failed = True
                return n_bytes
            if isinstance(error, BrokenPipeError):  # the reader has seen enough, click ends quietly
                raise
            self._failed = True
            raise OutputError(f"standard output: cannot be written ({error.strerror})") from error


def _open_closed_descriptors() -> None:
    """Fill 0, 1 and 2, or a result could be opened as one of them and get messages in it."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)


def _prepared(stream: TextIO | None, original: TextIO | None) -> TextIO:
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    if stream.errors in ("strict", "surrogateescape"):
        stream.reconfigure(errors="replace")
    raw = getattr(stream.buffer, "raw", stream.buffer)  # python -u has no buffer between
    if stream is not original or type(raw) is not io.FileIO:  # a test's, or a Windows console
        return stream
    stream.flush()
    file = _StandardFile(raw.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        cast("io.BufferedWriter", file) if stream.buffer is raw else io.BufferedWriter(file),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
