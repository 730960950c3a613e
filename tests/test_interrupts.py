"""Ctrl-C and SIGTERM at any moment of the program: a line or nothing, never a traceback."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fuzz.files import Chain

LINE = "Error: interrupted\n"
BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
# Each gets the number of a signal, and the words of a command.
START = """
import os, sys, time
number = int(sys.argv.pop(1))
def interrupt(*_):
    os.kill(os.getpid(), number)
    time.sleep(0.001)
"""
MAIN = """
from cnncodes.__main__ import main
main()
"""
WHILE_IMPORTING = """
class Finder:
    def find_spec(self, name, *_):
        if name == "cnncodes.errors":
            interrupt()
sys.meta_path.insert(0, Finder())
"""
AT_THE_END = """
import atexit
atexit.register(interrupt)
"""
IGNORED = """
import signal
signal.signal(number, signal.SIG_IGN)
"""
IN_A_CALLBACK = """
import click, weakref
class Referenced: pass
def lose():
    referenced = Referenced()
    reference = weakref.ref(referenced, interrupt)
    del referenced
    time.sleep(60)
from cnncodes import cli
cli.main.add_command(click.Command("lose", callback=lose))
"""
IN_A_LOOP = """
import click, threading
def work():
    try:
        time.sleep(60)
    finally:
        for _ in range(50):
            interrupt()
        print("cleaned up", flush=True)
        threading.Thread(target=time.sleep, args=(60,)).start()
threading.Timer(0.2, interrupt).start()
from cnncodes import cli
cli.main.add_command(click.Command("work", callback=work))
"""
BEFORE_A_BLOCK = """
import click, pathlib
from cnncodes.output import replacing
opened = replacing(pathlib.Path(sys.argv.pop(1), "result"), overwrite=False)
def enter():
    opened.__enter__()
    interrupt()
from cnncodes import cli
cli.main.add_command(click.Command("enter", callback=enter))
"""
WHILE_AN_EXTENSION_IS_MADE = """
import click
class Finder:
    def find_spec(self, name, *_):
        if name == "numpy.exceptions":  # which numpy's first extension imports
            interrupt()
            interrupt()
def load():
    sys.meta_path.insert(0, Finder())
    try:
        import numpy
        time.sleep(60)
    finally:
        print(any(name.endswith("._multiarray_umath") for name in sys.modules), flush=True)
from cnncodes import cli
cli.main.add_command(click.Command("load", callback=load))
"""
READY = """
from cnncodes.interrupts import end_at_once_when_interrupted
end_at_once_when_interrupted()
os.write(1, b"ready")
"""


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain.make(tmp_path_factory.mktemp("chain"))


def run(code: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own."""
    command = [sys.executable, "-c", START + code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@BOTH
@pytest.mark.parametrize("words", ["--version", "info none", "--debug info none"])
def test_while_the_program_is_imported(number: int, words: str) -> None:
    done = run(WHILE_IMPORTING + MAIN, number, *words.split())
    assert (done.returncode, done.stdout, done.stderr) == (1, "", LINE)


@BOTH
@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_without_a_standard_error(number: int, redirection: str) -> None:
    command = ["bash", "-c", f'exec "$@" {redirection}', "bash", sys.executable, "-c"]
    command += [START + WHILE_IMPORTING + MAIN, str(int(number)), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


@BOTH
def test_when_the_work_is_done(number: int, chain: Chain) -> None:
    done = run(AT_THE_END + MAIN, number, "info", chain.head, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("}\n")


@BOTH
def test_when_the_work_has_failed(number: int, tmp_path: Path) -> None:
    done = run(AT_THE_END + MAIN, number, "info", tmp_path / "none")
    (failure,) = done.stderr.splitlines(keepends=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert failure.startswith(f"Error: {tmp_path / 'none'}: ")


@BOTH
def test_signal_that_is_ignored_stays_ignored(number: int, chain: Chain) -> None:
    """As in a background job of a shell, or under nohup."""
    done = run(IGNORED + WHILE_IMPORTING + AT_THE_END + MAIN, number, "info", chain.head)
    assert (done.returncode, done.stderr) == (0, "")
    assert "a head" in done.stdout


@BOTH
@pytest.mark.parametrize("debug", [(), ("--debug",)])
def test_exception_that_a_callback_loses_comes_again(number: int, debug: tuple[str]) -> None:
    done = run(IN_A_CALLBACK + MAIN, number, *debug, "lose")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == ("\nAborted!\n" if debug else LINE)


@BOTH
def test_demo_goes_on_where_it_was(number: int, tmp_path: Path) -> None:
    """Interrupted inside the command that its first step runs."""
    code = WHILE_IMPORTING.replace("cnncodes.errors", "cnncodes.export.export") + MAIN
    folder = tmp_path / "demo"
    line = f"Error: interrupted; {folder} keeps what is done, and the same command goes on "
    times = []
    for _ in range(2):
        done = run(code, number, "demo", folder)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == f"{line}from there"
        assert "Aborted" not in done.stderr
        times.append([path.stat().st_mtime_ns for path in sorted(folder.rglob("*.png"))])
    assert len(times[0]) == 600
    assert times[0] == times[1]


@BOTH
def test_other_exceptions_of_callbacks_are_shown_as_ever(number: int) -> None:
    code = IN_A_CALLBACK.replace("interrupt)", "lambda _: 1 / 0)").replace("time.sleep(60)", "")
    done = run(code + MAIN, number, "lose")
    assert done.returncode == 0
    assert "ZeroDivisionError" in done.stderr


@BOTH
@pytest.mark.parametrize("debug", [(), ("--debug",)])
def test_signals_that_follow_disturb_nothing(number: int, debug: tuple[str]) -> None:
    """And a thread that still works is not waited for."""
    done = run(IN_A_LOOP + MAIN, number, *debug, "work")
    assert (done.returncode, done.stdout) == (1, "cleaned up\n")
    assert done.stderr == ("\nAborted!\n" if debug else LINE)


@BOTH
def test_no_temporary_file_is_left(number: int, tmp_path: Path) -> None:
    """Even where an interrupt comes between a context manager and its block."""
    done = run(BEFORE_A_BLOCK + MAIN, number, tmp_path, "enter")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", LINE)
    assert list(tmp_path.iterdir()) == []


@BOTH
def test_extension_module_is_made_before_it_is_interrupted(number: int) -> None:
    done = run(WHILE_AN_EXTENSION_IS_MADE + MAIN, number, "load")
    assert (done.returncode, done.stdout, done.stderr) == (1, "True\n", LINE)


@BOTH
def test_package_of_others_leaves_signals_alone(number: int) -> None:
    code = """
import signal
before = signal.getsignal(number), sys.unraisablehook
import cnncodes
from cnncodes.cli import main
cnncodes.Classifier, cnncodes.Backbone
main(["--version"], standalone_mode=False)
main(["export", "--list"], standalone_mode=False)
assert (signal.getsignal(number), sys.unraisablehook) == before
"""
    done = run(code, number)
    assert (done.returncode, done.stderr) == (0, "")


@BOTH
def test_at_any_moment(number: int, chain: Chain) -> None:
    """From the first statement of the program on, to the last of the interpreter."""
    command = [sys.executable, "-c", START + READY + MAIN, str(int(number)), "info", chain.codes]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    for delay in range(0, 600, 20):
        with subprocess.Popen(command, **pipes) as child:
            assert child.stdout.read(5) == b"ready"
            time.sleep(delay / 1000)
            child.send_signal(number)
            _, errors = child.communicate()
        assert child.returncode in (0, 1)
        assert errors.decode() == (LINE if child.returncode == 1 else "")
