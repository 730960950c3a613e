"""The Gram matrix, and the fit on it."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from cnncodes.errors import TrainingError
from cnncodes.head.logistic.gram import (
    centre,
    combine,
    gram_matrix,
    reference_of,
    rotate,
    solve_gram,
)
from cnncodes.head.logistic.solve import new_solver, solve


@pytest.fixture(scope="module")
def wide() -> np.ndarray:
    """90 rows with 640 features, not centred."""
    return np.random.default_rng(0).standard_normal((90, 640)) + 3


@given(n=st.integers(1, 40), d=st.integers(1, 9), block=st.integers(1, 12), seed=st.integers(0, 99))
def test_gram_matrix_is_that_of_all_rows(n, d, block, seed):
    X = np.random.default_rng(seed).standard_normal((n, d))
    asked = []

    def read(start, stop):
        asked.append((start, stop))
        return X[start:stop]

    K = gram_matrix(read, n, block=block)
    centre(K)
    centred = X - X.mean(axis=0)
    np.testing.assert_allclose(K, centred @ centred.T, atol=1e-12)
    assert all(0 <= start < stop <= n and stop - start <= block for start, stop in asked)
    # Each row is read once for each block that stays while it passes, its own included.
    for row in range(n):
        assert sum(start <= row < stop for start, stop in asked) == row // block + 1


@given(data=st.data(), n=st.integers(1, 40), block=st.integers(1, 12))
def test_gram_matrix_of_the_first_columns(data, n, block):
    n_columns = data.draw(st.integers(1, n))
    X = np.random.default_rng(n).standard_normal((n, 5))
    asked = []

    def read(start, stop):
        asked.append((start, stop))
        return X[start:stop]

    K = gram_matrix(read, n, block=block, n_columns=n_columns)
    # Centring takes out the vector that was subtracted, here of the columns on both sides.
    K -= K[:n_columns].mean(axis=0)
    K -= K.mean(axis=1, keepdims=True)
    centred = X - X[:n_columns].mean(axis=0)
    np.testing.assert_allclose(K, centred @ centred[:n_columns].T, atol=1e-12)
    for row in range(n):
        n_reads = sum(start <= row < stop for start, stop in asked)
        assert n_reads == min(row, n_columns - 1) // block + 1


def test_failure_to_read_is_passed_on():
    def read(start, stop):
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        gram_matrix(read, 3, block=1)


def test_single_precision_codes_are_multiplied_exactly_enough():
    codes = np.maximum(np.random.default_rng(0).standard_normal((20, 9000)) - 1, 0)
    codes = codes.astype(np.float32)
    K = gram_matrix(lambda start, stop: codes[start:stop], 20, block=7)
    centre(K)
    centred = codes - codes.mean(axis=0, dtype=np.float64)
    assert np.abs(K - centred @ centred.T).max() < 1e-6 * K.max()


@pytest.mark.parametrize("block", [7, 2000])
@pytest.mark.parametrize(("dtype", "spread"), [(np.float32, 1e-4), (np.float64, 1e-12)])
def test_images_that_differ_by_little_keep_their_differences(dtype, spread, block):
    noise = np.random.default_rng(0).standard_normal((90, 400))
    X = (7.3 * (1 + spread * noise)).astype(dtype)
    kept = X.copy()
    K = gram_matrix(lambda start, stop: X[start:stop], 90, block=block, dtype=dtype)
    np.testing.assert_array_equal(X, kept)
    centre(K)
    differences = (X - X[0]).astype(np.float64)  # exact, so near each other
    differences -= differences.mean(axis=0)
    exact = differences @ differences.T
    assert np.abs(K - exact).max() < 1e-4 * exact.max()


def test_one_unlike_image_does_not_hide_how_the_others_differ():
    noise = np.random.default_rng(0).standard_normal((90, 400))
    X = (7.3 * (1 + 1e-3 * noise)).astype(np.float32)
    X[0] = 0  # a dark picture, before the others
    K = gram_matrix(lambda start, stop: X[start:stop], 90, block=9000, dtype=np.float32)[1:, 1:]
    centre(K)
    differences = (X[1:] - X[1]).astype(np.float64)
    differences -= differences.mean(axis=0)
    exact = differences @ differences.T
    assert np.abs(K - exact).max() < 0.01 * exact.max()


@given(
    st.integers(1, 300),
    st.integers(1, 4),
    st.floats(-1e38, 1e38).map(np.float32),
    st.sampled_from("fd"),
)
def test_reference_of_equal_rows_is_the_row(n, d, value, dtype):
    X = np.full((n, d), value, dtype)
    np.testing.assert_array_equal(reference_of(X), X[0])


def test_centring_is_that_of_the_rows(wide):
    X = wide
    K = X @ X.T
    means = centre(K)
    np.testing.assert_allclose(means, X @ X.mean(axis=0))
    centred = X - X.mean(axis=0)
    np.testing.assert_allclose(K, centred @ centred.T, atol=1e-9 * np.abs(X @ X.T).max())


def test_rotation_keeps_inner_products(wide):
    X = wide - wide.mean(axis=0)
    K = X @ X.T
    points, _ = rotate(K)
    assert points is K  # no second matrix stays in memory during the fit
    np.testing.assert_allclose(points @ points.T, X @ X.T, atol=1e-5 * np.trace(X @ X.T) / len(X))


def test_matrix_that_no_rows_have_is_refused():
    with pytest.raises(TrainingError, match="differ too unevenly"):
        rotate(np.array([[1.0, 2.0], [2.0, 1.0]]))


@given(
    n=st.integers(1, 30),
    n_columns=st.integers(1, 30),
    block=st.integers(1, 12),
    d=st.integers(1, 9),
)
def test_columns_of_the_first_rows_alone(n, n_columns, block, d):
    n_columns = min(n, n_columns)
    X = np.random.default_rng(n).standard_normal((n, d))
    most = 0

    def read(start, stop):
        nonlocal most
        most = max(most, stop - start)
        return X[start:stop]

    part = gram_matrix(read, n, block=block, n_columns=n_columns)
    shifted = X - reference_of(X[: min(n_columns, most)])
    assert part.shape == (n, n_columns)
    np.testing.assert_allclose(part, shifted @ shifted[:n_columns].T, atol=1e-12)


@pytest.mark.parametrize("scaled", [True, False])
def test_fit_on_inner_products_is_that_on_the_rows(wide, scaled):
    y = np.arange(90) % 3
    centred = wide - wide.mean(axis=0)
    length = np.sqrt(np.square(centred).sum(axis=1).mean())
    divisor = length if scaled else 1.0
    fit = solve_gram(
        wide @ wide.T, partial(solve, y=y, estimator=new_solver(tol=1e-9), C=0.1), scaled=scaled
    )
    reference = LogisticRegression(C=0.1, tol=1e-9, max_iter=5000).fit(centred / divisor, y)
    weights, mean = combine([(slice(0, 90), wide)], fit.alpha)
    np.testing.assert_allclose(weights, reference.coef_.T / divisor, atol=1e-5)
    np.testing.assert_allclose(mean, wide.mean(axis=0))
    np.testing.assert_allclose(fit.means, wide @ mean)
    assert fit.squared_length == pytest.approx(length**2)
    expected = centred @ weights + fit.solution.intercept
    np.testing.assert_allclose(fit.logits, expected, atol=1e-6)
