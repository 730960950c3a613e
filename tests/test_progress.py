"""Progress: a bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from cnncodes import progress
from cnncodes.progress import Progress


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def work(clock: Clock, *, total: int, seconds_each: float, done: int = 0) -> None:
    with Progress("extract", "images") as bar:
        bar.begin(total, done)
        for _ in range(total - done):
            clock.now += seconds_each
            bar.advance(1)


def test_short_work_prints_nothing(clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
    work(clock, total=100, seconds_each=0.25)
    assert capfd.readouterr() == ("", "")


def test_writes_a_line_every_half_minute(clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
    work(clock, total=200, seconds_each=0.5)
    assert capfd.readouterr().err.splitlines() == [
        "extract: 60 of 200 images, 2.0 per second, 1:10 left",
        "extract: 120 of 200 images, 2.0 per second, 0:40 left",
        "extract: 180 of 200 images, 2.0 per second, 0:10 left",
    ]


def test_names_the_number_of_workers(clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
    with Progress("extract", "images") as bar:
        bar.begin(200)
        bar.workers = 4
        clock.now += 30
        bar.advance(60)
    line = "extract: 60 of 200 images, 2.0 per second on 4 workers, 1:10 left\n"
    assert capfd.readouterr().err == line


def test_counts_only_this_run_in_the_rate(clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
    work(clock, total=200, done=100, seconds_each=0.5)
    assert capfd.readouterr().err == "extract: 160 of 200 images, 2.0 per second, 0:20 left\n"


def test_leaves_what_took_no_work_out_of_the_rate(
    clock: Clock, capfd: pytest.CaptureFixture[str]
) -> None:
    with Progress("extract", "images") as bar:
        bar.begin(200)
        for _ in range(60):
            clock.now += 0.5
            bar.skip(1)
            bar.advance(1)
    assert capfd.readouterr().err == "extract: 120 of 200 images, 2.0 per second, 0:40 left\n"


def test_can_write_a_line_each_time(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with Progress("extract", "images") as bar:
        bar.begin(3)
        for _ in range(3):
            bar.advance(1)
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        f"extract: {done} of 3 images" for done in (1, 2, 3)
    ]


def test_next_stage_counts_anew_and_something_else(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with Progress("train", "images") as bar:
        bar.begin(2)
        bar.advance(2)
        bar.begin(5, unit="fits")
        bar.advance(1)
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["train: 2 of 2 images", "train: 1 of 5 fits"]


@pytest.mark.parametrize(("total", "done", "amount"), [(2, 0, 1), (2, 2, 0), (0, 0, 0)])
def test_survives_work_that_takes_no_time(
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    total: int,
    done: int,
    amount: int,
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with Progress("extract", "images") as bar:
        bar.begin(total, done)
        bar.advance(amount)
    assert capfd.readouterr().err.startswith(f"extract: {done + amount} of {total} images, ")


ERASE = "\r\x1b[2K"


class Terminal:
    """A pseudo-terminal without a user."""

    def __init__(self, width: int) -> None:
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
        self.shown = b""
        # Its buffer is small: a write waits until the other end is read.
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self) -> None:
        try:
            while part := os.read(self.master, 65536):
                self.shown += part
        except OSError:  # Linux's error for a closed other end
            pass

    def states(self) -> list[str]:
        """All states of its one line, in order, until every writer has closed it."""
        os.close(self.slave)
        self.reader.join()
        os.close(self.master)
        return self.shown.decode().split(ERASE)


@contextmanager
def standard_error_on(terminal: Terminal) -> Iterator[None]:
    with (
        os.fdopen(os.dup(terminal.slave), "w", encoding="utf-8") as stderr,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "stderr", stderr)
        patch.delenv("COLUMNS", raising=False)  # it would stand above the terminal's own width
        yield


@pytest.mark.parametrize("width", [80, 0])  # a terminal may not know its width
def test_shows_a_bar_on_a_terminal(clock: Clock, width: int) -> None:
    terminal = Terminal(width)
    with standard_error_on(terminal):
        work(clock, total=4, seconds_each=0.5)
    start, *bars, end = terminal.states()
    assert bars == [
        "━━━━━━────────────────── extract: 1 of 4 images, 2.0 per second, 0:02 left",
        "━━━━━━━━━━━━──────────── extract: 2 of 4 images, 2.0 per second, 0:01 left",
        "━━━━━━━━━━━━━━━━━━────── extract: 3 of 4 images, 2.0 per second, 0:00 left",
        "━━━━━━━━━━━━━━━━━━━━━━━━ extract: 4 of 4 images, 2.0 per second, 0:00 left",
    ]
    assert start == end == ""


def test_redraws_the_bar_no_more_often_than_is_seen(clock: Clock) -> None:
    terminal = Terminal(width=80)
    with standard_error_on(terminal):
        work(clock, total=1024, seconds_each=1 / 64)
    assert 100 <= len(terminal.states()) <= 162  # sixteen seconds


def test_never_wraps_the_bar(clock: Clock) -> None:
    terminal = Terminal(width=40)
    with standard_error_on(terminal):
        work(clock, total=4, seconds_each=0.5)
    states = terminal.states()
    assert len(states) == 6
    assert max(map(len, states)) < 40


def test_bar_is_shorter_where_the_numbers_need_the_room(clock: Clock) -> None:
    terminal = Terminal(width=62)
    with standard_error_on(terminal), Progress("quantize", "images") as bar:
        bar.begin(1000)
        clock.now += 50
        bar.advance(500)
    numbers = "quantize: 500 of 1000 images, 10.0 per second, 0:50 left"
    assert terminal.states()[-2] == f"━━── {numbers}"
    assert len(f"━━── {numbers}") == 61


def test_leaves_no_bar_behind_a_failure(clock: Clock) -> None:
    def fail() -> None:
        with Progress("extract", "images") as bar:
            bar.begin(10, 4)
            clock.now += 1
            bar.advance(1)
            raise KeyboardInterrupt

    terminal = Terminal(width=80)
    with standard_error_on(terminal), pytest.raises(KeyboardInterrupt):
        fail()
    assert "5 of 10" in terminal.states()[-2]


def test_prints_a_line_of_its_own(clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
    with Progress("train", "images") as bar:
        bar.print_line("before it begins")
        bar.begin(100)
        clock.now += 30
        bar.advance(60)
        bar.print_line("at once, whenever the last line was")
        bar.print_line("and again")
    assert capfd.readouterr() == (
        "",
        "before it begins\n"
        "train: 60 of 100 images, 2.0 per second, 0:20 left\n"
        "at once, whenever the last line was\n"
        "and again\n",
    )


def test_prints_a_line_above_the_bar(clock: Clock) -> None:
    terminal = Terminal(width=80)
    with standard_error_on(terminal), Progress("train", "images") as bar:
        bar.begin(4)
        for line in ("one", "two"):
            clock.now += 0.5
            bar.advance(1)
            bar.print_line(line)
    start, first, one, second, two, end = terminal.states()
    assert first.endswith(" train: 1 of 4 images, 2.0 per second, 0:02 left")
    assert second.endswith(" train: 2 of 4 images, 2.0 per second, 0:01 left")
    # The bar is wiped away first, and the next one is drawn below the line.
    assert (one, two) == ("one\r\n", "two\r\n")
    assert start == end == ""


def test_bar_makes_room_for_other_output(clock: Clock) -> None:
    terminal = Terminal(width=80)
    with standard_error_on(terminal), Progress("predict", "images") as shown:
        shown.begin(4)
        for line in ("one", "two"):
            shown.clear()
            sys.stderr.write(f"{line}\n")
            shown.advance(1)  # drawn again at once, though no time has gone by
    start, one, first, two, second, end = terminal.states()
    assert (one, two) == ("one\r\n", "two\r\n")
    assert " predict: 1 of 4 images, " in first
    assert " predict: 2 of 4 images, " in second
    assert start == end == ""


def test_predict_shows_a_bar_for_several_images_only(app: Path, photos: Path) -> None:
    for images, has_bar in ((photos / "3", True), (next(photos.rglob("*.png")), False)):
        terminal = Terminal(width=100)
        with subprocess.Popen(
            [sys.executable, "-m", "cnncodes", "predict", app, images],
            stdout=subprocess.PIPE,
            stderr=terminal.slave,
        ) as command:
            start, *states = terminal.states()
            lines = command.communicate()[0].decode().splitlines()
        assert command.returncode == 0
        assert start == ""
        bars = [state for state in states if state]
        assert bool(bars) == has_bar
        assert all(re.search(r"predict: \d+ of \d+ images, .* left$", bar) for bar in bars)
        assert all(re.fullmatch(r"\S+  \d +\d+\.\d%", line) for line in lines)


def test_command_keeps_its_bar_apart_from_its_result(
    small_backbone: Path, photos: Path, tmp_path: Path
) -> None:
    terminal = Terminal(width=100)
    arguments = ("extract", small_backbone, photos, "-o", tmp_path / "codes.h5")
    with subprocess.Popen(
        [sys.executable, "-m", "cnncodes", *arguments],
        stdout=subprocess.PIPE,
        stderr=terminal.slave,
    ) as command:
        start, *bars, end = terminal.states()
        result = command.communicate()[0].decode()
    assert command.returncode == 0
    assert bars
    classes = ", ".join(
        f"{folder.name} {len(list(folder.iterdir()))}" for folder in sorted(photos.iterdir())
    )
    for bar in bars:
        assert re.fullmatch(
            r"[━─]{24} extract: \d+ of 120 images, \d+\.\d per second, \d:\d\d left", bar
        )
    assert start == f"{photos}: 120 image files, 10 classes: {classes}\r\n"
    assert end == ""
    assert result.count("\n") == 2
    assert "120 images, 10 classes" in result
    assert "\x1b" not in result
