"""The SGD head on the codes of a file: the order, the memory and what an interrupt leaves."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from cnncodes import CodeStore
from cnncodes.errors import TrainingError
from cnncodes.head import SGDSoftmax
from cnncodes.head.rows import CodeRows
from cnncodes.head.scaling import Scaling, read_all
from cnncodes.head.sgd import fit as sgd
from cnncodes.head.sgd.fit import StandardisedRows, fit_sgd, measured
from cnncodes.head.train import train_head
from tests.helpers import InMemory, write_codes

N_IMAGES, N_FEATURES = 210, 64


@pytest.fixture(scope="module")
def digits():
    """Codes and classes of digits, as a file would hold them: a class after the other."""
    X, y = load_digits(n_class=4, return_X_y=True)
    chosen = np.argsort(y[:N_IMAGES], kind="stable")
    return X[chosen].astype(np.float32), y[chosen].astype(np.int32)


@pytest.fixture(scope="module")
def file(tmp_path_factory, digits):
    """A file of these codes."""
    return write_codes(tmp_path_factory.mktemp("sgd") / "digits.h5", *digits)


@pytest.fixture(scope="module")
def opened(file):
    """Two in three of its images."""
    with CodeStore.open(file) as store:
        yield CodeRows(store, np.flatnonzero(np.arange(N_IMAGES) % 3))


@pytest.fixture
def targets(digits):
    return digits[1][np.arange(N_IMAGES) % 3 > 0]


def standardised(rows: CodeRows, n_read: int = 10_000) -> StandardisedRows:
    """Codes of which a few images are read at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sgd, "READ_BYTES", n_read * N_FEATURES * 4)
        return StandardisedRows(rows, Scaling.of([read_all(rows)]))


@given(
    indices=st.permutations(range(140)),
    n_rows=st.integers(0, 140),
    size=st.integers(1, 150),
    n_read=st.integers(1, 150),
)
def test_batches_are_what_was_asked_for(
    opened: CodeRows,
    digits: tuple[np.ndarray, np.ndarray],
    indices: list[int],
    n_rows: int,
    size: int,
    n_read: int,
) -> None:
    order = np.array(indices[:n_rows], np.intp)
    batches = list(standardised(opened, n_read).batches(order, size))
    assert [index for batch, _ in batches for index in batch] == indices[:n_rows]
    assert all(len(batch) == len(X) == size for batch, X in batches[:-1])
    assert all(0 < len(batch) == len(X) <= size for batch, X in batches[-1:])
    chosen = digits[0][np.arange(N_IMAGES) % 3 > 0].astype(np.float64)
    centred = chosen - chosen.mean(axis=0)
    wanted = centred / np.sqrt(np.square(centred).sum(axis=1).mean())
    for batch, X in batches:
        np.testing.assert_allclose(X, wanted[batch], atol=1e-6)


@pytest.mark.parametrize(("optimizer", "rate"), [("momentum", 3.0), ("adam", 0.02)])
def test_weights_are_those_of_codes_in_memory(monkeypatch, opened, targets, optimizer, rate):
    rows = opened
    monkeypatch.setattr(sgd, "READ_BYTES", 50 * N_FEATURES * 4)
    parameters = {"epochs": 6, "optimizer": optimizer, "learning_rate": rate, "batch_size": 20}
    epochs = []
    weights, bias, fitted = fit_sgd(
        rows, targets, seed=3, parameters=parameters, on_epoch=epochs.append
    )
    assert (weights.shape, weights.dtype) == ((N_FEATURES, 4), np.float32)
    assert (bias.shape, bias.dtype) == ((4,), np.float32)
    X = read_all(rows)
    scaling = measured(rows)
    scaling.apply(X)
    model = SGDSoftmax(random_state=3, **parameters)
    assert list(model.train(InMemory(X), targets.astype(np.intp), 4)) == epochs
    logits = read_all(rows) @ weights + bias
    np.testing.assert_allclose(logits, X @ model.coef_.T + model.intercept_, atol=1e-4)
    assert fitted["best_epoch"] == model.best_epoch_
    best = epochs[model.best_epoch_ - 1]
    assert fitted["validation_accuracy"] == best.validation_accuracy
    fit = SGDSoftmax(random_state=3, **parameters).fit(X, targets)  # in an order of its own
    accuracy = (logits.argmax(axis=1) == targets).mean()
    assert accuracy == pytest.approx(fit.score(X, targets), abs=0.03)
    assert accuracy > 0.9


@pytest.mark.parametrize(("n_measured", "tolerance"), [(1024, 1e-5), (30, 0.2), (1, np.inf)])
def test_scaling_is_measured_on_images_of_all_classes(
    monkeypatch, opened, targets, n_measured, tolerance
):
    monkeypatch.setattr(sgd, "N_MEASURED", n_measured)
    actual, exact = measured(opened), Scaling.of([read_all(opened)])
    assert actual.scale == pytest.approx(exact.scale, rel=tolerance)
    assert np.linalg.norm(actual.mean - exact.mean) <= tolerance * exact.scale
    if n_measured > 1:
        weights, bias, _ = fit_sgd(opened, targets, parameters={"epochs": 6})
        assert ((read_all(opened) @ weights + bias).argmax(axis=1) == targets).mean() > 0.9


def test_bad_parameter_is_reported(opened, targets):
    with pytest.raises(TrainingError, match="sgd: no schedule 'steep'"):
        fit_sgd(opened, targets, parameters={"schedule": "steep"})


def test_little_is_in_memory_at_a_time(monkeypatch, tmp_path):
    n_images, n_features, n_classes = 8192, 1024, 3
    generator = np.random.default_rng(0)
    X = np.zeros((n_images, n_features), np.float32)
    X[:, :20] = generator.integers(0, 3, (n_images, 20))
    y = (X[:, 0] + np.arange(n_images) % 2 > 1).astype(np.int32)
    path = write_codes(tmp_path / "codes.h5", X, y)
    all_bytes, weights_bytes = X.nbytes, n_features * n_classes * 4
    del X
    read_bytes = 2**20  # as much as 256 images, which are looked at together
    monkeypatch.setattr(sgd, "READ_BYTES", read_bytes)
    with CodeStore.open(path) as store:
        rows = CodeRows(store, np.arange(n_images))
        tracemalloc.start()
        fit_sgd(rows, y, parameters={"epochs": 1})
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    told_of_images = 400 * n_images  # their digests
    assert peak < 6 * read_bytes + 6 * weights_bytes + told_of_images < all_bytes / 3


@pytest.fixture
def output(tmp_path):
    """Where the head goes: a folder of its own, so that leftovers show."""
    (tmp_path / "heads").mkdir()
    return tmp_path / "heads" / "head.onnx"


def left_in(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def test_training_that_diverges_leaves_nothing(file, output):
    # A penalty this large makes each step overshoot by more than the last.
    parameters = {"epochs": 9, "batch_size": 40, "l2": 100.0}
    with pytest.raises(
        TrainingError, match=r"sgd: diverged in epoch \d; lower the learning rate or l2$"
    ):
        train_head(file, output, estimator="sgd", sgd=parameters)
    assert left_in(output.parent) == []


@pytest.mark.parametrize(("n_each", "n_notes"), [(9, 1), (10, 0)])
def test_classes_too_small_to_hold_out_are_reported(tmp_path, n_each, n_notes):
    y = np.repeat(np.arange(3, dtype=np.int32), n_each)
    X = np.eye(3, dtype=np.float32)[y]
    with CodeStore.open(write_codes(tmp_path / "small.h5", X, y)) as store:
        rows = CodeRows(store, np.arange(len(y)))
        notes = fit_sgd(rows, y, parameters={"epochs": 2})[2]["notes"]
        assert fit_sgd(rows, y, parameters={"validation_fraction": 0.0})[2]["notes"] == []
    assert len(notes) == n_notes
    assert all(
        "too few training images per class to hold out a share of 0.1" in note for note in notes
    )


def test_interrupted_command_ends_in_one_line_and_leaves_nothing(file, output):
    partial = output.with_name("head.onnx.partial")
    partial.write_text("my diary")  # a name that extract would use is none of ours here
    arguments = ("train", file, "-o", output, "--estimator", "sgd", "--epochs", "1000")
    with subprocess.Popen(
        [sys.executable, "-m", "cnncodes", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        assert command.stderr.readline() == "reading the codes and training …\n"
        assert re.match(r"  epoch +1  train loss", command.stderr.readline())
        command.send_signal(signal.SIGINT)
        printed, errors = command.communicate()
    assert (command.returncode, printed) == (1, "")
    *lines, error = errors.splitlines()
    assert all(re.match(r"  epoch +\d+  train loss", line) for line in lines)
    assert error == (
        "Error: interrupted; nothing is kept, and the same command starts from the beginning"
    )
    assert left_in(output.parent) == ["head.onnx.partial"]
    assert partial.read_text() == "my diary"
