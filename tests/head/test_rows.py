from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnncodes import CodeStore
from cnncodes.head.rows import CodeRows


@given(chosen=st.sets(st.integers(0, 119), min_size=1), size=st.integers(1, 50))
def test_blocks_are_the_chosen_rows(codes: Path, chosen: set[int], size: int) -> None:
    rows = np.array(sorted(chosen))
    with CodeStore.open(codes) as store:
        read = CodeRows(store, rows)
        expected = store.codes[:][rows].reshape(len(rows), -1)
        assert len(read) == len(rows)
        places = [place for part, _ in read.blocks(size) for place in range(part.start, part.stop)]
        blocks = [block for _, block in read.blocks(size)]
    assert places == list(range(len(rows)))
    assert all(len(block) <= size for block in blocks)
    np.testing.assert_array_equal(np.concatenate(blocks), expected.astype(np.float32))


def test_reads_as_stored(codes: Path) -> None:
    with CodeStore.open(codes) as store:
        block = CodeRows(store, np.arange(5)).read(1, 3)
        assert block.dtype == np.float16
        np.testing.assert_array_equal(block, store.codes[1:3].reshape(2, -1))


@pytest.mark.parametrize("spread", [1, 300])
def test_far_apart_rows_are_found(tmp_path: Path, spread: int) -> None:
    from tests.extract.test_store import create

    with create(tmp_path / "codes.h5", code_shape=(2,), dtype="float32") as store:
        n = 1000
        values = np.arange(2 * n, dtype=np.float32).reshape(n, 2)
        store.append(values, [0] * n, ["x"] * n, ["0"] * n)
        rows = np.arange(0, n, spread)
        np.testing.assert_array_equal(CodeRows(store, rows).read(0, len(rows)), values[rows])
