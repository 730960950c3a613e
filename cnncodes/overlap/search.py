"""Pairs of images with similar descriptors, a block of the Gram matrix at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cnncodes.overlap.descriptors import Descriptors
from cnncodes.progress import Progress

_BLOCK_NUMBERS = 2**22  # of the Gram matrix in memory
Pairs = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]


def similar_pairs(
    one: Descriptors, two: Descriptors | None, threshold: float, most: int, progress: Progress
) -> tuple[Pairs, int]:
    """Return the pairs of images whose similarity is at least a threshold.

    Parameters
    ----------
    one, two : Descriptors
        Of two collections; without `two`, pairs of images within one.
    threshold : float
        Lowest similarity.
    most : int
        Number of pairs to return at most, those of the highest similarity.
    progress : Progress
        Counts the images of `one`.

    Returns
    -------
    pairs : tuple of ndarray, each of shape (n_pairs,)
        Indices in `one` and in `two`, and similarities, in decreasing order. Within one
        collection the first index is the lower one.
    n_pairs : int
        Number of all pairs.
    """
    other = one if two is None else two
    block = max(1, _BLOCK_NUMBERS // max(other.n_images, 1))
    pairs: Pairs = (np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0, np.float32))
    n_pairs = 0
    progress.begin(one.n_images, unit="images compared")
    for start in range(0, one.n_images, block):
        rows = slice(start, min(start + block, one.n_images))
        similarity = _similarity(one, other, rows)
        is_pair = similarity >= threshold
        if two is None:  # each pair once
            is_pair &= np.arange(other.n_images) > np.arange(rows.start, rows.stop)[:, None]
        i, j = np.nonzero(is_pair)
        n_pairs += len(i)
        pairs = _best(
            np.concatenate([pairs[0], i + start]),
            np.concatenate([pairs[1], j]),
            np.concatenate([pairs[2], similarity[i, j]]),
            most,
        )
        progress.advance(rows.stop - rows.start)
    return pairs, n_pairs


def _similarity(one: Descriptors, two: Descriptors, rows: slice) -> NDArray[np.float32]:
    """Return the similarity of some images of `one` and all of `two`."""
    highest = np.full((rows.stop - rows.start, two.n_images), -1, np.float32)
    product = np.empty_like(highest)
    for left, right in ((one.whole, two.views), (one.views, two.whole)):
        for vectors in left:
            for others in right:
                np.maximum(highest, np.matmul(vectors[rows], others.T, out=product), out=highest)
        if one.whole is one.views and two.whole is two.views:
            break
    return np.minimum(highest, 1, out=highest)


def _best(
    i: NDArray[np.intp], j: NDArray[np.intp], similarity: NDArray[np.float32], most: int
) -> Pairs:
    """Return the pairs of the highest similarity, in decreasing order."""
    order = np.lexsort((j, i, -similarity))[:most]
    return i[order], j[order], similarity[order]
