"""Fits that take more memory than a process may use, under a real limit of its address space."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cnncodes.extract.writing import CodesInfo, Rows, compress, write_codes
from cnncodes.head.memory import needed_by_curve, needed_by_labels, needed_memory
from tests.helpers import BACKBONE_INFO, names_in

N_IMAGES, SHAPE = 4500, (32, 32, 32)
N_TRAIN = 3150  # 0.7 of them
PROGRAM = """
import resource, sys
from cnncodes import cli
import cnncodes.evaluate.learning_curve  # its libraries are loaded before the limit is set

with open("/proc/self/status") as status:
    size = next(int(line.split()[1]) for line in status if line.startswith("VmSize:"))
limit = 1024 * size + 500 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
for line in sys.argv[1:]:
    try:
        cli.main(line.split())
    except SystemExit as exit:
        print("status", exit.code)
"""


@pytest.mark.parametrize(
    ("estimator", "shape", "needed"),
    [
        ("logistic", (10_000, 51_200), 8 * 10**8 + 2**29),
        ("ridge", (100_000, 51_200), 8 * 10**5 * 51_200 + 8 * 51_200**2),
        ("logistic", (100, 1000), 80_000 + 400_000 * 4 // 3),
        ("sgd", (10**6, 51_200), 0),
        ("svm", (1000, 51_200), 8000 * 51_200),
    ],
)
def test_needed_memory(estimator: str, shape: tuple[int, int], needed: int) -> None:
    assert needed_memory(estimator, *shape) == needed


def test_needed_by_labels() -> None:
    assert needed_by_labels(10_000, 51_200) == needed_memory("logistic", 10_000, 51_200)
    # Few are in float64; and of codes that are points themselves no fold is a copy.
    assert needed_by_labels(100, 1000) == 160_000 + 400_000 * 4 // 3
    assert needed_by_labels(1000, 100) == 16 * 10**5
    assert needed_by_labels(10**6, 2048) == 4 * 10**6 * 2048


def test_needed_by_curve() -> None:
    draws = [(50, 1), (30, 2)]
    assert needed_by_curve(50, 20, draws, 1000) == 20_000 + 4 * 70 * 50 + 200_000 * 4 // 3
    assert needed_by_curve(50, 20, [(40, 2)], 1000) == 25_600 + 4 * 70 * 50 + 200_000 * 4 // 3
    assert needed_by_curve(50, 20, [(50, 1), (40, 2)], 10) == 2 * 8 * 40 * 10


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is that of Linux")
def test_fit_that_does_not_fit_is_refused_before_it_starts(tmp_path: Path) -> None:
    write_many(tmp_path / "codes.h5")
    errors = run_limited(
        tmp_path,
        "train codes.h5 -o head.onnx --estimator logistic",
        "train codes.h5 -o head.onnx --estimator auto",
        "train codes.h5 -o head.onnx --estimator knn",
        "curve codes.h5 -o curve.json",
        "train codes.h5 -o 20.onnx --per-class 20 --C 1",
        "curve codes.h5 -o 20.json --per-class 20 --seeds 1 --C 1",
    )
    names = ("logistic", "auto", "knn", "curve")
    for name, n_rows, error in zip(names, [N_TRAIN] * 3 + [N_IMAGES], errors, strict=True):
        assert error.startswith(f"Error: codes.h5: {name} takes about ")
        assert f" GB of memory for {n_rows:,} rows of 32,768 numbers, and 0." in error
        way = "pass --estimator sgd, which reads" if name != "curve" else "fewer images by --per-cl"
        assert way in error
        assert error.endswith("cnncodes export --pool avg")
    assert names_in(tmp_path) == ["20.json", "20.onnx", "codes.h5"]


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is that of Linux")
def test_fit_of_several_labels_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    write_many(tmp_path / "codes.h5", several=True)
    errors = run_limited(
        tmp_path,
        "train codes.h5 -o head.onnx",
        "train codes.h5 -o head.onnx --per-class 20 --refit",
        "train codes.h5 -o 20.onnx --per-class 20 --C 1",
    )
    for n_rows, error in zip((N_TRAIN, N_IMAGES), errors, strict=True):
        assert error.startswith("Error: codes.h5: logistic takes about ")
        assert f" GB of memory for {n_rows:,} rows of 32,768 numbers, and 0." in error
        assert "; train on fewer images by --per-class, " in error
        assert (", without --refit, or" in error) == (n_rows == N_IMAGES)
        assert "sgd" not in error  # which is not for several labels
    assert names_in(tmp_path) == ["20.onnx", "codes.h5"]


def write_many(path: Path, *, several: bool = False) -> None:
    labels = [image % 2 for image in range(N_IMAGES)]
    chunks = [compress(np.full(SHAPE, label, np.float16).tobytes()) for label in (0, 1)]
    rows = Rows(
        chunks=[chunks[label] for label in labels],
        labels=[-1] * N_IMAGES if several else labels,
        paths=[f"{image}.png" for image in range(N_IMAGES)],
        digests=[f"{image:064x}" for image in range(N_IMAGES)],
        flags=[("10", "01")[label] for label in labels] if several else [],
    )
    info = CodesInfo(BACKBONE_INFO, "ab" * 32, SHAPE, "float16", "photos", ("a", "b"), 1000)
    write_codes(path, info, [rows], N_IMAGES)


def run_limited(folder: Path, *lines: str) -> list[str]:
    """Run commands in a process with 500 MB more than its programs; return their errors."""
    command = [sys.executable, "-c", PROGRAM, *lines]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert done.stdout.count("status 1\n") == len(errors), done.stderr
    assert done.stdout.count("status 0\n") == len(lines) - len(errors), done.stderr
    return errors
