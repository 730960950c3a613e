"""What is published: an sdist and a wheel that are whole, on each Python that is supported."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from email import message_from_string
from pathlib import Path

import pytest

from tests.e2e.test_environments import Environment

ROOT = Path(__file__).parents[2]
# Each of a few seconds, and without TensorFlow.
QUICK = (
    "tests/test_text.py",
    "tests/test_parameters.py",
    "tests/images/test_sources.py",
    "tests/extract/test_convert.py",
    "tests/head/test_groups.py",
)
# In a folder of their own: on Python 3.10 pytest cleans up the shared one with a warning.
OPTIONS = ("-q", "-p", "no:cacheprovider", "--basetemp=temporary")
OTHER_PYTHONS = ("3.10", "3.13")  # the oldest and the newest that the classifiers name


@dataclass(frozen=True)
class Distribution:
    tools: Environment
    tracked: set[str]
    sdist: Path
    wheel: Path


def run(*command: object, cwd: Path, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Distribution:
    """Build both from what is tracked, as in a fresh clone."""
    folder = tmp_path_factory.mktemp("distribution")
    tracked = set(run("git", "ls-files", "-z", cwd=ROOT).split("\0")) - {""}
    for name in tracked:
        (folder / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "clone" / name)
    tools = Environment(folder / "tools")
    tools.install("build", "twine")
    python = tools.folder / "bin" / "python"
    run(python, "-m", "build", "--outdir", folder / "dist", cwd=folder / "clone")
    (sdist,), (wheel,) = ((folder / "dist").glob(each) for each in ("*.tar.gz", "*.whl"))
    return Distribution(tools, tracked, sdist, wheel)


@pytest.fixture(scope="module")
def unpacked(built: Distribution, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in the sdist."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(built.sdist) as archive:
        archive.extractall(folder, filter="data")
    (inside,) = folder.iterdir()
    return inside


def test_sdist_holds_every_file(built: Distribution, unpacked: Path) -> None:
    found = {str(each.relative_to(unpacked)) for each in unpacked.rglob("*") if each.is_file()}
    assert found == {*built.tracked, "PKG-INFO"}
    assert {"Makefile", "constraints.txt", "docs/python.md", "tests/helpers.py"} <= found
    assert {"examples/sort_photos.py", "examples/node/package.json"} <= found


def test_wheel_holds_the_package_and_nothing_else(built: Distribution) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        names = set(archive.namelist())
    package = {each for each in built.tracked if each.startswith("cnncodes/")}
    assert {each for each in names if ".dist-info/" not in each} == package


def test_index_accepts_both_and_shows_no_dead_link(built: Distribution) -> None:
    command = ("-m", "twine", "check", "--strict", built.sdist, built.wheel)
    run(built.tools.folder / "bin" / "python", *command, cwd=built.sdist.parent)
    with zipfile.ZipFile(built.wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith("/METADATA"))
        metadata = message_from_string(archive.read(name).decode())
    page = metadata.get_payload()
    assert page.startswith("# cnncodes\n")
    links = re.findall(r"\]\(([^)]*)\)", page)
    assert links
    assert all(link.startswith("https://") for link in links), links
    assert "*Export turns a Keras network into" in page  # of the picture its description
    versions = {
        each.rpartition(" ")[2]
        for each in metadata.get_all("Classifier")
        if re.search(r":: 3\.\d+$", each)
    }
    oldest = metadata["Requires-Python"].removeprefix(">=")
    assert {oldest, *OTHER_PYTHONS, "{}.{}".format(*sys.version_info)} <= versions


def test_tests_run_from_the_unpacked_sdist(unpacked: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    where = "import cnncodes; print(cnncodes.__file__)"
    command = (sys.executable, "-c", where)
    assert run(*command, cwd=unpacked, environment=environment).startswith(str(unpacked))
    command = (sys.executable, "-m", "pytest", *OPTIONS, *QUICK)
    assert " passed" in run(*command, cwd=unpacked, environment=environment)


def find_python(version: str) -> str | None:
    """Return an interpreter of this version, on the path or among those of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    installed = sorted((pyenv / "versions").glob(f"{version}.*/bin/python3"))
    for candidate in (*map(str, installed), f"python{version}"):
        try:
            subprocess.run([candidate, "-c", "import venv"], capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):  # a shim of pyenv may be for no version
            continue
        return candidate
    return None


@pytest.mark.parametrize("version", OTHER_PYTHONS)
def test_wheel_works_on_other_pythons(
    built: Distribution,
    unpacked: Path,
    small_backbone: Path,
    photos: Path,
    tmp_path: Path,
    version: str,
) -> None:
    """With the newest packages there are for it; constraints.txt is for one Python only."""
    python = find_python(version)
    if python is None:
        pytest.skip(f"there is no Python {version} here; install one, such as by pyenv")
    environment = Environment(tmp_path / "environment", python=python)
    wheel = f"{built.wheel}[parquet]"
    environment.install(wheel, "hypothesis", "pytest", "pytest-timeout")
    image = str(next(photos.rglob("*.png")))
    for command in (
        ["extract", str(small_backbone), str(photos), "-o", "codes.h5"],
        ["train", "codes.h5", "-o", "head.onnx"],
        ["bundle", str(small_backbone), "head.onnx", "-o", "app.onnx"],
        ["predict", "app.onnx", image],
        ["verify", "codes.h5", "--source", str(photos), "--backbone", str(small_backbone)],
    ):
        printed = environment.offline("cnncodes", *command, cwd=tmp_path)
        assert printed
    # The tests alone: what they import is the installed wheel.
    shutil.copytree(unpacked / "tests", tmp_path / "tests")
    shutil.copy(unpacked / "pyproject.toml", tmp_path)
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = (environment.folder / "bin" / "python", "-m", "pytest", *OPTIONS, *QUICK)
    assert " passed" in run(*command, cwd=tmp_path, environment=variables)


PROGRAM = """
from cnncodes import Classifier, CodeStore

with CodeStore.open("codes.h5") as store:
    store.labels.mean()
print(Classifier("app.onnx").predict("new.jpg")[0].label.no_such_attribute)
"""


@pytest.mark.parametrize("editable", [False, True])
def test_mypy_reads_the_types(built: Distribution, tmp_path: Path, editable: bool) -> None:
    environment = Environment(tmp_path / "environment")
    environment.install("--no-deps", *(["-e", str(ROOT)] if editable else [str(built.wheel)]))
    (tmp_path / "program.py").write_text(PROGRAM)
    command = ["-m", "mypy", "--python-executable", environment.folder / "bin" / "python"]
    done = subprocess.run(
        [sys.executable, *map(str, command), "program.py"],
        cwd=tmp_path,
        env={
            key: each for key, each in os.environ.items() if key not in ("PYTHONPATH", "MYPYPATH")
        },
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stdout
    assert lines[0] == (
        'program.py:6: error: "str" has no attribute "no_such_attribute"  [attr-defined]'
    )
