"""Rows convolved by way of points: the same as by the definition, whatever the length."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cnncodes.export.bilinear import POINTS, Way, in_tiles, whole_row


def convolve(way: Way, row: NDArray[np.float64], taps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convolve as a graph does: tiles, points, products, results one after another."""
    tiles = row[None] if way.places is None else row[way.places]
    points = np.einsum("tps,ts->tp", way.to_points, tiles)
    return ((points * (way.of_weights @ taps)) @ way.from_points.T).reshape(-1)


def check(way: Way, length: int, pad: int, taps: int) -> None:
    random = np.random.default_rng(length)
    row, weights = random.normal(size=length), random.normal(size=taps)
    expected = np.correlate(np.pad(row, pad), weights, "valid")
    found = convolve(way, row, weights)
    assert len(found) - len(expected) < len(way.from_points)
    np.testing.assert_allclose(found[: len(expected)], expected, atol=1e-9)


@given(length=st.integers(3, 60), pad=st.integers(0, 2), tile=st.sampled_from(sorted(POINTS)))
def test_in_tiles(length: int, pad: int, tile: int) -> None:
    way = in_tiles(length, pad, tile)
    check(way, length, pad, 3)
    assert way.n_points == way.span == tile + 2


@given(data=st.data(), length=st.integers(1, 60), taps=st.integers(1, 9))
def test_whole_row(data: st.DataObject, length: int, taps: int) -> None:
    pad = data.draw(st.integers(max(0, (taps - length + 1) // 2), max(0, taps - 1)))
    check(whole_row(length, pad, taps), length, pad, taps)


def test_takes_as_few_products_as_can_be() -> None:
    # A product of polynomials modulo x^15 - 1, which has 8 real factors, takes 2 * 15 - 8.
    assert whole_row(12, 3, 7).n_points == 22


@pytest.mark.parametrize("way", [in_tiles(25, 1, 5), in_tiles(28, 1, 4), whole_row(12, 3, 7)])
def test_neither_makes_numbers_large(way: Way) -> None:
    """What is large here is lost to rounding there."""
    assert np.abs(way.to_points).sum(axis=2).max() < 20
    assert np.abs(way.from_points).sum(axis=1).max() < 40
