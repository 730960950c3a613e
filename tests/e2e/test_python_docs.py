"""Every program of docs/python.md is run, each in a process of its own, in one folder."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import cnncodes
import cnncodes.extract
import cnncodes.head
from tests.helpers import run_program

PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text("utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    photos: Path,
    small_backbone: Path,
    codes: Path,
    app: Path,
) -> Path:
    """The files that the README's commands make."""
    folder = tmp_path_factory.mktemp("python")
    shutil.copytree(photos, folder / "photos")
    shutil.copy(next(photos.rglob("*.png")), folder / "new.jpg")
    files = {"inception_v3.onnx": small_backbone, "codes.h5": codes, "app.onnx": app}
    for name, file in files.items():
        shutil.copy(file, folder / name)
    return folder


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_program_runs(folder: Path, program: str) -> None:
    done = run_program(program, folder)
    assert done.stderr == ""
    assert done.stdout
    # What is printed has the form that the comment behind the call gives.
    for line in re.findall(r"^ *print\(\w+\)  # (<.*>)$", program, flags=re.MULTILINE):
        kind, name = re.fullmatch(r"<(\w+) ('[\w.]+'): .*>", line).groups()
        assert re.search(f"^<{kind} {name}: .*>$", done.stdout, flags=re.MULTILINE)


def test_page_names_all_that_is_public() -> None:
    public = {*cnncodes.__all__, *cnncodes.extract.__all__, *cnncodes.head.__all__}
    for name in public - {"__version__"}:
        assert f"`{name}`" in PAGE, name
