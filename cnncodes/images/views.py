"""Mirrored and turned views of an image, made of the pixels of a network's input."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# By augmentation, of each view, in their order, whether rows and columns are exchanged, and which
# axes are reversed then. `cnncodes.app.views` makes the same views in a graph.
Symmetry = tuple[bool, tuple[int, ...]]
_MIRRORED: tuple[Symmetry, ...] = ((False, ()), (False, (2,)))
SYMMETRIES: dict[str, tuple[Symmetry, ...]] = {
    "hflip": _MIRRORED,
    "hvflip": (*_MIRRORED, (False, (1,)), (False, (1, 2))),
    "d4": (
        *_MIRRORED,
        *((True, (1,)), (True, (1, 2))),
        *((False, (1, 2)), (False, (1,))),
        *((True, (2,)), (True, ())),
    ),
}


def make_views(pixels: NDArray[Any], augment: str) -> NDArray[Any]:
    """Return the views of each image of a batch.

    View 0 is the image itself and view 1 its mirror image, left and right exchanged. With
    ``hvflip``, the four symmetries of a rectangle, views 2 and 3 are both of these with top and
    bottom exchanged. With ``d4``, the eight symmetries of a square, views 2k and 2k + 1 are both
    of these turned by k quarter turns: view 2k is the image turned counter-clockwise, and view
    2k + 1 the mirror image of view 2k.

    Parameters
    ----------
    pixels : ndarray, shape (n_images, size, size, 3)
        Images; with ``d4`` their height is their width.
    augment : {"none", "hflip", "hvflip", "d4"}
        Which views.

    Returns
    -------
    ndarray, shape (n_images * n_views, size, size, 3)
        The views, all of an image one after the other.
    """
    if augment == "none":
        return pixels
    exchanged = pixels.swapaxes(1, 2)
    views = [
        np.flip(exchanged if is_exchanged else pixels, axes)
        for is_exchanged, axes in SYMMETRIES[augment]
    ]
    return np.stack(views, axis=1).reshape(-1, *pixels.shape[1:])
