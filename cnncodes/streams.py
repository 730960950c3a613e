"""Standard streams that are closed, full or of an encoding that lacks characters.

The command line calls `prepare` first. Afterwards standard output and error exist, a character
that the encoding lacks is written as a replacement character, a failed write to standard error is
ignored, and a failed write to standard output ends the command as for any other output.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import TYPE_CHECKING, TextIO, cast

from cnncodes.errors import OutputError

if TYPE_CHECKING:
    from typing_extensions import Buffer


def prepare() -> None:
    """Make the standard streams usable; a second call changes nothing."""
    _open_closed_descriptors()
    if sys.stdin is None:  # as under pythonw
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123
    sys.stdout = _prepared(sys.stdout, sys.__stdout__)
    sys.stderr = _prepared(sys.stderr, sys.__stderr__)


def write_as_utf8() -> None:
    """Set standard output to UTF-8 for CSV and JSON, except on a terminal."""
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8")


@contextmanager
def open_silence() -> Iterator[None]:
    """Drop in the block what is written to standard error."""
    with open(os.devnull, "w", encoding="utf-8") as nothing, redirect_stderr(nothing):  # noqa: PTH123
        yield


class _StandardFile(io.FileIO):
    """A standard stream that reports its first failed write, and ignores later ones."""

    _failed = False

    def write(self, content: Buffer, /) -> int:
        """Write, unless an earlier write failed; click also writes nothing at all."""
        n_bytes = memoryview(content).nbytes
        if self._failed or n_bytes == 0:
            return n_bytes
        try:
            return super().write(content)
        except OSError as error:
            if self.fileno() == 2:  # there is nowhere to report it
                self._failed = True
                return n_bytes
            if isinstance(error, BrokenPipeError):  # the reader closed the pipe: click ends quietly
                raise
            self._failed = True
            raise OutputError(f"standard output: cannot be written ({error.strerror})") from error


def _open_closed_descriptors() -> None:
    """Open 0, 1 and 2, or an output file could become one of them and receive messages."""
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
