"""The steps of gradient descent, against their formulas in double precision."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from cnncodes.head.sgd import descent
from cnncodes.head.sgd.descent import Adam, Descent, Nesterov, in_all_threads

QUADRATIC = np.array([[2.0, 0.3, 0.0], [0.3, 1.0, -0.2], [0.0, -0.2, 0.05]])
START = np.array([1.0, -2.0, 3.0])


def gradient(point):
    return QUADRATIC @ point - 1


def test_nesterov_follows_the_paper():
    """Sutskever et al., equations 3 and 4; `Nesterov` keeps the look-ahead point."""
    rate, momentum = 0.1, 0.9
    parameters, slots = START.astype(np.float32), np.zeros((1, 3), np.float32)
    optimizer = Nesterov(momentum)
    theta, velocity = START.copy(), np.zeros(3)
    for number in range(1, 26):
        optimizer.begin(rate, number)
        optimizer.update(parameters, gradient(parameters).astype(np.float32), slots)
        velocity = momentum * velocity - rate * gradient(theta + momentum * velocity)
        theta = theta + velocity
        assert parameters == pytest.approx(theta + momentum * velocity, abs=1e-5)


def test_adam_follows_the_paper():
    """Kingma and Ba, algorithm 1."""
    rate, beta1, beta2 = 0.05, 0.9, 0.999
    parameters, slots = START.astype(np.float32), np.zeros((2, 3), np.float32)
    optimizer = Adam()
    theta, first, second = START.copy(), np.zeros(3), np.zeros(3)
    for t in range(1, 26):
        slope = gradient(theta)
        optimizer.begin(rate, t)
        optimizer.update(parameters, gradient(parameters).astype(np.float32), slots)
        first = beta1 * first + (1 - beta1) * slope
        second = beta2 * second + (1 - beta2) * slope**2
        corrected = first / (1 - beta1**t), second / (1 - beta2**t)
        theta = theta - rate * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
        assert parameters == pytest.approx(theta, abs=1e-5)


def draw_batches():
    """Give three batches of sizes that differ: codes, and their classes."""
    generator = np.random.default_rng(0)
    for size in (5, 1, 8):
        yield generator.normal(size=(size, 7)).astype(np.float32), generator.integers(0, 3, size)


def gradients(X, targets, weights, bias, l2):
    """Slopes of the mean cross-entropy and of the penalty, and the summed loss."""
    logits = X @ weights + bias
    residual = (special.softmax(logits, axis=1) - np.eye(3)[targets]) / len(X)
    loss = -special.log_softmax(logits, axis=1)[np.arange(len(X)), targets].sum()
    return X.T @ residual + l2 * weights, residual.sum(axis=0), loss


@pytest.mark.parametrize("stretch", [1, 6, 9, 2**16])  # 7 features: 1, 2, 3 or all at a time
@pytest.mark.parametrize("l2", [0, 0.5])
def test_steps_are_the_plain_formula_whatever_the_stretch(monkeypatch, stretch, l2):
    monkeypatch.setattr(descent, "_STRETCH", stretch)
    trained = Descent(7, 3, Nesterov(0), l2)
    weights, bias = np.zeros((7, 3)), np.zeros(3)
    for number, (X, targets) in enumerate(draw_batches(), start=1):
        rate = 0.3 / number
        slope, bias_slope, loss = gradients(X, targets, weights, bias, l2)
        assert trained.step(X, targets, rate) == pytest.approx(loss, rel=1e-5)
        weights, bias = weights - rate * slope, bias - rate * bias_slope
        assert trained.weights == pytest.approx(weights, abs=1e-6)
        assert trained.bias == pytest.approx(bias, abs=1e-6)


@pytest.mark.parametrize("optimizer", [Nesterov(0.9), Adam()], ids=["momentum", "adam"])
def test_each_stretch_keeps_numbers_of_its_own(monkeypatch, optimizer):
    ends = []
    for stretch in (6, 2**16):
        monkeypatch.setattr(descent, "_STRETCH", stretch)
        trained = Descent(7, 3, optimizer, 0.1)
        for X, targets in draw_batches():
            trained.step(X, targets, 0.1)
        ends.append(trained)
    assert np.abs(ends[0].weights).max() > 0.1
    assert ends[0].weights == pytest.approx(ends[1].weights, abs=1e-6)
    assert ends[0].bias == pytest.approx(ends[1].bias, abs=1e-6)


def test_penalty_pulls_at_weights_and_not_at_the_bias():
    X, targets = np.zeros((4, 7), np.float32), np.array([0, 1, 2, 0])  # nothing to learn from
    trained = Descent(7, 3, Nesterov(0), 0.5)
    trained.weights[...] = 2
    trained.bias[...] = np.log([0.5, 0.25, 0.25])  # the shares of the classes: no slope
    before = trained.bias.copy()
    trained.step(X, targets, 0.1)
    assert trained.weights == pytest.approx(np.full((7, 3), 2 - 0.1 * 0.5 * 2), rel=1e-6)
    assert trained.bias == pytest.approx(before, abs=1e-6)


@pytest.mark.parametrize("optimizer", [Adam(), Nesterov(0.9)])
@pytest.mark.parametrize("part", [1, 6, 9, 1000])
def test_threads_change_nothing_of_the_result(monkeypatch, optimizer, part):
    monkeypatch.setattr(descent, "_PART", part)
    alone, together = (Descent(7, 3, optimizer, l2=0.1) for _ in range(2))
    with in_all_threads() as run:
        for X, targets in draw_batches():
            assert together.step(X, targets, 0.1, run) == alone.step(X, targets, 0.1)
            assert np.array_equal(together.logits(X, run), alone.logits(X))
    assert np.array_equal(together.weights, alone.weights)
    assert np.array_equal(together.bias, alone.bias)
