"""Every command and program in the README is run, in an empty folder, in its order."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cnncodes.cli import main

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.removeprefix("$ ")
    for language, block in BLOCKS
    if language == "console"
    for line in block.splitlines()
]
PROGRAMS = [block for language, block in BLOCKS if language == "python"]

# These set things up for a person; .ci/run and test_environments.py run them.
RUN_ELSEWHERE = ("make demo", "make test", "pip install .")
# ImageNet's weights would have to be downloaded; large images and exact figures take time only.
ADDED = {
    "cnncodes export inception_v3": "--weights random --input-size 75",
    "cnncodes bench inception_v3.onnx inception_v3.int8.onnx": "--seconds 0.01",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """A newcomer's folder: photographs in class folders, and a new one."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(photos, folder / "photos")
    shutil.copy(next(photos.rglob("*.png")), folder / "new.jpg")
    return folder


def test_blocks_are_commands_or_programs() -> None:
    assert {language for language, _ in BLOCKS} == {"console", "python"}
    assert [each for each in COMMANDS if not each.startswith("cnncodes ")] == [*RUN_ELSEWHERE]
    names = {command.split()[1] for command in COMMANDS if command.startswith("cnncodes ")}
    assert names == {*main.commands} - {"info", "demo"}


def test_make_targets_that_the_readme_names_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in ("demo", "test"):
        assert re.search(f"^{target}:", makefile, flags=re.MULTILINE)
        assert f"make {target}" in (ROOT / ".ci" / "run").read_text("utf-8")


def test_commands_and_programs_run(folder: Path) -> None:
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    assert ADDED.keys() <= set(COMMANDS)
    for command in COMMANDS:
        if command in RUN_ELSEWHERE:
            continue
        done = subprocess.run(
            ["bash", "-c", f"{command} {ADDED.get(command, '')}"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert len(PROGRAMS) == 3
    answers = []
    for program in PROGRAMS:
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answers.append(done.stdout)
    assert 0 <= float(answers[0]) <= 1
    label = re.search(r"label='(\d)'", answers[1])
    assert label is not None
    assert answers[2].split()[0] == label.group(1)


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "docs/benchmarks.md",
        "docs/file-formats.md",
        "docs/reliability.md",
    ],
)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert ((ROOT / page).parent / link).exists(), link


def test_layout_in_contributing_is_that_of_the_package() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    listed = set(re.findall(r"^ +(\w+\.py) ", text, flags=re.MULTILINE))
    package = ROOT / "cnncodes"
    there = {path.name for path in package.rglob("*.py") if not path.name.startswith("__")}
    assert listed == there


def test_each_fault_is_backed_by_a_test_that_is_there() -> None:
    rows = [
        line
        for line in (ROOT / "docs" / "reliability.md").read_text("utf-8").splitlines()
        if line.startswith("| ") and not line.startswith(("| fault", "| ---"))
    ]
    assert len(rows) > 5
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row)
        assert named, row
        for file, test in named:
            assert f"def {test}(" in (ROOT / file).read_text("utf-8"), row
