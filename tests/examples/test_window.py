"""The window as one frozen program with an app inside, on a screen of its own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cnncodes import Classifier
from tests.e2e.test_environments import MEGABYTE, Environment
from tests.examples.conftest import EXAMPLES, Golden, skip_without

PATIENCE = 120  # seconds; a busy machine takes some to unpack the program


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    """A screen without hardware."""
    for name in ("Xvfb", "xwininfo"):
        skip_without(name, there=shutil.which(name) is not None)
    reading, writing = os.pipe()
    command = ["Xvfb", "-displayfd", str(writing), "-screen", "0", "800x700x24"]
    with subprocess.Popen(command, pass_fds=[writing], stderr=subprocess.DEVNULL) as server:
        os.close(writing)
        with os.fdopen(reading) as numbers:
            yield f":{numbers.readline().strip()}"
        server.terminate()


@pytest.fixture(scope="module")
def program(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What PyInstaller makes by the command in the program's first lines."""
    skip_without("tkinter", there=importlib.util.find_spec("tkinter") is not None)
    folder = tmp_path_factory.mktemp("window")
    environment = Environment(folder / "environment")
    environment.install("numpy", "onnxruntime", "pillow", "pyinstaller")
    environment.install("--no-deps", ".")
    source = (EXAMPLES / "window.py").read_text("utf-8")
    (line,) = (each for each in source.splitlines() if each.startswith("pyinstaller "))
    assert line.startswith("pyinstaller --onefile ")
    (folder / "build").mkdir()
    shutil.copy(EXAMPLES / "window.py", folder / "build")
    shutil.copy(golden.app, folder / "build" / "app.onnx")
    frozen = environment.freeze(folder / "build" / "window.py", *line.split()[1:-1])
    alone = folder / "alone"
    alone.mkdir()
    return Path(shutil.move(frozen, alone))


@contextmanager
def started(program: Path, display: str, photo: Path) -> Iterator[subprocess.Popen[str]]:
    """Start the program with nothing in its environment but the screen."""
    command = ["env", "-i", f"DISPLAY={display}", str(program), str(photo)]
    with subprocess.Popen(
        command, cwd=program.parent, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def title_of(process: subprocess.Popen[str], display: str) -> str:
    """Return the title of the only window, once the program has set it."""
    for _ in range(PATIENCE * 5):
        command = ["xwininfo", "-display", display, "-root", "-tree"]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        titles = [line.split('"')[1] for line in shown.splitlines() if '("tk" "Tk")' in line]
        if titles and titles != ["Which photo?"]:
            return titles[0]
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.2)
    raise AssertionError("there is no window")


def test_program_alone_shows_the_class(program: Path, display: str, golden: Golden) -> None:
    assert list(program.parent.iterdir()) == [program]
    size = program.stat().st_size - golden.app.stat().st_size
    assert size < 65 * MEGABYTE  # docs/apps.md has the figure
    photo = next(iter(golden.images))
    best = Classifier(golden.app).predict(photo)[0]
    with started(program, display, photo) as process:
        assert title_of(process, display) == f"{best.label} {best.probability:.1%}: {photo.name}"


def test_what_is_no_photo_is_said_so(program: Path, display: str, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("no photo")
    with started(program, display, tmp_path / "letter.txt") as process:
        assert title_of(process, display) == "No photo"
