"""Apps in other runtimes, as docs/runtimes.md has them; each is installed from its registry."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.test_environments import ROOT, Environment
from tests.helpers import run_command

SCRIPT = ROOT / "benchmarks" / "runtimes.py"
FILES = ("plain", "small", "int8")
N_IMAGES = 6
# Largest difference of a probability in float32 and in int8. The latter depends on what a runtime
# computes in integers, and OpenVINO left alone computes in bfloat16 where the processor can.
TOLERANCES = {
    "onnxruntime": (1e-4, 0.03),
    "onnxruntime-node": (1e-4, 0.03),
    "onnxruntime-web": (1e-4, 0.03),
    "openvino f32": (1e-4, 0.03),
    "openvino": (0.1, 0.1),
    "opencv": (1e-4, None),  # wrong labels in int8
    "tract": (1e-4, 0.05),
}
pytestmark = pytest.mark.timeout(1800)  # 100 MB of packages, and 27 processes
CELL = re.compile(r"(\d+) of (\d+), (equal|\S+)")


@pytest.fixture(scope="module")
def apps(
    small_backbone: Path, head: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    folder = tmp_path_factory.mktemp("apps")
    int8 = folder / "backbone.onnx"
    run_command("quantize", small_backbone, "--images", photos, "--n-images", 16, "-o", int8)
    made = {
        "plain": (small_backbone,),
        "small": (small_backbone, "--half", "--batch", 1),
        "int8": (int8, "--allow-mixed"),
    }
    for name, (backbone, *options) in made.items():
        run_command("bundle", backbone, head, "-o", folder / f"{name}.onnx", *options)
    return [folder / f"{name}.onnx" for name in made]


@pytest.fixture(scope="module")
def table(
    apps: list[Path], photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[str]]:
    """For each runtime the cells of its row."""
    folder = tmp_path_factory.mktemp("runtimes")
    environment = Environment(folder / "python")
    environment.install("numpy", "onnx", "onnxruntime")
    environment.install("openvino", "opencv-python-headless>=4.10", "tract")
    node = folder / "node"
    node.mkdir()
    packages = ["onnxruntime-node", "onnxruntime-web"]
    npm = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", *packages]
    subprocess.run(npm, cwd=node, check=True, capture_output=True)
    images = folder / "images"
    images.mkdir()
    for number, path in enumerate(sorted(photos.rglob("*.png"))[:: 120 // N_IMAGES]):
        (images / f"{number}.png").symlink_to(path)
    python = str(environment.folder / "bin" / "python")
    done = subprocess.run(
        [sys.executable, SCRIPT, *apps, "--images", images, "--python", python, "--node", node],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()]
    assert rows[0] == ["runtime", *FILES]
    return {name.rpartition(" ")[0]: cells for name, *cells in rows[2:]}


@pytest.mark.parametrize("runtime", TOLERANCES)
def test_runtime_gives_the_same_labels(table: dict[str, list[str]], runtime: str) -> None:
    for file, cell in zip(FILES, table[runtime], strict=True):
        match = CELL.fullmatch(cell)
        assert match, f"{runtime} on {file}: {cell}"
        difference = 0.0 if match[3] == "equal" else float(match[3])
        tolerance = TOLERANCES[runtime][file == "int8"]
        if tolerance is None:
            continue
        assert difference <= tolerance, f"{runtime} on {file}: {cell}"
        if difference < 0.01:
            assert match[1] == match[2] == f"{N_IMAGES}", f"{runtime} on {file}: {cell}"


def test_evaluator_of_onnx_lacks_an_operator_of_int8(table: dict[str, list[str]]) -> None:
    plain, small, int8 = table["ReferenceEvaluator"]
    assert plain.startswith("1 of 1, ")
    assert small.startswith("1 of 1, ")
    assert int8 == "fails"
