"""The codes of some images of a file, read a block at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cnncodes.concurrency import ordered_map
from cnncodes.errors import TrainingError
from cnncodes.models.metadata import KEY_BYTES

if TYPE_CHECKING:
    from cnncodes.extract.store import CodeStore

_BLOCK = 256

Request = TypeVar("Request")
Result = TypeVar("Result")


class CodeRows:
    """The flattened codes of some images, as float32.

    Parameters
    ----------
    store : CodeStore
        An open codes file.
    rows : ndarray of intp, shape (n_images,)
        Rows of the file.

    Attributes
    ----------
    n_features : int
        Numbers per image.
    """

    def __init__(self, store: CodeStore, rows: NDArray[np.intp]) -> None:
        self._store = store
        self._rows = rows
        self.n_features = int(np.prod(store.codes.shape[1:]))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._rows)

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Read images `start` to `stop` of these rows, of shape (stop − start, n_features).

        Raises
        ------
        TrainingError
            A code is not finite.
        """
        return self.pick(np.arange(start, stop))

    def pick(self, indices: NDArray[np.intp]) -> NDArray[np.float32]:
        """Read the images with some indices among these rows, of shape (n_indices, n_features).

        Raises
        ------
        TrainingError
            A code is not finite.
        FileFormatError
            Codes cannot be decoded.
        """
        X = np.empty((len(indices), self.n_features), np.float32)
        for row, codes in zip(X, self._store.rows(self._rows[indices]), strict=True):
            row[:] = _as_float32(codes)
        # The sum is quick, and not finite if a code is not; it may also just overflow.
        with np.errstate(over="ignore", invalid="ignore"):
            suspicious = np.flatnonzero(~np.isfinite(X.sum(axis=1)))
        for index in suspicious:
            if not np.isfinite(X[index]).all():
                path = self._store.paths[self._rows[indices[index]]]
                raise TrainingError(
                    f"{self._store.path}: the codes of {path} are not finite; extract them "
                    "again, with dtype float32 if they overflow"
                )
        return X

    def image_keys(self) -> frozenset[str]:
        """Return the `image_key` of each image, by which a head lists those that trained it."""
        images = self._rows // self._store.n_views
        keys = self._store.raw_digests(KEY_BYTES)[images]
        return frozenset(key.tobytes().hex() for key in keys)

    def blocks(self, size: int = _BLOCK) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield the span of rows and the codes of each block of `size` images."""
        n = len(self)
        spans = [slice(start, min(start + size, n)) for start in range(0, n, size)]
        return read_ahead(lambda span: self.read(span.start, span.stop), spans)


def read_ahead(
    read: Callable[[Request], Result], requests: Iterable[Request]
) -> Iterator[tuple[Request, Result]]:
    """Yield each request with its result, in order, while the next two are being read.

    Parameters
    ----------
    read : callable
        Returns the result of a request; called in two threads.
    requests : iterable
        Arguments of `read`.

    Yields
    ------
    tuple
        A request and its result.
    """
    return ordered_map(lambda item: (item, read(item)), requests, threads=2, ahead=2, name="read")


def _as_float32(X: NDArray[Any]) -> NDArray[np.float32]:
    if X.dtype != np.float16:
        return X.astype(np.float32, copy=False)
    # numpy converts float16 one number at a time: a table is twice as fast.
    return np.take(_float16_values(), X.view(np.uint16))


@cache
def _float16_values() -> NDArray[np.float32]:
    """Return all 65,536 numbers of float16, as float32, in the order of their bits."""
    return np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
