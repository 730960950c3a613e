"""A row convolved with few taps, in fewer multiplications than places times taps.

1. Row and taps are polynomials: their values at some points are multiplied, and the products
   interpolated. Three linear maps do it, y = from_points · (to_points · x ∗ of_weights · w), where
   ∗ multiplies point by point. (Toom 1963; Cook 1966; Winograd 1980, "Arithmetic Complexity of
   Computations".)
2. `in_tiles` cuts a row into tiles and takes real points. A tile of m places needs m + taps − 1,
   but the more points, the larger the rounding errors: 6 points err by 1e-6 of the largest
   result, 7 by up to 1e-5, a convolution as it is by 4e-7. The points are those that erred least of
   some hundred sets.
3. `whole_row` takes the roots of unity, as a Fourier transform does, which round as well as no
   transform at all. Two conjugate ones are a complex product, of three real ones (Gauss). The
   zeros beyond both ends of a row let it be shorter than row and taps together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
# By the size of a tile, for three taps. Each set goes with the point at infinity.
POINTS = {
    4: (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5)),
    5: (0.0, 1.0, -1.0, 2.0, -2.0, 0.4),
}
TAPS_OF_TILES = 3


@dataclass(frozen=True, eq=False)
class Way:
    """A way to convolve rows of one length.

    Attributes
    ----------
    name : str
        Tells it from others.
    places : ndarray of int64, shape (n_tiles, span), or None
        Which places of the row each tile takes; None if its only tile is the row.
    to_points : ndarray of float64, shape (n_tiles, n_points, span)
        What brings a tile to the points. What a tile takes beyond the row counts nothing.
    of_weights : ndarray of float64, shape (n_points, taps)
        What brings the taps to the points.
    from_points : ndarray of float64, shape (tile, n_points)
        What makes the results of a tile. The last tile may make more than there are.
    """

    name: str
    places: NDArray[np.int64] | None
    to_points: Matrix
    of_weights: Matrix
    from_points: Matrix

    @property
    def n_tiles(self) -> int:
        """Number of tiles."""
        return len(self.to_points)

    @property
    def n_points(self) -> int:
        """Number of points, and so of multiplications a tile."""
        return len(self.of_weights)

    @property
    def span(self) -> int:
        """How many places a tile takes."""
        return int(self.to_points.shape[2])


@cache
def in_tiles(length: int, pad: int, tile: int) -> Way:
    """Convolve with three taps, tile by tile.

    Parameters
    ----------
    length : int
        Of the row.
    pad : int
        Zeros at each end.
    tile : {4, 5}
        Results of a tile.

    Returns
    -------
    Way
        With tile + 2 points.
    """
    to_points, of_weights, from_points = _toom_cook(POINTS[tile], TAPS_OF_TILES)
    n_tiles = -(-(length + 2 * pad - TAPS_OF_TILES + 1) // tile)
    places = tile * np.arange(n_tiles)[:, None] + np.arange(len(to_points)) - pad
    inside = (places >= 0) & (places < length)
    return Way(
        f"{length}_{pad}_in_{tile}",
        places.clip(0, length - 1),
        to_points * inside[:, None, :],
        of_weights,
        from_points,
    )


@cache
def whole_row(length: int, pad: int, taps: int) -> Way:
    """Convolve a row in one go.

    Parameters
    ----------
    length : int
        Of the row.
    pad : int
        Zeros at each end.
    taps : int
        How many.

    Returns
    -------
    Way
        With about 1.5 points for each place.
    """
    n_out, period = length + 2 * pad - taps + 1, length + pad
    to_points, of_weights, from_points = [], [], []
    for frequency in range(period // 2 + 1):
        turn = 2j * np.pi * frequency / period
        x = np.exp(-turn * np.arange(length))
        w = np.exp(turn * np.arange(taps))
        y = np.exp(turn * (np.arange(n_out) - pad)) / period
        if frequency == 0 or 2 * frequency == period:
            to_points.append(x.real)
            of_weights.append(w.real)
            from_points.append(y.real)
        else:
            to_points += [x.real + x.imag, x.real, x.imag]
            of_weights += [w.real, w.imag - w.real, w.real + w.imag]
            from_points += [2 * (y.real - y.imag), -2 * y.imag, -2 * y.real]
    return Way(
        f"{length}_{pad}_whole_{taps}",
        None,
        np.array(to_points)[None],
        np.array(of_weights),
        np.transpose(from_points),
    )


def _toom_cook(points: tuple[float, ...], taps: int) -> tuple[Matrix, Matrix, Matrix]:
    """Return to_points, of_weights and from_points of a tile, for some points and infinity."""
    n_points = len(points) + 1
    tile = n_points - taps + 1
    to_points = np.zeros((n_points, n_points))
    of_weights = np.zeros((n_points, taps))
    from_points = np.zeros((tile, n_points))
    for row, point in enumerate(points):
        others = [other for other in points if other != point]
        to_points[row, :-1] = np.poly(others)[::-1]
        of_weights[row] = point ** np.arange(taps) / np.prod(np.subtract(point, others))
        from_points[:, row] = point ** np.arange(tile)
    to_points[-1] = np.poly(points)[::-1]
    of_weights[-1, -1] = from_points[-1, -1] = 1
    return to_points, of_weights, from_points
