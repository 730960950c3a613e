"""Rows convolved at points: the same as by the definition, whatever the length."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cnncodes.export.bilinear import POINTS, Algorithm, tiled, whole_row


def convolve(
    algorithm: Algorithm, row: NDArray[np.float64], taps: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Convolve as a graph does: tiles, points, products, results one after another."""
    tiles = row[None] if algorithm.indices is None else row[algorithm.indices]
    points = np.einsum("tps,ts->tp", algorithm.input_transform, tiles)
    return ((points * (algorithm.filter_transform @ taps)) @ algorithm.output_transform.T).reshape(
        -1
    )


def check(algorithm: Algorithm, length: int, pad: int, taps: int) -> None:
    random = np.random.default_rng(length)
    row, weights = random.normal(size=length), random.normal(size=taps)
    expected = np.correlate(np.pad(row, pad), weights, "valid")
    outputs = convolve(algorithm, row, weights)
    assert len(outputs) - len(expected) < len(algorithm.output_transform)
    np.testing.assert_allclose(outputs[: len(expected)], expected, atol=1e-9)


@given(length=st.integers(3, 60), pad=st.integers(0, 2), tile=st.sampled_from(sorted(POINTS)))
def test_tiled(length: int, pad: int, tile: int) -> None:
    algorithm = tiled(length, pad, tile)
    check(algorithm, length, pad, 3)
    assert algorithm.n_points == algorithm.span == tile + 2


@given(data=st.data(), length=st.integers(1, 60), taps=st.integers(1, 9))
def test_whole_row(data: st.DataObject, length: int, taps: int) -> None:
    pad = data.draw(st.integers(max(0, (taps - length + 1) // 2), max(0, taps - 1)))
    check(whole_row(length, pad, taps), length, pad, taps)


def test_takes_as_few_products_as_can_be() -> None:
    # A product of polynomials modulo x^15 - 1, which has 8 real factors, takes 2 * 15 - 8.
    assert whole_row(12, 3, 7).n_points == 22


@pytest.mark.parametrize("algorithm", [tiled(25, 1, 5), tiled(28, 1, 4), whole_row(12, 3, 7)])
def test_neither_makes_numbers_large(algorithm: Algorithm) -> None:
    """What is large here is lost to rounding there."""
    assert np.abs(algorithm.input_transform).sum(axis=2).max() < 20
    assert np.abs(algorithm.output_transform).sum(axis=1).max() < 40
