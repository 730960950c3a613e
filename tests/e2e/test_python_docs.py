"""Every program of docs/python.md is run, each in a process of its own, in the tutorial's folder.

What a program prints is what the comment below its call shows, but for what differs with the
network, which is a small one here.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cnncodes
import cnncodes.extract
import cnncodes.head
from tests.helpers import run_command, run_program

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "python.md").read_text("utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, small_backbone: Path) -> Path:
    """The tutorial's photographs, and the files that its commands make."""
    folder = tmp_path_factory.mktemp("python")
    subprocess.run([sys.executable, DOCS / "tutorial_photos.py", folder], check=True)
    shutil.copy(small_backbone, folder / "inception_v3.onnx")
    backbone, codes, head, app = (
        folder / name for name in ("inception_v3.onnx", "codes.h5", "head.onnx", "app.onnx")
    )
    run_command("extract", backbone, folder / "photos", "-o", codes)
    run_command("train", codes, "-o", head, "--C", "10")
    run_command("bundle", backbone, head, "-o", app)
    return folder


def masked(line: str) -> str:
    """Mask the weights, and the size of images and codes."""
    return re.sub(r"weights [\w:]+|\d+ pixels|codes \([\d, ]+\)", "…", line)


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_program_runs(folder: Path, program: str) -> None:
    done = run_program(program, folder)
    assert done.stderr == ""
    assert done.stdout
    shown = re.findall(r"# (<.*>)$", program, flags=re.MULTILINE)
    assert {masked(line) for line in shown} <= set(map(masked, done.stdout.splitlines()))


def test_page_names_all_that_is_public() -> None:
    public = {*cnncodes.__all__, *cnncodes.extract.__all__, *cnncodes.head.__all__}
    for name in public - {"__version__"}:
        assert f"`{name}`" in PAGE, name
