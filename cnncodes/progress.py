"""Progress of long work: a bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import math
import os
import sys
import time
from contextlib import suppress
from threading import Lock
from types import TracebackType

from cnncodes.text import counted

SECONDS_BETWEEN_LINES = 30.0
SECONDS_BETWEEN_REDRAWS = 0.1
BAR_WIDTH = 24
_ERASE_LINE = "\r\x1b[2K"


class Progress:
    """Count work on standard error, with rate and time left.

    Parameters
    ----------
    description : str
        The work, in one word.
    unit : str
        The unit of the count, in the plural.

    Attributes
    ----------
    workers : int
        How many workers of a cluster take part; 0 without one.

    Notes
    -----
    Use as a context manager. Nothing is shown before `begin`: the total is often known only
    after the input has been read.
    """

    def __init__(self, description: str, unit: str) -> None:
        self.description = description
        self.unit = unit
        self.workers = 0
        self._on_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._lock = Lock()
        self._total = self._done = self._done_before = 0
        self._started = self._last_shown = 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._on_terminal:
            self._write(_ERASE_LINE)

    def begin(self, total: int, done: int = 0, unit: str | None = None) -> None:
        """Start counting towards `total`; `done` of it, from an earlier run, is not in the rate.

        Each stage of the work calls this; `unit` may change.
        """
        self.unit = unit or self.unit
        self._total, self._done, self._done_before = total, done, done
        self._started = self._last_shown = time.monotonic()

    def advance(self, amount: int) -> None:
        """Count `amount` more as done; thread-safe."""
        with self._lock:
            self._advance(amount)

    def skip(self, amount: int) -> None:
        """Count `amount` as done, but not in the rate: it took no work. Any thread may."""
        with self._lock:
            self._done += amount
            self._done_before += amount

    def _advance(self, amount: int) -> None:
        self._done += amount
        now = time.monotonic()
        pause = SECONDS_BETWEEN_REDRAWS if self._on_terminal else SECONDS_BETWEEN_LINES
        if now - self._last_shown < pause:
            return
        self._last_shown = now
        if self._on_terminal:
            state = self._state(now)
            room = _columns() - 1
            width = max(0, min(BAR_WIDTH, room - 1 - len(state)))  # the numbers come first
            filled = width * self._done // max(self._total, 1)
            line = ("━" * filled + "─" * (width - filled) + " ").lstrip(" ") + state
            self._write(_ERASE_LINE + line[:room])
        else:
            self._write(f"{self._state(now)}\n")

    def clear(self) -> None:
        """Erase the bar before other output; the next `advance` draws it again at once."""
        if self._on_terminal:
            self._write(_ERASE_LINE)
            self._last_shown = -math.inf

    def print_line(self, line: str) -> None:
        """Write a line of its own, above the bar where there is one."""
        self._write((_ERASE_LINE if self._on_terminal else "") + line + "\n")

    def _state(self, now: float) -> str:
        rate = (self._done - self._done_before) / max(now - self._started, 1e-9)
        minutes, seconds = divmod(round((self._total - self._done) / rate) if rate else 0, 60)
        workers = f" on {counted(self.workers, 'worker')}" if self.workers else ""
        return (
            f"{self.description}: {self._done} of {self._total} {self.unit}, "
            f"{rate:.1f} per second{workers}, {minutes}:{seconds:02} left"
        )

    def _write(self, text: str) -> None:
        if sys.stderr is None:  # as under pythonw
            return
        with suppress(OSError):  # a closed terminal or a full disk must not end the work
            sys.stderr.write(text)
            sys.stderr.flush()


class NoProgress(Progress):
    """The progress of a library call to which none is passed: nothing is written."""

    def __init__(self) -> None:
        super().__init__("", "")
        self._on_terminal = False

    def _write(self, text: str) -> None:
        pass


def _columns() -> int:
    """Return the width of the terminal, 80 columns where it is unknown."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except OSError:  # it was closed meanwhile
        return 80
