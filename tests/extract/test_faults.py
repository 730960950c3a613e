"""A disk that fails: one line reports it, results are kept, and the next run ends as any other.

A small library, preloaded, lets calls on certain files fail with EIO. So none of our code is
replaced: the interpreter and HDF5 meet the error where a disk would give it.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.helpers import names_in, write_backbone

COMPILER = shutil.which("cc") or shutil.which("gcc")
# As `python -m cnncodes`, but the system is asked after each batch to write to the disk.
CAREFUL = """
from cnncodes.cli import main
from cnncodes.extract import journal
from tests.helpers import names_in, write_backbone
journal.SECONDS_BETWEEN_CHECKPOINTS = 0
main(prog_name="cnncodes")
"""
Faulty = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="libraries are preloaded otherwise there"),
    pytest.mark.skipif(COMPILER is None, reason="needs a C compiler, such as gcc"),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("faults") / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run(
        [str(COMPILER), "-shared", "-fPIC", "-Wall", "-Werror", source, "-o", path, "-ldl"],
        check=True,
    )
    return path


@pytest.fixture
def faulty(library: Path, backbone: Path, photos: Path, output: Path) -> Faulty:
    """Extract on a disk that fails: which calls, on files of which name, after how many."""

    def extract(call: str, name: str, after: int, *options: str) -> subprocess.CompletedProcess:
        faults = {"FAULT_CALL": call, "FAULT_NAME": name, "FAULT_AFTER": str(after)}
        words = ("extract", backbone, photos, "-o", output, "--threads", "1", *options)
        return run_with(library, faults, *words)

    return extract


def run_with(
    library: Path, faults: dict[str, str], *words: object
) -> subprocess.CompletedProcess[str]:
    """Run a command in a process in which these calls fail."""
    return subprocess.run(
        [sys.executable, "-c", CAREFUL, *map(str, words)],
        env={**os.environ, **faults, "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    return write_backbone(tmp_path / "mean.onnx")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "results").mkdir()
    return tmp_path / "results" / "codes.h5"


@pytest.fixture
def whole(run: Run, backbone: Path, photos: Path, tmp_path: Path) -> bytes:
    """What the codes file is without a fault."""
    run("extract", backbone, photos, "-o", tmp_path / "whole.h5")
    return (tmp_path / "whole.h5").read_bytes()


def assert_one_line(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 1, done.stderr
    listed, error = done.stderr.splitlines()  # what is in the source, and the failure
    assert "120 image files, 10 classes: " in listed
    assert error.startswith("Error: ")
    assert "Input/output error" in done.stderr
    assert "--debug" not in done.stderr  # reported on purpose, not by accident


@pytest.mark.parametrize(
    ("call", "name", "after", "n_kept"),
    [
        ("write", ".partial", 0, 0),
        ("write", ".partial", 1, 0),
        ("write", ".partial", 8, 7),  # the header comes first
        ("fsync", ".partial", 0, 0),
        ("fsync", ".partial", 8, 8),
        ("read", ".partial", 9, 120),  # when it becomes the codes file
        ("write", "/.cnncodes-", 0, 120),
        ("write", "/.cnncodes-", 3, 120),
        ("write", "/.cnncodes-", 99, 120),
        ("fsync", "/.cnncodes-", 0, 120),
    ],
)
def test_disk_that_fails_loses_nothing(
    run: Run,
    faulty: Faulty,
    backbone: Path,
    photos: Path,
    output: Path,
    whole: bytes,
    call: str,
    name: str,
    after: int,
    n_kept: int,
) -> None:
    assert_one_line(faulty(call, name, after))
    assert names_in(output.parent) == (["codes.h5.partial"] if n_kept else [])
    printed = run("extract", backbone, photos, "-o", output).output
    match = re.search(r"went on after (\d+) images", printed)
    assert (int(match[1]) if match else 0) == n_kept
    assert output.read_bytes() == whole
    assert names_in(output.parent) == ["codes.h5"]


def test_journal_that_cannot_be_read_is_not_started_anew(
    run: Run, faulty: Faulty, backbone: Path, photos: Path, output: Path, whole: bytes
) -> None:
    assert_one_line(faulty("write", ".partial", 61))
    kept = output.with_name("codes.h5.partial").read_bytes()
    for after in (0, 2, 30):
        assert_one_line(faulty("read", ".partial", after))
        assert output.with_name("codes.h5.partial").read_bytes() == kept
    assert "went on after 60 images" in run("extract", backbone, photos, "-o", output).output
    assert output.read_bytes() == whole


def test_image_that_cannot_be_read_is_skipped_or_ends_it(
    run: Run, faulty: Faulty, backbone: Path, photos: Path, output: Path, whole: bytes
) -> None:
    image = sorted(photos.rglob("*.png"))[70].relative_to(photos)
    reason = f"{image}: cannot be read: Input/output error"
    ended = faulty("read", str(image), 0, "--on-error", "fail")
    assert_one_line(ended)
    assert ended.stderr.splitlines()[1:] == [
        f"Error: {reason}; mend or remove it, or skip it with --on-error skip"
    ]
    arguments = ("extract", backbone, photos, "-o", output)
    assert "went on after 70 images" in run(*arguments).output
    assert output.read_bytes() == whole
    output.unlink()
    skipped = faulty("read", str(image), 0)
    assert (skipped.returncode, skipped.stderr.count("\n")) == (0, 1)
    assert f"  1 image skipped (cnncodes info lists all):\n    {reason}\n" in skipped.stdout
    assert (
        "kept the codes of 119 images from the file as it was before"
        in run(*arguments, "--update").output
    )
    assert output.read_bytes() == whole


@pytest.mark.parametrize("error", ["ENOLCK", "EOPNOTSUPP", "ENOSYS", "EINVAL"])
def test_disk_without_file_locks_can_be_written(
    library: Path, backbone: Path, photos: Path, output: Path, whole: bytes, error: str
) -> None:
    """Such as NFS without its lock service, SMB, and some of FUSE."""
    done = run_with(library, without_locks(error), "extract", backbone, photos, "-o", output)
    assert done.returncode == 0, done.stderr
    _, line = done.stderr.splitlines()  # first what is in the source
    assert line.startswith(f"Warning: {output}.partial: this disk has no file locks (")
    assert output.read_bytes() == whole
    assert names_in(output.parent) == ["codes.h5"]


def test_disk_without_file_locks_can_be_read(
    run: Run, library: Path, backbone: Path, photos: Path, tmp_path: Path
) -> None:
    codes, head = tmp_path / "codes.h5", tmp_path / "head.onnx"
    run("extract", backbone, photos, "-o", codes)
    for words in (
        ("info", codes),
        ("train", codes, "-o", head, "--C", "1"),
        ("evaluate", head, codes),
        ("verify", codes, "--source", photos),
        ("extract", backbone, photos, "-o", codes, "--update"),
    ):
        done = run_with(library, without_locks("ENOLCK"), *words)
        assert done.returncode == 0, done.stderr
        assert ("Warning" in done.stderr) == (words[0] == "extract")
        assert "Error" not in done.stderr


def without_locks(error: str) -> dict[str, str]:
    number = getattr(errno, error)
    return {
        "FAULT_CALL": "flock",
        "FAULT_NAME": "",
        "FAULT_AFTER": "0",
        "FAULT_ERROR": str(number),
    }
