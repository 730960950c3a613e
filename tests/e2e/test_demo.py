"""The demo as a newcomer runs it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cnncodes.demo import words_of_program
from tests.helpers import run_process


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run the demo with no network; return where, and what it printed."""
    folder = tmp_path_factory.mktemp("newcomer")
    done = subprocess.run(
        [
            *("unshare", "--net", "--map-root-user"),
            *(sys.executable, "-m", "cnncodes", "demo", "digits demo"),
        ],
        cwd=folder,
        env={**os.environ, "KERAS_HOME": str(folder / "keras")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return folder, done.stdout


def test_ends_with_a_good_accuracy_and_names_the_weights(demo: tuple[Path, str]) -> None:
    _, printed = demo
    assert "random weights" in printed.splitlines()[0]
    (accuracy,) = re.findall(r"Test accuracy ([0-9.]+)% with random weights", printed)
    assert float(accuracy) > 80
    marked = [line.split(":")[0] for line in printed.splitlines() if "(random weights)" in line]
    assert marked == ["digits demo/head.onnx"] * 2, "of train and of evaluate, once each"


def test_printed_commands_can_be_typed_again(demo: tuple[Path, str]) -> None:
    folder, printed = demo
    commands = [line[2:] for line in printed.splitlines() if line.startswith("$ ")]
    assert [shlex.split(command)[3] for command in commands] == [
        *("export", "extract", "train", "evaluate", "bundle", "predict")
    ]
    assert f"Each command below can be typed again in {folder}." in printed
    for command in commands[1:]:  # the export takes long
        again = subprocess.run(
            ["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=True
        )
        if " extract " in command:
            assert "complete already, with the same 600 images" in again.stdout
        if " predict " in command:
            assert again.stdout in printed


def test_printed_commands_name_the_program_as_the_shell_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "cnncodes"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    assert words_of_program("bin/cnncodes") == ["bin/cnncodes"]
    monkeypatch.setenv("PATH", f"/nowhere{os.pathsep}{program.parent}")
    assert words_of_program("bin/cnncodes") == ["cnncodes"]
    assert words_of_program("cnncodes/__main__.py") == [sys.executable, "-m", "cnncodes"]


def test_everything_it_names_is_there(demo: tuple[Path, str]) -> None:
    folder, printed = demo
    listing = printed.split("Everything is in")[1]
    named = re.findall(r"^  (digits demo/\S+)", listing, flags=re.MULTILINE)
    assert len(named) == 6
    assert all((folder / name).exists() for name in named)
    assert {path.name for path in (folder / "digits demo").iterdir()} == {
        Path(name).relative_to("digits demo").parts[0] for name in named
    }
    assert len(list((folder / "digits demo" / "digits").rglob("*.png"))) == 600


def test_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    done = run_process("demo", tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith("is not empty; name a new folder, or remove it\n")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
