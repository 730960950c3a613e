from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from cnncodes import CodeStore, progress
from cnncodes.head import gram
from cnncodes.head.gram import DEFAULT_CS
from cnncodes.head.logistic import fit_logistic
from cnncodes.head.rows import CodeRows
from cnncodes.head.scaling import Scaling, read_all
from cnncodes.progress import Progress
from tests.extract.test_store import append, create

N_IMAGES = 200


@pytest.fixture
def digits(tmp_path: Path):
    """Make a codes file of digits, and give its rows and their classes.

    With fewer images than the 64 numbers of a digit the Gram matrix is taken, otherwise not.
    """
    opened = []

    def made(n_classes: int, n_images: int = N_IMAGES):
        X, y = load_digits(n_class=n_classes, return_X_y=True)
        path = tmp_path / f"{len(opened)}.h5"
        names = tuple(map(str, range(n_classes)))
        info = {"code_shape": (64,), "dtype": "float16", "class_names": names}
        with create(path.with_suffix(".partial"), **info) as journal:
            told = {"paths": ["x"] * N_IMAGES, "digests": ["0" * 64] * N_IMAGES}
            append(journal, X[:N_IMAGES] + 3, labels=y[:N_IMAGES].tolist(), **told, skipped=[])
            journal.finish(path)
        opened.append(CodeStore.open(path))
        chosen = np.arange(0, N_IMAGES, N_IMAGES // n_images)[:n_images]
        return CodeRows(opened[-1], chosen), y[chosen].astype(np.int32)

    yield made
    for store in opened:
        store.close()


@pytest.mark.parametrize("n_images", [50, 200])
@pytest.mark.parametrize("C", [0.1, 10.0])
@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_probabilities_are_scikit_learns(digits, n_classes, C, n_images):
    rows, y = digits(n_classes, n_images)
    weights, bias, _ = fit_logistic(rows, y, C=C)
    assert weights.shape == (64, n_classes)
    assert bias.shape == (n_classes,)
    X = read_all(rows)
    standardised = X.copy()
    Scaling.of([X]).apply(standardised)
    model = LogisticRegression(C=C, max_iter=1000).fit(standardised, y)
    ours = softmax(X @ weights + bias, axis=1)
    assert ours == pytest.approx(
        model.predict_proba(standardised), abs=0.02
    )  # both stop near the optimum


@pytest.mark.parametrize("n_images", [50, 200])
def test_rare_classes_can_weigh_as_much(digits, n_images):
    rows, y = digits(2, n_images)
    y[:] = 0
    y[:5] = 1
    X = read_all(rows)
    shares = [
        softmax(X @ weights + bias, axis=1)[:, 1].mean()
        for weights, bias, _ in (
            fit_logistic(rows, y, C=0.01, class_weight=weight) for weight in (None, "balanced")
        )
    ]
    assert shares[0] < 0.2 < 0.4 < shares[1]


def test_it_learns(digits):
    rows, y = digits(10)
    weights, bias, _ = fit_logistic(rows, y, C=100.0)
    assert ((read_all(rows) @ weights + bias).argmax(axis=1) == y).mean() > 0.98


def test_fit_is_told(digits):
    rows, y = digits(3)
    told = fit_logistic(rows, y, C=0.5)[2]
    assert told["C"] == 0.5
    assert isinstance(told["n_iterations"], int)
    assert 0 < told["n_iterations"] < 1000
    assert "C_scores" not in told


@pytest.mark.parametrize("n_images", [50, 200])
def test_chosen_c_is_told_with_all_scores(digits, n_images):
    rows, y = digits(3, n_images)
    told = fit_logistic(rows, y, C="auto")[2]
    assert told["C"] in told["C_scores"]
    assert all(0 <= score <= 1 for score in told["C_scores"].values())


def test_smaller_c_is_a_stronger_penalty(digits):
    rows, y = digits(3)
    strong, weak = (np.square(fit_logistic(rows, y, C=C)[0]).sum() for C in (0.001, 100))
    assert strong < weak / 10


def test_progress_counts_the_images_that_pass_and_the_fits(digits, monkeypatch, capfd):
    rows, y = digits(3, 50)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(gram, "BLOCK_BYTES", 4 * 64 * 20)  # 20 images stay at a time
    with Progress("train", "images") as told:
        fit_logistic(rows, y, C="auto", progress=told)
    states = [line.split(",")[0] for line in capfd.readouterr().err.splitlines()]
    assert "train: 90 of 90 images" in states  # 50, then the later 30, then 10
    n_fits = 5 * len(DEFAULT_CS)
    assert states[-n_fits:] == [f"train: {done} of {n_fits} fits" for done in range(1, n_fits + 1)]
