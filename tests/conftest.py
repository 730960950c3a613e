"""What the tests share: real exported networks, images, and each file of the chain made once.

An export compares its codes with Keras's where TensorFlow is installed, and runs in processes of
its own: what the rest of the package does is tested without TensorFlow ever being imported.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import Result
from hypothesis import settings

from cnncodes.demo import write_digits
from tests.export.keras_process import KerasProcess, command
from tests.helpers import run_command

if TYPE_CHECKING:
    from playwright.sync_api import Browser

Run = Callable[..., Result]
SMALL_BACKBONE = ("inception_v3", "--input-size", "75", "--pool", "avg")

settings.register_profile("cnncodes", deadline=None)  # durations depend on the machine
settings.load_profile("cnncodes")


# A run in the background ignores Ctrl-C, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def run() -> Run:
    """Run a command in this process, as ``run_command``."""
    return run_command


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium, without a window; absent, it is a failure and not a skip."""
    from playwright.sync_api import sync_playwright  # not where wheels are tried

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path)
        yield started
        started.close()


class Exports:
    """Networks with random weights, each exported once a session."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._begun: dict[Path, KerasProcess] = {}

    def begin(self, name: str, *options: str) -> Path:
        """Have a network exported with these options while other things are done."""
        path = self._folder / f"{name}{''.join(options)}.onnx"
        if path not in self._begun:
            words = ("export", name, "--weights", "random", *options, "-o", str(path))
            self._begun[path] = KerasProcess(command, *words, log=path)
        return path

    def get(self, name: str, *options: str) -> Path:
        """Return the file of a network exported with these options."""
        path = self.begin(name, *options)
        done = self._begun[path].result()
        assert done.returncode == 0, done.stderr
        # TensorFlow's chatter must not reach the terminal: one line of cnncodes, no other.
        assert done.stderr.count("\n") == 1, done.stderr
        return path


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return Exports(tmp_path_factory.mktemp("exports"))


@pytest.fixture(scope="session")
def small_backbone(exports: Exports) -> Path:
    """InceptionV3 on 75 × 75 pixels, pooled: the real graph, quick enough for every test."""
    return exports.get(*SMALL_BACKBONE)


@pytest.fixture(scope="session", autouse=True)
def _small_backbone_begun(request: pytest.FixtureRequest, exports: Exports) -> None:
    """Most tests want it, and those that come first leave a processor idle."""
    if any("small_backbone" in each.fixturenames for each in request.session.items):
        exports.begin(*SMALL_BACKBONE)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 handwritten digits in ten class folders."""
    folder = tmp_path_factory.mktemp("photos") / "digits"
    write_digits(folder, 120)
    return folder


@pytest.fixture(scope="session")
def codes(tmp_path_factory: pytest.TempPathFactory, small_backbone: Path, photos: Path) -> Path:
    """Codes of `photos` by `small_backbone`."""
    path = tmp_path_factory.mktemp("codes") / "codes.h5"
    run_command("extract", small_backbone, photos, "-o", path)
    return path


@pytest.fixture(scope="session")
def head(tmp_path_factory: pytest.TempPathFactory, codes: Path) -> Path:
    """A logistic head on `codes`."""
    path = tmp_path_factory.mktemp("head") / "head.onnx"
    run_command("train", codes, "-o", path, "--estimator", "logistic")
    return path


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory, small_backbone: Path, head: Path) -> Path:
    """`small_backbone` and `head` in one file."""
    path = tmp_path_factory.mktemp("app") / "app.onnx"
    run_command("bundle", small_backbone, head, "-o", path)
    return path
