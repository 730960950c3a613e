"""Standard output and error as people have them: in any encoding, closed, full, or not at all."""

from __future__ import annotations

import csv
import json
import os
import pty
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cnncodes.cli import main
from cnncodes.extract.store import CodeStore
from cnncodes.progress import Progress
from tests.fuzz.files import Chain
from tests.helpers import run_command

CLASSES = ("собака", "猫")
LACKING = ("ascii", "cp1251", "cp1252", "cp437", "utf-16")
# Under pythonw, and in a program without a console, Python has no standard streams at all.
WITHOUT_STREAMS = """
import sys
from cnncodes.cli import main
sys.stdin = sys.stdout = sys.stderr = sys.__stdin__ = sys.__stdout__ = sys.__stderr__ = None
main(prog_name="cnncodes")
"""


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """A file of each step, of two classes whose names no code page of the West has."""
    made = Chain.make(tmp_path_factory.mktemp("chain"))
    photos = made.photos.with_name("two")
    photos.mkdir()
    for number, name in enumerate(CLASSES):
        shutil.copytree(made.photos / str(number), photos / name)
    run_command("extract", made.backbone, photos, "-o", made.codes, "--overwrite")
    run_command("train", made.codes, "-o", made.head, "--C", 1, "--overwrite")
    run_command("bundle", made.backbone, made.head, "-o", made.app, "--overwrite")
    return replace(made, photos=photos)


def shell(words: str, *, unbuffered: bool = False, **variables: str) -> subprocess.CompletedProcess:
    """Run ``cnncodes`` with words of the shell, redirections included."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1" if unbuffered else "", **variables}
    line = f"{sys.executable} -m cnncodes {words}"
    return subprocess.run(["bash", "-c", line], capture_output=True, env=environment, check=False)


@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "export --help",
        "export --list",
        "info {codes}",
        "info {app}",
        "predict {app} {photos}",
        "evaluate {head} {codes} --include-training",
        "verify {codes} --source {photos}",
        "bench {backbone} --batch-sizes 1 --seconds 0.01",
        "train {codes} -o {codes}.new.onnx --overwrite",
        "extract {backbone} {photos} -o {codes}.new.h5 --overwrite",
        "curve {codes} -o {codes}.new.json --per-class 2 --seeds 1 --overwrite",
    ],
)
def test_text_needs_no_encoding_in_particular(chain: Chain, words: str) -> None:
    done = shell(words.format(**vars(chain)), PYTHONIOENCODING="cp1252")
    assert done.returncode == 0, done.stderr
    assert b"Error" not in done.stderr
    assert done.stdout.decode("cp1252").strip()


@pytest.mark.parametrize("encoding", LACKING)
def test_letters_are_lacking_in_many_encodings(chain: Chain, encoding: str) -> None:
    done = shell(f"info {chain.app}", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    # Where the encoding is ASCII, the default of the C locale, click itself writes UTF-8.
    assert "labels" in done.stdout.decode("utf-8" if encoding == "ascii" else encoding)


def test_letters_that_are_lacking_are_replaced_and_no_others(chain: Chain) -> None:
    done = shell(f"predict {chain.app} {chain.photos}", PYTHONIOENCODING="cp1251")
    lines = done.stdout.decode("cp1251").splitlines()
    assert any("/собака/" in line for line in lines)
    assert any("/?/" in line for line in lines)
    kept = shell(f"predict {chain.app} {chain.photos}", PYTHONIOENCODING="cp1251:backslashreplace")
    assert r"/\u732b/" in kept.stdout.decode("cp1251")


@pytest.mark.parametrize("encoding", ["ascii", "cp1251", "utf-16"])
def test_output_for_programs_is_utf8(chain: Chain, encoding: str) -> None:
    words = f"predict {chain.app} {chain.photos} --format"
    table = shell(f"{words} csv", PYTHONIOENCODING=encoding).stdout.decode("utf-8")
    assert table == shell(f"{words} csv", PYTHONIOENCODING="utf-8").stdout.decode()
    actual = {row["label"] for row in csv.DictReader(table.splitlines())}
    assert actual == set(CLASSES)
    listed = json.loads(shell(f"{words} json", PYTHONIOENCODING=encoding).stdout.decode("utf-8"))
    assert {image["predictions"][0]["label"] for image in listed} == set(CLASSES)
    described = json.loads(shell(f"info {chain.codes} --json", PYTHONIOENCODING=encoding).stdout)
    assert set(described["images_by_class"]) == set(CLASSES)


def test_terminal_keeps_its_encoding(chain: Chain) -> None:
    master, terminal = pty.openpty()
    command = [sys.executable, "-m", "cnncodes", "predict", str(chain.app), str(chain.photo())]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1251"}
    done = subprocess.run(
        [*command, "--format", "csv"], stdout=terminal, env=environment, check=False
    )
    os.close(terminal)
    written = os.read(master, 10_000).decode("cp1251")
    os.close(master)
    assert done.returncode == 0
    assert "/собака/" in written


def test_error_is_one_line_in_every_encoding(tmp_path: Path) -> None:
    done = shell(f"info {tmp_path / 'собака'}", PYTHONIOENCODING="cp1252")
    assert done.returncode == 1
    assert done.stderr.startswith(b"Error: ")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    "redirections", ["2>&-", ">&-", "<&-", "<&- >&- 2>&-", "2>/dev/full", ">&- 2>/dev/full"]
)
def test_results_are_written_whatever_the_streams_are(
    chain: Chain, tmp_path: Path, redirections: str
) -> None:
    for words, code in (
        (f"extract {chain.backbone} {chain.photos} -o {tmp_path}/codes.h5", 0),
        (f"train {tmp_path}/codes.h5 -o {tmp_path}/head.onnx --estimator sgd --epochs 2", 0),
        (f"curve {tmp_path}/codes.h5 -o {tmp_path}/curve.json --per-class 2 --seeds 1", 0),
        (f"evaluate {chain.head} {chain.codes} --include-training", 0),
        (f"quantize {chain.backbone} --images {chain.photos} -o {tmp_path}/int8.onnx", 0),
        (f"bundle {chain.backbone} {chain.head} -o {tmp_path}/app.onnx", 0),
        (f"verify {chain.codes} --source {chain.photos}", 0),
        (f"bench {chain.backbone} --batch-sizes 1 --seconds 0.01", 0),
        (f"predict {chain.app} {chain.photos}", 0),
        (f"info {chain.app}", 0),
        ("export --list", 0),
        ("--version", 0),
        ("train --help", 0),
        (f"info {tmp_path}/none", 1),
        ("nonsense", 2),
    ):
        done = shell(f"{words} {redirections}", unbuffered=code != 0)
        assert done.returncode == code, (words, done.stderr)
        assert code or b"Error" not in done.stderr
    with CodeStore.open(tmp_path / "codes.h5") as written, CodeStore.open(chain.codes) as usual:
        np.testing.assert_array_equal(written.codes[:], usual.codes[:])
    for name in ("head.onnx", "curve.json", "int8.onnx", "app.onnx"):
        assert (tmp_path / name).exists()


@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize(
    "words",
    [
        "--version",
        "--help",
        *(f"{name} --help" for name in main.commands),
        "export --list",
        "export --list --json",
        "predict {app} {photos}",
        "predict {app} {photos} --format csv",
        "predict {app} {photos} --format json",
        "info {codes}",
        "verify {app}",
        "evaluate {head} {codes} --include-training --json",
    ],
)
def test_output_on_a_full_disk_is_one_line(chain: Chain, words: str, unbuffered: bool) -> None:
    done = shell(f"{words.format(**vars(chain))} >/dev/full", unbuffered=unbuffered)
    assert done.returncode == 1
    assert done.stderr.decode() == (
        "Error: standard output: cannot be written (No space left on device)\n"
    )


def test_full_disk_can_be_debugged() -> None:
    done = shell("--debug export --list >/dev/full")
    assert done.returncode == 1
    assert b"Traceback" in done.stderr


def test_program_without_streams(chain: Chain, tmp_path: Path) -> None:
    for words, code in (
        (["extract", chain.backbone, chain.photos, "-o", tmp_path / "codes.h5"], 0),
        (["train", tmp_path / "codes.h5", "-o", tmp_path / "head.onnx"], 0),
        (["predict", chain.app, chain.photos, "--format", "csv"], 0),
        (["predict", chain.app, "-"], 1),  # there is nothing on standard input
        (["info", tmp_path / "none"], 1),
        (["--help"], 0),
    ):
        command = [sys.executable, "-c", WITHOUT_STREAMS, *map(str, words)]
        done = subprocess.run(command, capture_output=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")
    assert (tmp_path / "head.onnx").exists()


def test_progress_without_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a program of the user's that runs under pythonw."""
    monkeypatch.setattr(sys, "stderr", None)
    with Progress("extract", "images") as progress:
        progress.begin(3)
        progress.advance(3)
        progress.print_line("done")


def test_streams_of_a_caller_stay_its_own() -> None:
    before = sys.stdout, sys.stderr
    run_command("--version")
    assert (sys.stdout, sys.stderr) == before
