"""Bilinear algorithms: a row is convolved with few taps in less than outputs × taps products.

1. Row and taps are polynomials: they are evaluated at some points, multiplied point by point, and
   the products interpolated: y = O · (I x ∗ F w), with the input transform I, the filter transform
   F and the output transform O. (Toom 1963; Cook 1966; Winograd 1980, "Arithmetic Complexity of
   Computations".)
2. `tiled` cuts a row into tiles and evaluates at real points. A tile of m outputs needs
   m + taps − 1 points, but rounding errors grow with their number: 6 points have errors of 1e-6
   of the largest output, 7 of up to 1e-5, a plain convolution of 4e-7. The points are those with
   the least error of some hundred sets.
3. `whole_row` evaluates at the roots of unity, as a Fourier transform does, and rounds as well as a
   plain convolution. Two conjugate roots make one complex product, of three real ones (Gauss). The
   padding allows a period shorter than row and taps together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
# The points by outputs per tile, for three taps; the point at infinity is one more.
POINTS = {
    4: (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5)),
    5: (0.0, 1.0, -1.0, 2.0, -2.0, 0.4),
}
TAPS_OF_TILES = 3


@dataclass(frozen=True, eq=False)
class Algorithm:
    """A bilinear algorithm for rows of one length.

    Attributes
    ----------
    name : str
        Identifies it.
    indices : ndarray of int64, shape (n_tiles, span), or None
        Indices into the row of the inputs of each tile; None if the only tile is the row.
    input_transform : ndarray of float64, shape (n_tiles, n_points, span)
        From a tile to its values at the points. Columns of indices beyond the row are 0.
    filter_transform : ndarray of float64, shape (n_points, taps)
        From the taps to their values at the points.
    output_transform : ndarray of float64, shape (tile, n_points)
        From products to the outputs of a tile. The last tile may have outputs beyond the row.
    """

    name: str
    indices: NDArray[np.int64] | None
    input_transform: Matrix
    filter_transform: Matrix
    output_transform: Matrix

    @property
    def n_tiles(self) -> int:
        """Number of tiles."""
        return len(self.input_transform)

    @property
    def n_points(self) -> int:
        """Number of points, and so of multiplications per tile."""
        return len(self.filter_transform)

    @property
    def span(self) -> int:
        """Number of inputs of a tile."""
        return int(self.input_transform.shape[2])


@cache
def tiled(length: int, pad: int, tile: int) -> Algorithm:
    """Return the Toom-Cook algorithm for three taps, tile by tile.

    Parameters
    ----------
    length : int
        Length of the row.
    pad : int
        Zeros at each end.
    tile : {4, 5}
        Outputs of a tile.

    Returns
    -------
    Algorithm
        With tile + 2 points.
    """
    input_transform, filter_transform, output_transform = _toom_cook(POINTS[tile], TAPS_OF_TILES)
    n_tiles = -(-(length + 2 * pad - TAPS_OF_TILES + 1) // tile)
    # (n_tiles, 1) + (span,): tiles overlap by taps − 1 inputs.
    indices = tile * np.arange(n_tiles)[:, None] + np.arange(len(input_transform)) - pad
    inside = (indices >= 0) & (indices < length)
    return Algorithm(
        f"{length}_{pad}_tiles_of_{tile}",
        indices.clip(0, length - 1),
        input_transform * inside[:, None, :],  # (n_points, span) * (n_tiles, 1, span)
        filter_transform,
        output_transform,
    )


@cache
def whole_row(length: int, pad: int, taps: int) -> Algorithm:
    """Return the real Fourier algorithm, in which the row is the only tile.

    Parameters
    ----------
    length : int
        Length of the row.
    pad : int
        Zeros at each end.
    taps : int
        Number of taps.

    Returns
    -------
    Algorithm
        With about 1.5 points per input.
    """
    # Cyclic: the same zeros are the padding of both ends.
    n_out, period = length + 2 * pad - taps + 1, length + pad
    input_transform, filter_transform, output_transform = [], [], []
    for frequency in range(period // 2 + 1):
        angle = 2j * np.pi * frequency / period
        x = np.exp(-angle * np.arange(length))
        w = np.exp(angle * np.arange(taps))
        y = np.exp(angle * (np.arange(n_out) - pad)) / period
        if frequency == 0 or 2 * frequency == period:
            input_transform.append(x.real)
            filter_transform.append(w.real)
            output_transform.append(y.real)
        else:  # with its conjugate, which doubles the real part
            input_transform += [x.real + x.imag, x.real, x.imag]
            filter_transform += [w.real, w.imag - w.real, w.real + w.imag]
            output_transform += [2 * (y.real - y.imag), -2 * y.imag, -2 * y.real]
    return Algorithm(
        f"{length}_{pad}_whole_{taps}",
        None,
        np.array(input_transform)[None],
        np.array(filter_transform),
        np.transpose(output_transform),
    )


def _toom_cook(points: tuple[float, ...], taps: int) -> tuple[Matrix, Matrix, Matrix]:
    """Return input, filter and output transform of a tile, for some points and infinity."""
    n_points = len(points) + 1
    tile = n_points - taps + 1
    input_transform = np.zeros((n_points, n_points))
    filter_transform = np.zeros((n_points, taps))
    output_transform = np.zeros((tile, n_points))
    for row, point in enumerate(points):
        others = [other for other in points if other != point]
        input_transform[row, :-1] = np.poly(others)[::-1]
        filter_transform[row] = point ** np.arange(taps) / np.prod(np.subtract(point, others))
        output_transform[:, row] = point ** np.arange(tile)
    input_transform[-1] = np.poly(points)[::-1]
    filter_transform[-1, -1] = output_transform[-1, -1] = 1
    return input_transform, filter_transform, output_transform
