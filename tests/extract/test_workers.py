"""Workers: all processors, results in order, and memory that stays bounded."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnncodes.errors import ParameterError
from cnncodes.extract import workers
from cnncodes.extract.workers import AHEAD, Workers
from tests.helpers import encode_image, write_backbone


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    """A network that gives the mean colour."""
    return write_backbone(tmp_path / "mean.onnx")


@pytest.fixture
def greys(tmp_path: Path) -> list[Path]:
    """Twenty grey images, each of its own grey; the first takes the longest to decode."""
    paths = [tmp_path / f"{index}.png" for index in range(20)]
    for index, path in enumerate(paths):
        side = 2000 if index == 0 else 4
        path.write_bytes(encode_image(Image.new("L", (side, side), 10 * index), "PNG"))
    return paths


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_results_come_in_order(
    backbone: Path, greys: list[Path], threads: int, batch_size: int
) -> None:
    greys[4].write_bytes(b"no image")
    hired = Workers.hire(backbone, len(greys), threads=threads, batch_size=batch_size)
    found = list(hired.run(greys, lambda codes: codes))
    assert [image.index for images, _ in found for image in images] == list(range(20))
    codes = np.concatenate([codes for _, codes in found if codes is not None])
    assert (np.diff(codes[:, 0]) > 0).all()
    assert len(codes) == 19
    if batch_size == 1:
        images, nothing = found[4]
        assert images[0].problem
        assert nothing is None


@pytest.mark.parametrize(("n_images", "number"), [(0, 1), (1, 1), (2, 2), (3, 3), (99, 3)])
def test_there_are_no_more_workers_than_images(backbone: Path, n_images: int, number: int) -> None:
    assert Workers.hire(backbone, n_images, threads=3).number == number


def test_there_are_fewer_workers_where_memory_is_short(
    backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "available_memory", lambda: 2**30)
    assert Workers.hire(backbone, 10**9, threads=1024, batch_size=1).number == 7
    monkeypatch.setattr(workers, "available_memory", lambda: 2**20)  # no room for two
    assert Workers.hire(backbone, 10**9, threads=2, batch_size=4096).number == 1


@pytest.mark.parametrize("option", ["threads", "batch_size"])
def test_refuses_none_at_all(backbone: Path, option: str) -> None:
    with pytest.raises(ParameterError, match="must be from 1 to "):
        Workers.hire(backbone, 3, **{option: 0})


def test_all_work_at_once_and_not_far_ahead(backbone: Path, greys: list[Path]) -> None:
    """Each of three waits for the two others, so that fewer at a time would not end."""
    hired = Workers.hire(backbone, 18, threads=3)
    together = threading.Barrier(3, timeout=60)
    n_begun = 0

    def finish(codes: np.ndarray) -> int:
        nonlocal n_begun
        n_begun += 1
        return together.wait()

    for n_taken, _ in enumerate(hired.run(greys[:18], finish), start=1):
        assert n_begun <= n_taken + AHEAD * 3 + 1
    assert n_taken == n_begun == 18


def test_threads_end_when_left_early(backbone: Path, greys: list[Path]) -> None:
    batches = Workers.hire(backbone, 20, threads=4).run(greys, lambda codes: codes)
    next(batches)
    batches.close()
    assert not [each for each in threading.enumerate() if each.name.startswith("worker")]


def test_failure_in_a_worker_is_told(backbone: Path, greys: list[Path]) -> None:
    def finish(codes: np.ndarray) -> None:
        raise ArithmeticError("told")

    with pytest.raises(ArithmeticError, match="told"):
        list(Workers.hire(backbone, 20).run(greys, finish))
