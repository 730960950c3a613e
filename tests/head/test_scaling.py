from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from cnncodes.head.scaling import Scaling

# Codes are zero, or far from the smallest floats.
VALUES = st.floats(-10_000, 10_000, width=32).map(lambda value: 0 if abs(value) < 1e-4 else value)
CODES = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=VALUES)


def draw(seed, shape, offset=0.0, size=1.0):
    return np.random.default_rng(seed).normal(offset, size, shape).astype(np.float32)


def mean_squared_length(X):
    return float(np.square(X, dtype=np.float64).sum(axis=1).mean())


@settings(deadline=None)
@given(CODES)
def test_mean_squared_length_is_one_after_apply(X):
    constant = np.ptp(X, axis=0).max() == 0
    Scaling.of([X]).apply(X)
    assert mean_squared_length(X) == (0 if constant else pytest.approx(1, rel=1e-4))


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("n_images", [2, 255, 256, 257, 700])
def test_length_and_centre_whatever_the_size_and_number_of_codes(size, n_images):
    X = draw(n_images, (n_images, 20), offset=3 * size, size=size)
    Scaling.of([X]).apply(X)
    assert mean_squared_length(X) == pytest.approx(1, rel=1e-4)
    assert np.abs(X.mean(axis=0, dtype=np.float64)).max() < 1e-5


def test_blocks_are_measured_as_one():
    X = draw(0, (100, 7), offset=1000)
    X[:10] += 50  # the first block is not like the others
    whole, parts = Scaling.of([X]), Scaling.of([X[:10], X[10:11], X[11:]])
    assert parts.mean == pytest.approx(whole.mean, rel=1e-6)
    assert parts.scale == pytest.approx(whole.scale, rel=1e-6)
    assert whole.scale == pytest.approx(np.sqrt(X.var(axis=0, dtype=np.float64).sum()), rel=1e-6)


def test_one_scale_for_all_features():
    X = draw(0, (50, 6)) * np.array([1e-3, 1, 1, 1, 1, 100], np.float32)
    before = X.std(axis=0)
    Scaling.of([X]).apply(X)
    ratios = X.std(axis=0) / before
    assert ratios == pytest.approx(ratios[0], rel=1e-3)


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e30, 65504])
@pytest.mark.parametrize("n_images", [1, 2, 3, 300])
def test_constant_codes_become_zero(value, n_images):
    X = np.full((n_images, 5), value, np.float32)
    scaling = Scaling.of([X])
    scaling.apply(X)
    assert (X == 0).all()
    assert scaling.scale == 1


def test_scaling_of_the_training_images_serves_others():
    train, other = draw(1, (40, 8), offset=5, size=2), draw(2, (3, 8), offset=5, size=2)
    centre = train.mean(axis=0, dtype=np.float64)
    length = np.sqrt(np.square(train - centre).sum(axis=1).mean())
    wanted = (other - centre) / length
    Scaling.of([train]).apply(other)
    assert other == pytest.approx(wanted, abs=1e-6)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32),
    shape=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    n_classes=st.integers(2, 6),
    offset=st.floats(-50, 50),
    exponent=st.integers(-4, 4),
)
def test_folding_keeps_the_logits(seed, shape, n_classes, offset, exponent):
    X = draw(seed, shape, offset, 10.0**exponent)
    weights = draw(seed + 1, (shape[1], n_classes))
    bias = draw(seed + 2, (n_classes,))
    scaling = Scaling.of([X])
    folded, folded_bias = scaling.fold(weights, bias)
    assert folded.dtype == folded_bias.dtype == np.float32
    wanted = (X.astype(np.float64) - scaling.mean) / scaling.scale @ weights + bias
    actual = X.astype(np.float64) @ folded + folded_bias
    # The terms, not their sum, set how exact float32 weights and bias can be.
    terms = np.abs(X).astype(np.float64) @ np.abs(folded) + np.abs(folded_bias) + np.abs(bias)
    assert (np.abs(actual - wanted) <= 1e-6 * terms).all()
