"""How long work tells how far it is: a bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """Count work on standard error, with rate and time left.

    Parameters
    ----------
    description : str
        What is being done, in one word.
    unit : str
        What is counted, in the plural.

    Notes
    -----
    Use as a context manager. Nothing is shown before `begin` is called, since the total is
    often known only after the input has been looked at.
    """

    def __init__(self, description: str, unit: str) -> None:
        self.description = description
        self.unit = unit
        self._bar: RichProgress | None = None
        self._total = self._done = self._done_before = 0
        self._started = self._last_line = 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, total: int, done: int = 0) -> None:
        """Start counting towards `total`; `done` of it was done by an earlier run."""
        self._total, self._done, self._done_before = total, done, done
        self._started = self._last_line = time.monotonic()
        if sys.stderr.isatty():
            self._bar = _terminal_bar(self.description, self.unit, total, done)

    def advance(self, amount: int) -> None:
        """Count `amount` more as done."""
        self._done += amount
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done, rate=self.rate)
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            left = (self._total - self._done) / self.rate if self.rate else float("inf")
            sys.stderr.write(
                f"{self.description}: {self._done} of {self._total} {self.unit}, "
                f"{self.rate:.1f} a second, {left:.0f} s left\n"
            )

    @property
    def rate(self) -> float:
        """Units a second since `begin`."""
        elapsed = time.monotonic() - self._started
        return (self._done - self._done_before) / elapsed if elapsed > 0 else 0.0


def _terminal_bar(description: str, unit: str, total: int, done: int) -> RichProgress:
    """Start a bar on standard error; rich is imported only where there is a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{unit}, {{task.fields[rate]:.1f}} a second,"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=Console(stderr=True),
        transient=True,
    )
    bar.add_task(description, total=total, completed=done, rate=0.0)
    bar.start()
    return bar
