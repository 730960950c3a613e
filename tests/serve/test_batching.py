from __future__ import annotations

from concurrent.futures import Future
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from cnncodes import Classifier
from cnncodes.serve.batching import Batcher, BusyError, Upload


@pytest.fixture(scope="module")
def classifier(app: Path) -> Classifier:
    return Classifier(app, threads=1)


@pytest.fixture(scope="module")
def uploads(photos: Path) -> list[Upload]:
    return [Upload(path.name, path.read_bytes()) for path in sorted(photos.rglob("*.png"))[:9]]


@pytest.mark.parametrize("n_workers", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_answers_are_those_of_the_classifier(
    classifier: Classifier, uploads: list[Upload], n_workers: int, batch_size: int
) -> None:
    with closing(Batcher(classifier, n_workers=n_workers, batch_size=batch_size)) as batcher:
        futures = batcher.submit([*uploads[:4], Upload("x", b"no image"), *uploads[4:]])
        answers = [future.result(60) for future in futures]
    assert answers.pop(4).problem.startswith("not a JPEG")
    for answer, upload in zip(answers, uploads, strict=True):
        assert answer.problem == ""
        best = classifier.predict(upload.content, 1)
        assert classifier.ranked(answer.probabilities, 1)[0].label == best[0].label
        np.testing.assert_allclose(answer.probabilities.max(), best[0].probability, atol=1e-5)


def test_close_finishes_what_waits(classifier: Classifier, uploads: list[Upload]) -> None:
    batcher = Batcher(classifier, n_workers=2)
    futures = batcher.submit(uploads)
    batcher.close()
    assert all(future.done() for future in futures)
    with pytest.raises(BusyError):
        batcher.submit(uploads)


def test_all_images_wait_or_none(classifier: Classifier, uploads: list[Upload]) -> None:
    with closing(Batcher(classifier, n_workers=1, max_waiting=len(uploads) - 1)) as batcher:
        with pytest.raises(BusyError, match="0 images wait already"):
            batcher.submit(uploads)
        (future,) = batcher.submit(uploads[:1])
        assert future.result(60).problem == ""


def test_cancelled_images_are_not_computed(classifier: Classifier, uploads: list[Upload]) -> None:
    with closing(Batcher(classifier, n_workers=1, batch_size=1)) as batcher:
        futures = batcher.submit(uploads)
        cancelled = [future for future in futures[1:] if future.cancel()]
        assert futures[0].result(60).problem == ""
        assert batcher.submit(uploads[:1])[0].result(60).problem == ""
    assert all(future.cancelled() for future in cancelled)


def test_error_of_the_runtime_leaves_the_worker_alive(
    classifier: Classifier, uploads: list[Upload]
) -> None:
    with closing(Batcher(classifier, n_workers=1)) as batcher:
        wrong: Future[object] = batcher.submit([Upload("x", None)])[0]  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            wrong.result(60)
        assert batcher.submit(uploads[:1])[0].result(60).problem == ""
