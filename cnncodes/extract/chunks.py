"""Compressed rows of a codes file, read many at a time from where they lie on the disk.

HDF5 reads each by itself. In files that cnncodes wrote they follow one another, with a node of
HDF5's index in between now and then, so that one call of the system reads many.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
from h5py._objects import phil

from cnncodes.extract.store import CodeStore
from cnncodes.extract.writing import checksum_of
from cnncodes.hdf5 import UNREADABLE

LARGEST_GAP = 1 << 16  # bytes between two chunks that are read together


class ChunkReader:
    """Reads chunks as they are stored, compared with the checksums of their rows.

    Parameters
    ----------
    store : CodeStore
        An open codes file.
    """

    def __init__(self, store: CodeStore) -> None:
        self._store = store
        self._file = store.path.open("rb", buffering=0)
        self._starts = np.zeros(len(store), np.int64)
        self._sizes = np.zeros(len(store), np.int64)  # 0 for a row that HDF5 has to read
        self._buffer = bytearray()
        if store.checksums is not None:
            self._locate()

    def read(self, rows: Sequence[int]) -> list[bytes]:
        """Return the chunks of rows, which are views of memory that the next call uses again.

        Parameters
        ----------
        rows : sequence of int
            The rows, one or more, ascending.

        Raises
        ------
        FileFormatError
            A row is unreadable, or holds the codes of another.
        """
        return self._read(rows) or list(map(self._store.stored_chunk, rows))

    def __enter__(self) -> ChunkReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def _locate(self) -> None:
        """Find offset and size of each chunk, where HDF5 lists them."""
        dataset = self._store.codes.id
        if not hasattr(dataset, "chunk_iter"):  # of HDF5 before 1.12.3
            return
        n_rows, largest = len(self._store), 2 * self._store.row_bytes + 1024

        def note(chunk: tuple[tuple[int, ...], int, int, int]) -> None:
            (row, *_), _, start, n_bytes = chunk
            if row < n_rows and n_bytes <= largest:
                self._starts[row], self._sizes[row] = start, n_bytes

        try:
            with phil:
                dataset.chunk_iter(note)
        except UNREADABLE:  # reported for the row that is damaged
            self._sizes[:] = 0

    def _read(self, rows: Sequence[int]) -> list[Any]:
        """Return the chunks of rows; none where one is not as expected."""
        starts, sizes = self._starts[rows], self._sizes[rows]
        gaps = starts[1:] - (starts + sizes)[:-1]
        if not sizes.all() or (len(gaps) and not 0 <= gaps.min() <= gaps.max() <= LARGEST_GAP):
            return []
        first = int(starts[0])
        ends = (starts + sizes - first).tolist()
        if len(self._buffer) < ends[-1]:
            self._buffer = bytearray(ends[-1])
        block = memoryview(self._buffer)[: ends[-1]]
        try:
            self._file.seek(first)
            n_bytes = self._file.readinto(block)
        except (OSError, ValueError):
            return []
        if n_bytes != len(block):
            return []
        chunks: list[Any] = [
            block[at - first : end] for at, end in zip(starts.tolist(), ends, strict=True)
        ]
        checksums = self._store.checksums
        assert checksums is not None  # else no row has been located
        return chunks if list(map(checksum_of, chunks)) == checksums[rows].tolist() else []
