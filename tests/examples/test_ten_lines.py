"""Three packages only; ``tests/e2e/test_readme.py`` compares its decoding with the package's."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples.conftest import EXAMPLES, Golden


def test_answers_are_golden(golden: Golden, tmp_path: Path) -> None:
    shutil.copy(golden.app, tmp_path / "app.onnx")
    for path, expected in golden.images.items():
        shutil.copy(path, tmp_path / "new.jpg")
        command = [sys.executable, "-I", str(EXAMPLES / "ten_lines.py")]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        label, probability = done.stdout.split()
        assert label == max(expected, key=expected.__getitem__)
        assert float(probability) == pytest.approx(expected[label], abs=1e-5)
