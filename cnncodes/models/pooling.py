"""How codes of height and width are pooled, by name.

``grid2`` is the mean of each quarter: of a length n the first half is 0 to ⌈n/2⌉ and the second
⌊n/2⌋ to n, which overlap by one where n is odd. These are the bounds of PyTorch's
``adaptive_avg_pool2d``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PARTS = {"avg": 1, "max": 1, "avg+max": 2, "grid2": 4}  # codes for each channel


def pooled_shape(shape: Sequence[int], pool: str) -> tuple[int, ...]:
    """Return the shape of codes (h, w, c) after pooling."""
    return tuple(shape) if pool == "none" else (shape[-1] * _PARTS[pool],)


def halves(length: int) -> tuple[slice, slice]:
    """Return the two halves of a length, for ``grid2``."""
    return slice(0, (length + 1) // 2), slice(length // 2, length)


def pool_codes(codes: NDArray[Any], pool: str) -> NDArray[Any]:
    """Pool the codes of an image over height and width.

    Parameters
    ----------
    codes : ndarray of float16 or float32, shape (..., c), for ``grid2`` (h, w, c)
        Codes as a network has them without pooling.
    pool : {"avg", "max", "avg+max", "grid2"}
        ``avg+max`` has all means first; ``grid2`` the quarters row by row, each with all channels.

    Returns
    -------
    ndarray, shape (n_codes,)
        Of the dtype of `codes` for ``max``, else float64.
    """
    channels = codes.shape[-1]
    largest: NDArray[Any] = codes.reshape(-1, channels).max(axis=0)
    if pool == "max":
        return largest
    cells = [codes]
    if pool == "grid2":
        height, width = codes.shape[:2]
        cells = [codes[rows, columns] for rows in halves(height) for columns in halves(width)]
    flat = [cell.reshape(-1, channels) for cell in cells]
    means = np.concatenate([cell.mean(axis=0, dtype=np.float64) for cell in flat])
    return np.concatenate([means, largest]) if pool == "avg+max" else means
