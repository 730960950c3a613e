"""The package where little is installed: what small machines and small programs have.

Each environment is a new one, made as in the README. What runs in it has no network.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cnncodes import Backbone
from cnncodes.export.backbones import BACKBONES
from cnncodes.export.export import DIRECT_PARITY, parity_images
from tests.export.keras_process import run_with_keras, save_reference

ROOT = Path(__file__).parent.parent.parent
CONSTRAINTS = str(ROOT / "constraints.txt")
MEGABYTE = 1_000_000


class Environment:
    """A virtual environment of its own."""

    def __init__(self, folder: Path, python: str = sys.executable) -> None:
        self.folder = folder
        subprocess.run([python, "-m", "venv", str(folder)], check=True)

    def install(self, *arguments: str) -> None:
        self._run(
            [str(self.folder / "bin" / "pip"), "install", "--quiet", "-c", CONSTRAINTS, *arguments],
            cwd=ROOT,
        )

    def offline(self, *command: str, cwd: Path, **variables: str) -> str:
        """Run a program of this environment in a network namespace without a network."""
        program = str(self.folder / "bin" / command[0])  # or the command, if that is a path
        words = ["unshare", "--net", "--map-root-user", program, *command[1:]]
        return self._run(words, cwd=cwd, **variables)

    def freeze(self, program: Path, *options: str) -> Path:
        """Make a folder of a program with PyInstaller; return it."""
        tools = self.folder / "bin" / "pyinstaller"
        self._run([str(tools), "--log-level=ERROR", *options, program.name], cwd=program.parent)
        return program.parent / "dist" / program.stem

    def packages(self) -> set[str]:
        listed = self._run(
            [str(self.folder / "bin" / "pip"), "list", "--format=freeze"], cwd=self.folder
        )
        return {line.partition("==")[0].lower() for line in listed.splitlines()}

    def _run(self, command: list[str], cwd: Path, **variables: str) -> str:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment["PYINSTALLER_CONFIG_DIR"] = str(self.folder / "pyinstaller")
        environment |= variables
        done = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """What ``pip install .`` gives."""
    environment = Environment(tmp_path_factory.mktemp("base"))
    environment.install(".")
    return environment


@pytest.fixture(scope="module")
def minimal(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Only numpy, onnxruntime and Pillow beside the package."""
    environment = Environment(tmp_path_factory.mktemp("minimal"))
    environment.install("numpy", "onnxruntime", "pillow")
    environment.install("--no-deps", ".")
    return environment


def test_no_network_is_truly_none(base: Environment, tmp_path: Path) -> None:
    code = (
        "import socket\n"
        "try: socket.create_connection(('127.0.0.1', 9), timeout=1)\n"
        "except OSError as error: print(error.strerror)"
    )
    assert base.offline("python", "-c", code, cwd=tmp_path) == "Network is unreachable\n"


def test_base_installation_is_small_and_without_tensorflow(base: Environment) -> None:
    installed = base.packages()
    assert not installed & {"tensorflow", "keras", "tf2onnx", "matplotlib", "jinja2", "skl2onnx"}
    size = sum(path.stat().st_size for path in base.folder.rglob("*") if path.is_file())
    assert size < 450 * MEGABYTE


def test_chain_runs_without_tensorflow_and_network(
    base: Environment, small_backbone: Path, photos: Path, tmp_path: Path
) -> None:
    image = str(next(photos.rglob("*.png")))
    backbone = str(small_backbone)
    for command in (
        ["extract", backbone, str(photos), "-o", "codes.h5"],
        ["train", "codes.h5", "-o", "head.onnx"],
        ["train", "codes.h5", "-o", "sgd.onnx", "--method", "sgd"],
        ["evaluate", "head.onnx", "codes.h5"],
        ["evaluate", "head.onnx", str(photos), "--backbone", backbone, "--json"],
        ["curve", "codes.h5", "--per-class", "2,4", "--seeds", "2"],
        ["bundle", backbone, "head.onnx", "-o", "app.onnx"],
        ["info", "app.onnx"],
    ):
        base.offline("cnncodes", *command, cwd=tmp_path)
    printed = base.offline("cnncodes", "predict", "app.onnx", image, cwd=tmp_path)
    assert image in printed


EXPORT = """
import json, sys
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

# A namespace without a network has no loopback either, until it is set up.
import fcntl, socket, struct
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as up:
    fcntl.ioctl(up, 0x8914, struct.pack("16sh", b"lo", 0x1 | 0x40))

from cnncodes.cli import main
from cnncodes.export.backbones import BACKBONES

name, folder = sys.argv[1:]
server = ThreadingHTTPServer(
    ("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=folder)
)
Thread(target=server.serve_forever, daemon=True).start()
BACKBONES[name] = replace(
    BACKBONES[name],
    weights_address=f"http://127.0.0.1:{server.server_port}",
    weights_bytes=Path(folder, BACKBONES[name].weights_file).stat().st_size,
    weights_checksum="",
)
main(["export", name, "-o", f"{name}.onnx", "--no-winograd", "--json"])
"""


@pytest.mark.parametrize("name", BACKBONES)
def test_network_of_the_table_without_tensorflow(
    name: str, base: Environment, tmp_path: Path
) -> None:
    """From a file such as Keras publishes, on a server of ours; the codes are Keras's."""
    images = parity_images(224)
    done = run_with_keras(save_reference, name, images, tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "notop.h5").rename(tmp_path / BACKBONES[name].weights_file)
    printed = json.loads(
        base.offline("python", "-c", EXPORT, name, str(tmp_path), cwd=tmp_path, KERAS_HOME="keras")
    )
    assert (printed["weights"], printed["converter"]) == ("imagenet", "direct")
    assert printed["parity"] == DIRECT_PARITY[False]
    assert printed["parity_images"].endswith("in the tests of this release, not with this file")
    assert "tensorflow" not in printed["created_with"]
    codes = Backbone(tmp_path / f"{name}.onnx").extract(images)
    expected = np.load(tmp_path / "trained.float64.npy")
    assert np.abs(codes - expected).max() <= DIRECT_PARITY[False] * np.abs(expected).max()


def test_tf2onnx_that_is_not_installed_names_the_extra(base: Environment, tmp_path: Path) -> None:
    done = subprocess.run(
        [base.folder / "bin" / "cnncodes", "export", "vgg16", "--converter", "tf2onnx"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "Error: --converter tf2onnx needs tensorflow and tf2onnx; install the extra: "
        "pip install 'cnncodes[export]', or use --converter direct\n"
    )


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (["evaluate", "head.onnx", "codes.h5", "--report", "report"], "report"),
        (["curve", "codes.h5", "--plot", "curve.png"], "report"),
        (["train", "codes.h5", "-o", "knn.onnx", "--estimator", "knn"], "estimators"),
        (["serve", "app.onnx"], "serve"),
    ],
)
def test_what_needs_an_extra_names_it_and_leaves_nothing(
    base: Environment, codes: Path, head: Path, tmp_path: Path, command: list[str], extra: str
) -> None:
    for path in (codes, head):
        (tmp_path / path.name).symlink_to(path)
    before = set(tmp_path.iterdir())
    done = subprocess.run(
        [base.folder / "bin" / "cnncodes", *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert f"pip install 'cnncodes[{extra}]'" in done.stderr.splitlines()[-1]
    assert set(tmp_path.iterdir()) == before


def test_classifier_needs_three_packages_only(
    minimal: Environment, app: Path, photos: Path, tmp_path: Path
) -> None:
    assert not minimal.packages() & {"click", "h5py", "onnx", "rich", "scikit-learn", "scipy"}
    image = next(photos.rglob("*.png"))
    code = (
        "import sys\nfrom cnncodes import Classifier\n"
        "best, *_ = Classifier(sys.argv[1]).predict(sys.argv[2])\nprint(best.label)"
    )
    printed = minimal.offline("python", "-c", code, str(app), str(image), cwd=tmp_path)
    assert printed.strip() in map(str, range(10))


def test_frozen_program_takes_what_it_uses_and_no_more(
    base: Environment, app: Path, codes: Path, photos: Path, tmp_path: Path
) -> None:
    """A program that classifies has no use for scikit-learn, one that reads codes has for h5py."""
    base.install("pyinstaller")
    image = next(photos.rglob("*.png"))
    unused = {"click", "h5py", "onnx", "scipy", "sklearn", "tensorflow"}
    small = tmp_path / "small.py"
    small.write_text(
        "import sys\nfrom cnncodes import Classifier\n"
        "print(Classifier(sys.argv[1]).predict(sys.argv[2])[0].label)\n"
    )
    folder = base.freeze(small)
    assert not unused & {path.name for path in (folder / "_internal").iterdir()}
    printed = base.offline(str(folder / "small"), str(app), str(image), cwd=tmp_path)
    assert printed.strip() in map(str, range(10))

    reader = tmp_path / "reader.py"
    reader.write_text(
        "import sys\nimport cnncodes\n"
        "with cnncodes.CodeStore.open(sys.argv[1]) as store: print(len(store))\n"
    )
    # Left out by hand, which saves half the time: what matters here is h5py.
    folder = base.freeze(reader, "--exclude-module=sklearn", "--exclude-module=scipy")
    assert base.offline(str(folder / "reader"), str(codes), cwd=tmp_path) == "120\n"
