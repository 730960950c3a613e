"""Fits that take more memory than a process may use, under a real limit of its address space."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from cnncodes.extract.store import CodesInfo, Rows, compress, write_codes
from cnncodes.head.memory import needed_memory
from tests.helpers import BACKBONE_INFO, run_program

N_IMAGES, SHAPE = 4500, (32, 32, 32)
N_TRAIN = 3150  # 0.7 of them
PROGRAM = """
import resource, sys
from cnncodes import cli
import cnncodes.head.train  # whose libraries are loaded before the limit is set

with open("/proc/self/status") as status:
    size = next(int(line.split()[1]) for line in status if line.startswith("VmSize:"))
limit = 1024 * size + 500 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
for words in (["--estimator", "logistic"], ["--estimator", "auto"], ["--estimator", "knn"],
              ["--per-class", "20", "--C", "1"]):
    try:
        cli.main(["train", "codes.h5", "-o", f"{words[1]}.onnx", *words])
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


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is that of Linux")
def test_fit_that_does_not_fit_is_refused_before_it_starts(tmp_path: Path) -> None:
    labels = [image % 2 for image in range(N_IMAGES)]
    chunks = [compress(np.full(SHAPE, label, np.float16).tobytes()) for label in (0, 1)]
    rows = Rows(
        chunks=[chunks[label] for label in labels],
        labels=labels,
        paths=[f"{image}.png" for image in range(N_IMAGES)],
        digests=[f"{image:064x}" for image in range(N_IMAGES)],
    )
    info = CodesInfo(BACKBONE_INFO, "ab" * 32, SHAPE, "float16", "photos", ("a", "b"), 1000)
    write_codes(tmp_path / "codes.h5", info, [rows], N_IMAGES)
    done = run_program(PROGRAM, tmp_path)
    assert done.stdout.split("status ")[1:3] == ["1\n", "1\n"], done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    for name, error in zip(("logistic", "auto", "knn"), errors, strict=True):
        assert error.startswith(f"Error: codes.h5: {name} takes about ")
        assert f" GB of memory for {N_TRAIN:,} rows of 32,768 numbers, and 0." in error
        assert "pass --estimator sgd, which reads" in error
        assert error.endswith("cnncodes export --pool avg")
    assert (tmp_path / "20.onnx").exists()
    assert not (tmp_path / "logistic.onnx").exists()
