from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnncodes import CodeStore
from cnncodes.errors import FileFormatError
from cnncodes.head.rows import CodeRows, read_ahead
from tests.helpers import append_rows, create_journal


@given(chosen=st.sets(st.integers(0, 119), min_size=1), size=st.integers(1, 50))
def test_blocks_are_the_chosen_rows(codes: Path, chosen: set[int], size: int) -> None:
    rows = np.array(sorted(chosen))
    with CodeStore.open(codes) as store:
        read = CodeRows(store, rows)
        expected = store.codes[:][rows].reshape(len(rows), -1)
        assert len(read) == len(rows)
        indices = [index for part, _ in read.blocks(size) for index in range(part.start, part.stop)]
        blocks = [block for _, block in read.blocks(size)]
    assert indices == list(range(len(rows)))
    assert all(len(block) <= size for block in blocks)
    np.testing.assert_array_equal(np.concatenate(blocks), expected.astype(np.float32))


@given(indices=st.lists(st.integers(0, 39), max_size=60))
def test_picks_any_rows_in_their_order(codes: Path, indices: list[int]) -> None:
    chosen = np.arange(1, 120, 3)
    with CodeStore.open(codes) as store:
        picked = CodeRows(store, chosen).pick(np.array(indices, np.intp))
        expected = store.codes[:][chosen[indices]] if indices else np.empty((0, 2048))
    assert picked.dtype == np.float32
    np.testing.assert_array_equal(picked, expected.reshape(len(indices), 2048))


def write_rows(path: Path, X: np.ndarray, dtype: str = "float32") -> Path:
    """Write a codes file of which only the codes matter."""
    with create_journal(
        path.with_suffix(".partial"), code_shape=X.shape[1:], dtype=dtype
    ) as journal:
        columns = {"labels": [0] * len(X), "paths": ["x"] * len(X), "digests": ["0" * 64] * len(X)}
        append_rows(journal, X, **columns, skipped=[])
        journal.finish(path)
    return path


def lay_out(path: Path, **layout: object) -> None:
    """Lay the codes of a file out in another way."""
    with h5py.File(path, "r+") as file:
        values = file["codes"][:]
        del file["codes"]
        file.create_dataset("codes", data=values, **layout)


# What other programs may write, and HDF5 may unpack without end.
LAYOUTS = [
    {"chunks": (16, 2048), "compression": "gzip"},
    {"chunks": (1, 2048), "compression": "gzip", "shuffle": True},
    {"chunks": (1, 2048), "compression": "gzip", "fletcher32": True},
    {"chunks": (1, 2048), "compression": "lzf"},
    {"chunks": (1, 2048)},
    {},
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_other_layouts_are_refused(codes: Path, tmp_path: Path, layout: dict[str, object]) -> None:
    path = tmp_path / "codes.h5"
    shutil.copy(codes, path)
    lay_out(path, **layout)
    with pytest.raises(FileFormatError, match="'codes' is stored in a way that cnncodes does not"):
        CodeStore.open(path)


@pytest.mark.parametrize("content", [b"", b"nonsense", bytes.fromhex("789c030000000001")])
def test_damaged_row_is_named(codes: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "codes.h5"
    shutil.copy(codes, path)
    with h5py.File(path) as file:
        chunk = file["codes"].id.get_chunk_info(70)
    with path.open("r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(content.ljust(chunk.size, b"\0"))
    with CodeStore.open(path) as store:
        rows = CodeRows(store, np.arange(120))
        assert np.isfinite(rows.read(0, 70)).all()
        with pytest.raises(FileFormatError, match=r"codes\.h5: the codes of .* in row 70 are"):
            rows.read(60, 80)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_every_float16_is_read_as_it_is(tmp_path: Path, dtype: str) -> None:
    values = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    values = values[np.isfinite(values)].reshape(-1, 8)
    with CodeStore.open(write_rows(tmp_path / "codes.h5", values, dtype)) as store:
        read = CodeRows(store, np.arange(len(values))).read(0, len(values))
    np.testing.assert_array_equal(read, values)


def test_sum_that_overflows_is_not_mistaken_for_an_infinite_code(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "codes.h5", np.full((1, 3), 3e38, np.float32))
    with CodeStore.open(path) as store:
        assert CodeRows(store, np.arange(1)).read(0, 1).tolist() == [[np.float32(3e38)] * 3]


def test_next_is_read_while_one_is_worked_on_and_in_order() -> None:
    asked = []
    given_back = []
    for each, read in read_ahead(lambda number: asked.append(number) or -number, range(5)):
        given_back.append((each, read))
    assert given_back == [(number, -number) for number in range(5)]
    assert asked == [0, 1, 2, 3, 4]
    assert list(read_ahead(lambda number: number, [])) == []


@pytest.mark.parametrize("spread", [1, 300])
def test_far_apart_rows_are_reported(tmp_path: Path, spread: int) -> None:
    n = 1000
    values = np.arange(2 * n, dtype=np.float32).reshape(n, 2)
    rows = np.arange(0, n, spread)
    with CodeStore.open(write_rows(tmp_path / "codes.h5", values)) as store:
        np.testing.assert_array_equal(CodeRows(store, rows).read(0, len(rows)), values[rows])
