"""The codes of some images of a file, read a block at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncodes.errors import TrainingError
from cnncodes.extract.store import CodeStore

_WINDOW = 256


class CodeRows:
    """The flattened codes of some images, as they are stored.

    Parameters
    ----------
    store : CodeStore
        An open codes file.
    rows : ndarray of intp, shape (n_images,)
        Places in the file, increasing.

    Attributes
    ----------
    n_features : int
        Numbers an image.
    itemsize : int
        Bytes a number.
    """

    def __init__(self, store: CodeStore, rows: NDArray[np.intp]) -> None:
        self._store = store
        self._rows = rows
        self.n_features = int(np.prod(store.codes.shape[1:]))
        self.itemsize: int = store.codes.dtype.itemsize

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._rows)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read images `start` to `stop` of these, of shape (stop − start, n_features).

        Raises
        ------
        TrainingError
            A code is not finite.
        """
        wanted = self._rows[start:stop]
        X = np.empty((len(wanted), self.n_features), self._store.codes.dtype)
        filled = 0
        while filled < len(wanted):
            # Whole stretches are read and thinned out in memory: HDF5 is slow at picking.
            first = wanted[filled]
            inside = int(np.searchsorted(wanted, first + _WINDOW)) - filled
            picked = wanted[filled : filled + inside] - first
            stretch = self._store.codes[first : first + picked[-1] + 1]
            X[filled : filled + inside] = stretch.reshape(len(stretch), -1)[picked]
            filled += inside
        finite = np.isfinite(X).all(axis=1)
        if not finite.all():
            raise TrainingError(
                f"{self._store.path}: the codes of {self._store.paths[wanted[~finite][0]]} are not "
                "finite; extract them again, with --dtype float32 if they overflow"
            )
        return X

    def blocks(self, size: int = _WINDOW) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Give all images, `size` at a time, as float32, each with its places."""
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            yield slice(start, stop), self.read(start, stop).astype(np.float32)
