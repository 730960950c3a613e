"""Codes files with values that are far larger than the file."""

from __future__ import annotations

import re
import struct
import zlib
from functools import cache

import h5py
import numpy as np
from h5py import h5t
from numpy.random import Generator

from tests.fuzz.hdf5_tools import (
    LENGTH,
    SKIPPED,
    SPARE,
    TEXT,
    TEXT_BYTES,
    TEXTS,
    Finish,
    Structure,
    choose,
    create,
    moved,
    new_settings,
    one_reference,
    references,
    set_number_of_rows,
)


def _large_items(file: h5py.File, name: str, generator: Generator) -> None:
    """Have texts of a fixed length that is huge, and never written or all zeros."""
    n_rows, n_bytes = 40, int(choose(generator, 60_000, 10**6, 5 * 10**7, 2 * 10**8, 2**30))
    if name in SKIPPED:
        set_number_of_rows(file, name, n_rows)
    del file[name]
    kind = h5t.C_S1.copy()
    kind.set_size(n_bytes)
    if generator.random() < 0.5:
        kind.set_cset(h5t.CSET_UTF8)
    settings = new_settings()
    chunked = generator.random() < 0.7
    if chunked:
        settings.set_chunk((1,))
        settings.set_deflate(9)
    new = create(file, name, kind, (n_rows,), settings)
    if chunked and generator.random() < 0.5:
        for row in range(n_rows):
            new.id.write_direct_chunk((row,), zeros(n_bytes))


# How HDF5 writes that an attribute is a text of variable length, and that 16 bytes refer to it.
_ATTRIBUTE = re.compile(
    rb"(?:format|kind|class_names|backbone|backbone_sha256|source|created_with)\0+"
    rb"\x19\x01[\x00\x01]\x00(?=\x10\x00\x00\x00)"
)


@cache
def zeros(n_bytes: int) -> bytes:
    """Compress zeros, in no time however many."""
    packer, part = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS), bytes(1 << 20)
    block = packer.compress(part) + packer.flush(zlib.Z_FULL_FLUSH)  # needs nothing before it
    whole, rest = divmod(n_bytes, len(part))
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    last = packer.compress(bytes(rest)) + packer.flush()
    checksum = (n_bytes % 65521) << 16 | 1
    return b"\x78\xda" + block * whole + last + struct.pack(">I", checksum)


def _text_name(file: h5py.File, generator: Generator) -> str:
    return str(generator.choice([name for name in TEXTS if name in file]))


def _shared_texts(file: h5py.File, name: str, generator: Generator) -> Finish | None:
    """Let all rows be one large text, which is in the file once."""
    name = _text_name(file, generator)
    n_rows = int(choose(generator, 2_000, 6_000, 20_000))
    set_number_of_rows(file, name, n_rows)
    del file[name]
    if generator.random() < 0.4:
        reference = one_reference(file)
        settings = new_settings()
        settings.set_chunk((n_rows,))
        content = reference * n_rows
        if generator.random() < 0.5:
            settings.set_deflate(9)
            content = zlib.compress(content)
        create(file, name, TEXT, (n_rows,), settings).id.write_direct_chunk((0,), content)
        return None
    file.create_dataset(name, data=["z" * LENGTH] * n_rows, dtype=TEXT)
    reference = one_reference(file)

    def finish(content: bytes) -> bytes:
        match = references(content, n_rows)
        return content[: match.start()] + reference * n_rows + content[match.end() :]

    return finish


def _wild_references(file: h5py.File, name: str, generator: Generator) -> None:
    """Refer to texts that are not there, or claim another length than they have."""
    name = _text_name(file, generator)
    n_rows = len(file[name])
    del file[name]
    length, heap, offset = struct.unpack("<IQI", one_reference(file))
    lengths = (length, 0, 1, 2 * TEXT_BYTES, 2**31 - 1, 2**31, 2**32 - 1)
    heaps = (heap, heap, heap, 0, 8, 96, heap + 8, 2**32, 2**63, 2**64 - 1)
    rows = [
        struct.pack(
            "<IQI",
            choose(generator, *lengths),
            choose(generator, *heaps),
            choose(generator, offset, offset, 0, 2, 65_535, 2**32 - 1),
        )
        for _ in range(n_rows)
    ]
    settings = new_settings()
    settings.set_chunk((n_rows,))
    create(file, name, TEXT, (n_rows,), settings).id.write_direct_chunk((0,), b"".join(rows))


def _wrong_reference_size(file: h5py.File, name: str, generator: Generator) -> Finish:
    """Claim that an attribute refers to its text in more or fewer bytes than it does.

    HDF5 believes it, and takes for the rest of the reference whatever is in memory.
    """

    def finish(content: bytes) -> bytes:
        changed = bytearray(content)
        types = [match.end() for match in _ATTRIBUTE.finditer(content)]
        for start in generator.choice(types, int(generator.integers(1, 4))):
            size = int(choose(generator, 0, 1, 1, 8, 12, 15, 17, 2**20, 2**31))
            struct.pack_into("<I", changed, start, size)
        return bytes(changed)

    return finish


def _many_skipped(file: h5py.File, name: str, generator: Generator) -> None:
    """Claim that images without end were skipped, with texts that were never written."""
    dtype = choose(generator, TEXT, "S64", "S65000")
    n_rows = int(choose(generator, 10**5, 10**7, 10**9, 2**40, 2**62))
    for each in SKIPPED:
        del file[each]
        file.create_dataset(each, (n_rows,), dtype, chunks=(1024,), fillvalue=b"fill")


def _large_fill_value(file: h5py.File, name: str, generator: Generator) -> None:
    """Have rows that were never written: each is a text of 60 kB that is in the file once."""
    name = _text_name(file, generator)
    n_rows = int(choose(generator, 40, 10_000, 100_000))
    set_number_of_rows(file, name, n_rows)
    del file[name]
    value = np.bytes_(b"\x1b]0;fill\x07" * 6_000)
    chunks = choose(generator, None, (16,))
    file.create_dataset(name, (n_rows,), f"S{len(value)}", fillvalue=value, chunks=chunks)


def _large_chunk(file: h5py.File, name: str, generator: Generator) -> None:
    """Have one chunk that is far longer than the dataset, and zeros."""
    old = moved(file, name)
    text = h5py.check_string_dtype(old.dtype) is not None
    dtype = np.dtype("S16" if text else old.dtype)
    row = dtype.itemsize * int(np.prod(old.shape[1:]))
    n_rows = int(choose(generator, 10**8, 2 * 10**9, 4 * 10**9)) // row
    n_filters = int(generator.integers(1, 3))
    settings = new_settings()
    settings.set_chunk((n_rows, *old.shape[1:]))
    content = zeros(n_rows * row)
    for number in range(n_filters):
        settings.set_deflate(9)
        content = zlib.compress(content) if number else content
    new = create(file, name, dtype, old.shape, settings, unlimited=True)
    new.id.write_direct_chunk((0,) * old.ndim, content)
    del file[SPARE]


def _chunk_that_unpacks_to_more(file: h5py.File, name: str, generator: Generator) -> None:
    """Have chunks of the right shape that hold zeros without end, deflated once or twice."""
    old = moved(file, name)
    text = h5py.check_string_dtype(old.dtype) is not None
    settings = new_settings()
    settings.set_chunk((1, *old.shape[1:]))
    settings.set_deflate(9)
    content = zeros(10**7)
    if generator.random() < 0.5:
        settings.set_deflate(9)
        content = zlib.compress(zeros(3 * 10**9), 9)
    new = create(file, name, np.dtype("S64" if text else old.dtype), old.shape, settings)
    for row in range(old.shape[0]):
        new.id.write_direct_chunk((row, *(0,) * (old.ndim - 1)), content)
    del file[SPARE]


_MARKS = re.compile(rb"TREE|HEAP|SNOD|GCOL|\x01\0[\x01-\x20]\0\x01\0\0\0")


def _confused_addresses(file: h5py.File, name: str, generator: Generator) -> Finish:
    """Let what leads from one part of the file to another lead elsewhere, as in a circle."""

    def finish(content: bytes) -> bytes:
        changed = bytearray(content)
        marks = [match.start() for match in _MARKS.finditer(content)]
        words = np.frombuffer(content[: len(content) // 8 * 8], "<u8")
        offsets = np.flatnonzero((words > 0) & (words < len(content)))
        for offset in generator.choice(offsets, int(generator.integers(1, 4))):
            value = int(choose(generator, *marks, *words[generator.choice(offsets, 40)]))
            struct.pack_into("<Q", changed, 8 * int(offset), value)
        return bytes(changed)

    return finish


def _one_row_more(file: h5py.File, name: str, generator: Generator) -> None:
    old = file[name]
    values = np.concatenate([old[:], old[:1]]) if generator.random() < 0.5 else old[:-1]
    dtype = old.dtype
    del file[name]
    file.create_dataset(name, data=values, dtype=dtype)


STRUCTURES = (
    Structure(_large_items),
    Structure(_shared_texts),
    Structure(_wild_references),
    Structure(_wrong_reference_size, refused=True),
    Structure(_many_skipped),
    Structure(_large_fill_value),
    Structure(_large_chunk),
    Structure(_chunk_that_unpacks_to_more),
    Structure(_confused_addresses),
    Structure(_one_row_more),
)
