"""The app in Node, with packages from the npm registry."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.examples.conftest import EXAMPLES, Golden, skip_without


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program with its packages installed beside it, as its first lines have it."""
    skip_without("npm", there=shutil.which("npm") is not None)
    folder = tmp_path_factory.mktemp("node")
    for path in (EXAMPLES / "node").iterdir():
        shutil.copy(path, folder)
    # Their scripts would get what is for other processors from elsewhere.
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "classify.mjs"


def run_node(program: Path, app: Path, *photos: Path) -> subprocess.CompletedProcess[str]:
    command = ["node", str(program), str(app), *map(str, photos)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def answers_of(program: Path, golden: Golden) -> dict[Path, dict[str, float]]:
    done = run_node(program, golden.app, *golden.images)
    assert done.returncode == 0, done.stderr
    return {
        Path(each["path"]): dict(each["classes"])
        for each in map(json.loads, done.stdout.splitlines())
    }


def test_answers_are_golden(program: Path, golden: Golden) -> None:
    golden.check(answers_of(program, golden), tolerance=1e-3)


def test_photographs_are_decoded_as_the_package_does(program: Path, photographs: Golden) -> None:
    photographs.check(answers_of(program, photographs), tolerance=0.01)


def test_deep_grey_is_refused(program: Path, golden: Golden, deep: Path) -> None:
    done = run_node(program, golden.app, deep)
    assert done.returncode == 1
    assert f"Error: {deep}: 16 bits" in done.stderr
