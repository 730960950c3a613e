"""The softmax layer against the formulas of Keras 2.0, written out."""

from __future__ import annotations

import math

import numpy as np

from cnncodes.experiment.softmax import train_softmax
from cnncodes.extract.store import CodeStore
from cnncodes.head.rows import CodeRows
from tests.helpers import write_codes

N, N_TEST, SHAPE, EPOCHS = 330, 60, (2, 2, 10), (1, 25)


def written_out(X, y, X_test, y_test, seed):
    """Keras's Dense and Adadelta in float64, as its source has them."""
    n_classes = y.max() + 1
    random = np.random.default_rng(seed)
    limit = math.sqrt(6 / (X.shape[1] + n_classes))
    parameters = [random.uniform(-limit, limit, (X.shape[1], n_classes)), np.zeros(n_classes)]
    squares, steps = ([np.zeros_like(each) for each in parameters] for _ in range(2))
    accuracies = []
    for epoch in range(1, EPOCHS[-1] + 1):
        order = random.permutation(len(X))
        for start in range(0, len(X), 32):
            batch = order[start : start + 32]
            logits = X[batch] @ parameters[0] + parameters[1]
            residual = np.exp(logits - logits.max(axis=1, keepdims=True))
            residual /= residual.sum(axis=1, keepdims=True)
            residual[np.arange(len(batch)), y[batch]] -= 1
            residual /= len(batch)
            for i, gradient in enumerate((X[batch].T @ residual, residual.sum(axis=0))):
                squares[i] = 0.95 * squares[i] + 0.05 * gradient**2
                step = gradient * np.sqrt(steps[i] + 1e-8) / np.sqrt(squares[i] + 1e-8)
                parameters[i] = parameters[i] - step
                steps[i] = 0.95 * steps[i] + 0.05 * step**2
        if epoch in EPOCHS:
            predicted = (X_test @ parameters[0] + parameters[1]).argmax(axis=1)
            accuracies.append((predicted == y_test).mean())
    return accuracies


def test_softmax_is_trained_as_keras_did(tmp_path):
    random = np.random.default_rng(0)
    X = random.integers(0, 4, (N + N_TEST, *SHAPE)).astype(np.float32)
    y = np.arange(N + N_TEST, dtype=np.int32) % 3
    X *= 20  # as large as those of VGG: each step moves the logits by more than one
    X[..., :3] += 40 * np.eye(3, dtype=np.float32)[y][:, np.newaxis, np.newaxis]
    flat = X.reshape(len(X), -1).astype(np.float64)
    with CodeStore.open(write_codes(tmp_path / "codes.h5", X, y)) as store:
        rows = [CodeRows(store, np.arange(N)), CodeRows(store, np.arange(N, N + N_TEST))]
        trained = train_softmax(rows[0], y[:N], rows[1], y[N:], epochs=EPOCHS, seed=3)
    wanted = written_out(flat[:N], y[:N], flat[N:], y[N:], seed=3)
    assert [each.epochs for each in trained] == [*EPOCHS]
    assert [each.accuracy for each in trained] == wanted
    assert wanted[0] != wanted[1]  # or the comparison would show little
    assert 0 < trained[0].seconds < trained[1].seconds
