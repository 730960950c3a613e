"""Workers: all processors, results in order, and memory that stays bounded."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnncodes.errors import ParameterError
from cnncodes.extract import workers
from cnncodes.extract.backbone import Backbone
from cnncodes.extract.workers import AHEAD, Workers
from cnncodes.images.views import make_views
from cnncodes.parameters import VIEWS
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


def session_threads(opened: Workers) -> int:
    """Return the number of threads of the onnxruntime session."""
    return opened.network._session.get_session_options().intra_op_num_threads


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_results_come_in_order(
    backbone: Path, greys: list[Path], threads: int, batch_size: int
) -> None:
    greys[4].write_bytes(b"no image")
    opened = Workers.open(backbone, len(greys), threads=threads, batch_size=batch_size)
    actual = list(opened.run(greys, lambda codes: codes))
    assert [image.index for images, _ in actual for image in images] == list(range(20))
    codes = np.concatenate([codes for _, codes in actual if codes is not None])
    assert (np.diff(codes[:, 0]) > 0).all()
    assert len(codes) == 19
    if batch_size == 1:
        images, nothing = actual[4]
        assert images[0].problem
        assert nothing is None


@pytest.mark.parametrize(
    ("n_images", "n_workers"), [(0, 1), (1, 1), (2, 2), (3, 3), (16, 16), (99, 16)]
)
def test_threads_beyond_the_images_go_to_the_session(
    backbone: Path, n_images: int, n_workers: int
) -> None:
    opened = Workers.open(backbone, n_images, threads=16)
    assert (opened.n_workers, session_threads(opened)) == (n_workers, 17 - n_workers)


@pytest.mark.parametrize(("megabytes", "n_workers"), [(2**13, 16), (2**10, 7), (256, 1), (1, 1)])
def test_threads_beyond_the_workers_that_fit_go_to_the_session(
    backbone: Path, monkeypatch: pytest.MonkeyPatch, megabytes: int, n_workers: int
) -> None:
    monkeypatch.setattr(workers, "available_memory", lambda: megabytes * 2**20)
    opened = Workers.open(backbone, 10**9, threads=16, batch_size=1)
    assert (opened.n_workers, session_threads(opened)) == (n_workers, 17 - n_workers)


def test_large_batches_need_more_memory(backbone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "available_memory", lambda: 300 * 2**20)
    assert Workers.open(backbone, 10**9, threads=2, batch_size=1).n_workers == 2
    assert Workers.open(backbone, 10**9, threads=2, batch_size=4096).n_workers == 1


@pytest.mark.parametrize("augment", ["hflip", "hvflip", "d4"])
def test_views_are_computed_as_many_at_a_time_as_images(backbone: Path, augment: str) -> None:
    sizes = []

    class Counting(Backbone):
        def extract(self, images: np.ndarray) -> np.ndarray:
            sizes.append(len(images))
            return super().extract(images)

    network, n_views = Counting(backbone), VIEWS[augment]
    size = network.info.input_size
    pixels = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), np.uint8)
    codes = workers.extract_views(network, pixels, augment)
    assert sizes == [3] * n_views
    np.testing.assert_array_equal(codes, Backbone(backbone).extract(make_views(pixels, augment)))


@pytest.mark.parametrize("option", ["threads", "batch_size"])
def test_refuses_none_at_all(backbone: Path, option: str) -> None:
    with pytest.raises(ParameterError, match="must be from 1 to "):
        Workers.open(backbone, 3, **{option: 0})


def test_all_work_at_once_and_not_far_ahead(backbone: Path, greys: list[Path]) -> None:
    """Each of three waits for the two others, so that fewer at a time would not end."""
    opened = Workers.open(backbone, 18, threads=3)
    together = threading.Barrier(3, timeout=60)
    n_begun = 0

    def finish(codes: np.ndarray) -> int:
        nonlocal n_begun
        n_begun += 1
        return together.wait()

    for n_taken, _ in enumerate(opened.run(greys[:18], finish), start=1):
        assert n_begun <= n_taken + AHEAD * 3 + 1
    assert n_taken == n_begun == 18


def test_threads_end_when_left_early(backbone: Path, greys: list[Path]) -> None:
    batches = Workers.open(backbone, 20, threads=4).run(greys, lambda codes: codes)
    next(batches)
    batches.close()
    assert not [each for each in threading.enumerate() if each.name.startswith("worker")]


def test_failure_in_a_worker_is_reported(backbone: Path, greys: list[Path]) -> None:
    def finish(codes: np.ndarray) -> None:
        raise ArithmeticError("from finish")

    with pytest.raises(ArithmeticError, match="from finish"):
        list(Workers.open(backbone, 20).run(greys, finish))
