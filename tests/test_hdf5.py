"""HDF5 files that lead out of themselves or claim to be larger than they are."""

from __future__ import annotations

import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from cnncodes import CodeStore, hdf5
from cnncodes.bounds import MAX_TEXT_BYTES
from cnncodes.errors import FileFormatError
from cnncodes.hdf5 import PlainFile
from tests.helpers import (
    CODES,
    DIGESTS,
    LABELS,
    PATHS,
    error_of,
    refusal_of_store,
    run_command,
    write_store,
)

SECRET = "not-for-strangers"
DATASETS = ("codes", "checksums", "labels", "paths", "digests", "skipped/paths", "skipped/reasons")
TEXT = h5py.string_dtype("utf-8")


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A complete codes file, and another with the same datasets."""
    write_store(tmp_path / "other.h5")
    return write_store(tmp_path / "codes.h5")


def change(path: Path, edit: Callable[[h5py.File], object]) -> None:
    with h5py.File(path, "r+") as file:
        edit(file)


@pytest.mark.parametrize("name", [*DATASETS, "skipped"])
@pytest.mark.parametrize("kind", ["soft", "external"])
def test_no_link_is_followed(written: Path, name: str, kind: str) -> None:
    """Not even to a dataset that would do."""

    def link(file: h5py.File) -> None:
        file.move(name, "moved")
        file[name] = (
            h5py.SoftLink("/moved") if kind == "soft" else h5py.ExternalLink("other.h5", name)
        )

    change(written, link)
    assert "is a link" in refusal_of_store(written)


def test_hard_link_is_a_dataset_of_the_file(written: Path) -> None:
    change(written, lambda file: file.create_group("more").update({"p": file["paths"]}))
    with CodeStore.open(written) as store:
        assert store.paths == PATHS


@pytest.mark.parametrize("name", DATASETS)
def test_no_values_are_read_from_another_file(written: Path, name: str) -> None:
    secret = written.with_name("secret.txt")
    secret.write_text(SECRET * 1000)

    def store_outside(file: h5py.File) -> None:
        shape, dtype = file[name].shape, file[name].dtype
        del file[name]
        dtype = "S64" if dtype.hasobject else dtype
        file.create_dataset(name, shape, dtype, external=[(str(secret), 0, h5py.h5f.UNLIMITED)])

    change(written, store_outside)
    line = refusal_of_store(written)
    assert f"the values of {name!r} are in another file" in line
    for command in (["verify", written], ["train", written, "-o", written.with_name("h.onnx")]):
        assert SECRET not in error_of(*command)
    assert SECRET not in run_command("info", written, exit_code=1).output


@pytest.mark.parametrize("name", DATASETS)
def test_no_values_are_read_from_a_virtual_dataset(written: Path, name: str) -> None:
    def make_virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout(file[name].shape, file[name].dtype)
        layout[:] = h5py.VirtualSource("other.h5", name, file[name].shape)
        del file[name]
        file.create_virtual_dataset(name, layout)

    change(written, make_virtual)
    assert f"the values of {name!r} are in another file" in refusal_of_store(written)


def replace_texts(file: h5py.File, name: str, values: list[str], **options: object) -> None:
    del file[name]
    file.create_dataset(name, data=values, dtype=TEXT, **options)


def test_length_of_every_text_is_bounded(written: Path, tmp_path: Path) -> None:
    longest = "ä" * (MAX_TEXT_BYTES // 2)
    change(written, lambda file: replace_texts(file, "paths", [*PATHS[:4], longest]))
    with CodeStore.open(written) as store:
        assert store.paths[4] == longest
    change(written, lambda file: replace_texts(file, "paths", [*PATHS[:4], longest + "x"]))
    assert "'paths' has a text of 65,537 bytes" in refusal_of_store(written)


@pytest.mark.parametrize("length", [60_000, 70_000, 131_000, 140_000, 1_000_000, 7_999_000])
def test_texts_beside_a_large_attribute(tmp_path: Path, length: int) -> None:
    """HDF5 may put both into one heap."""
    names = [f"{number:0100}" for number in range(length // 104)]
    path = write_store(tmp_path / "codes.h5", class_names=tuple(names))
    with CodeStore.open(path) as store:
        assert store.class_names == names
        assert store.paths == PATHS


def test_texts_of_fixed_length_are_read_and_bounded(written: Path) -> None:
    def fix(file: h5py.File, dtype: str) -> None:
        del file["paths"]
        file.create_dataset("paths", data=np.array(PATHS, "S8"), dtype=dtype)

    change(written, lambda file: fix(file, "S9"))
    with CodeStore.open(written) as store:
        assert store.paths == PATHS
    change(written, lambda file: fix(file, "S65537"))
    assert "'paths' has texts of 65,537 bytes" in refusal_of_store(written)


@pytest.mark.parametrize("name", ["labels", "checksums", "digests", "paths", "skipped/reasons"])
def test_only_codes_may_be_compressed(written: Path, name: str) -> None:
    """HDF5 unpacks a chunk to any size, whatever size it should have."""

    def compress(file: h5py.File) -> None:
        values, dtype = file[name][:], file[name].dtype
        del file[name]
        file.create_dataset(name, data=values, dtype=dtype, compression="gzip", chunks=(1,))

    change(written, compress)
    assert f"{name!r} is stored in a way that cnncodes does not write" in refusal_of_store(written)


def test_row_that_unpacks_to_more_than_it_should(written: Path) -> None:
    bomb = zlib.compress(bytes(20_000_000), 9)
    change(written, lambda file: file["codes"].id.write_direct_chunk((3, 0, 0, 0), bomb))
    change(written, lambda file: file.pop("checksums"))
    with CodeStore.open(written) as store:
        assert len(list(store.rows([0, 1, 2, 4]))) == 4
        tracemalloc.start()
        with pytest.raises(FileFormatError, match="row 3 are damaged"):
            list(store.rows([3]))
        with pytest.raises(FileFormatError, match="row 3 are damaged"):
            store.chunk(3)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
        tracemalloc.stop()


def test_empty_texts_of_a_hole_are_refused(tmp_path: Path) -> None:
    """A file may claim as many rows as it has a hole for."""
    path = tmp_path / "hole.h5"
    with h5py.File(path, "w") as file:
        for name, dtype in (("fixed", "S60000"), ("variable", TEXT)):
            layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            if name == "fixed":
                layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            kind = h5py.h5t.py_create(np.dtype(dtype), logical=True)
            space = h5py.h5s.create_simple((100_000,))
            h5py.h5d.create(file.id, name.encode(), kind, space, layout)
    assert path.stat().st_size > 6e9 > 1e9 > 512 * path.stat().st_blocks
    with PlainFile(path) as opened:
        for name in ("fixed", "variable"):
            with pytest.raises(ValueError, match=f"'{name}' has an empty text"):
                opened.texts(name)
            assert opened.length(name) == 100_000


def references(content: bytes, length: int) -> list[int]:
    """Find where references to texts of a length stand."""
    (heap,) = (at for at in range(len(content)) if content[at : at + 4] == b"GCOL")
    pattern = struct.pack("<IQ", length, heap)
    return [at for at in range(len(content)) if content[at : at + len(pattern)] == pattern]


def test_text_that_stands_for_many_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shared.h5"
    n_rows, length = 5000, 60_000
    with h5py.File(path, "w") as file:
        file.create_dataset("texts", data=["x" * length] + ["y"] * (n_rows - 1), dtype=TEXT)
    content = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        start = file["texts"].id.get_offset()
    content[start : start + 16 * n_rows] = bytes(content[start : start + 16]) * n_rows
    path.write_bytes(content)
    with h5py.File(path) as file:
        assert file["texts"][4000] == b"x" * length, "the test must make what it is about"
    with PlainFile(path) as opened, pytest.raises(ValueError, match="heap of texts is damaged"):
        opened.texts("texts")


@pytest.mark.parametrize("size", [0, 1, 96, 4096, 2**31, 2**63, 2**64 - 1])
def test_heap_of_any_sizes_ends(written: Path, size: int) -> None:
    """HDF5 can walk such a heap for ever."""
    before = written.read_bytes()
    heap = before.index(b"GCOL")
    for at in range(heap + 8, heap + 400, 8):
        content = bytearray(before)
        struct.pack_into("<Q", content, at, size)
        written.write_bytes(content)
        try:
            CodeStore.open(written).close()
        except FileFormatError as error:
            assert "\n" not in str(error)  # noqa: PT017


PEAK = """
import resource, sys
from cnncodes import CodeStore
from cnncodes.errors import FileFormatError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    CodeStore.open(sys.argv[1])
except FileFormatError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units elsewhere")
@pytest.mark.parametrize("name", ["kind", "class_names", "paths", "skipped/reasons"])
def test_length_that_is_not_true_takes_no_memory(written: Path, name: str) -> None:
    """HDF5 allocates the size in a reference before it reads the text."""
    with h5py.File(written) as file:
        known = {"kind": "codes", "class_names": file.attrs["class_names"], "paths": PATHS[0]}
        text = known.get(name) or file["skipped/reasons"].asstr()[0]
    content = bytearray(written.read_bytes())
    for at in references(bytes(content), len(text.encode())):
        struct.pack_into("<I", content, at, 2_000_000_000)
    written.write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, written], capture_output=True, text=True, check=True
    )
    message, megabytes = done.stdout.splitlines()
    assert "2,000,000,000 bytes" in message
    assert int(megabytes) < 200


def test_attribute_that_is_no_single_text_is_none(written: Path) -> None:
    for value in (np.array(["codes"] * 3, object), 5, h5py.Empty("S5"), np.array([b"codes"])):
        change(written, lambda file, value=value: file.attrs.update(kind=value))
        assert "not a codes file" in refusal_of_store(written)
    change(written, lambda file: file.attrs.update(kind=np.bytes_(b"codes")))
    with CodeStore.open(written) as store:
        assert len(store) == len(PATHS)
    change(written, lambda file: file.attrs.update(created_with=np.bytes_(b"\xff")))
    assert "is damaged ('utf-8' codec can't decode" in refusal_of_store(written)
    change(written, lambda file: file.attrs.update(created_with="cnncodes"))
    change(written, lambda file: file.attrs.update(source="x" * (hdf5.MAX_ATTRIBUTE_BYTES + 1)))
    assert "a text has 16,000,001 bytes" in refusal_of_store(written)


@pytest.mark.parametrize("layout", ["chunks", "compact", "latest"])
def test_texts_whose_length_cannot_be_known_are_not_read(written: Path, layout: str) -> None:
    if layout == "chunks":
        change(written, lambda file: replace_texts(file, "paths", PATHS, chunks=(2,)))
        assert "'paths' is stored in a way that cnncodes does not write" in refusal_of_store(
            written
        )
        return
    if layout == "compact":
        change(written, make_compact)
        assert "'paths' is stored in a way that cnncodes does not write" in refusal_of_store(
            written
        )
        return
    latest = written.with_name("latest.h5")
    with h5py.File(written) as old, h5py.File(latest, "w", libver="latest") as new:
        for name in old:
            old.copy(name, new)
        new.attrs.update(old.attrs)
    assert "its kind is stored in a way that cnncodes does not write" in refusal_of_store(latest)
    assert "an HDF5 file that cannot be opened" in run_command("info", latest).stdout


def make_compact(file: h5py.File) -> None:
    del file["paths"]
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.COMPACT)
    kind = h5py.h5t.py_create(TEXT, logical=True)
    space = h5py.h5s.create_simple((len(PATHS),))
    h5py.h5d.create(file.id, b"paths", kind, space, layout)
    file["paths"][:] = PATHS


@pytest.mark.parametrize("n_bytes", [512, 4096, 1 << 20])
def test_user_block_is_passed_over(written: Path, n_bytes: int) -> None:
    """As some programs put before an HDF5 file."""
    moved = written.with_name("moved.h5")
    with h5py.File(written) as old, h5py.File(moved, "w", userblock_size=n_bytes) as new:
        for name in old:
            old.copy(name, new)
        new.attrs.update(old.attrs)
    with CodeStore.open(moved) as store:
        assert (store.codes[:] == CODES).all()
        assert [row.tolist() for row in store.rows(range(5))] == CODES.reshape(5, -1).tolist()
        assert (store.paths, store.digests) == (PATHS, DIGESTS)
        assert store.labels.tolist() == LABELS
    assert "nothing is wrong" in run_command("verify", moved).stdout
    assert run_command("info", moved).stdout == run_command("info", written).stdout
