"""What the edits of a codes file share.

Every edit takes a codes file that is open for writing and the name of one of its datasets. What it
puts there is of the right type, shape and length wherever that is possible, so that only the way
it is stored gives it away.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t
from numpy.random import Generator

TEXT = h5py.string_dtype("utf-8")
SKIPPED = ("skipped/paths", "skipped/reasons")
TEXTS = ("paths", "groups", *SKIPPED)
DATASETS = ("codes", "labels", "digests", "checksums", *TEXTS)
ATTRIBUTES = (
    *("format", "kind", "complete", "class_names", "backbone", "backbone_sha256", "source"),
    *("created_with", "max_pixels", "white"),
)
SPARE = "spare"
TEXT_BYTES = 1_000_000  # of the text that all rows share
LENGTH = 13  # of texts that are looked for in the file afterwards

Finish = Callable[[bytes], bytes]
Edit = Callable[[h5py.File, str, Generator], Finish | None]


@dataclass(frozen=True)
class Structure:
    """A way to make a codes file harmful.

    Attributes
    ----------
    edit : callable
        Changes the open file; may return a function that changes the bytes of the closed file.
    refused : bool
        Whether no command but info may accept the file.
    """

    edit: Edit
    refused: bool = False

    @property
    def name(self) -> str:
        """What is done, in words."""
        return self.edit.__name__.strip("_")


def datasets_of(file: h5py.File) -> list[str]:
    """Return the datasets of `DATASETS` that a file has."""
    return [name for name in DATASETS if name in file]


def moved(file: h5py.File, name: str) -> h5py.Dataset:
    """Move a dataset to another path."""
    file.move(name, SPARE)
    return file[SPARE]


def choose(generator: Generator, *values: Any) -> Any:
    return values[generator.integers(len(values))]


def create(
    file: h5py.File,
    name: str,
    dtype: Any,
    shape: tuple[int, ...],
    settings: h5p.PropDCID,
    *,
    unlimited: bool = False,
) -> h5py.Dataset:
    """Create a dataset with settings that h5py's own function does not offer."""
    longest = (h5s.UNLIMITED, *shape[1:]) if unlimited else shape
    kind = dtype if isinstance(dtype, h5t.TypeID) else h5t.py_create(np.dtype(dtype), logical=True)
    h5d.create(file.id, name.encode(), kind, h5s.create_simple(shape, longest), settings)
    return file[name]


def new_settings() -> h5p.PropDCID:
    return h5p.create(h5p.DATASET_CREATE)


def set_number_of_rows(file: h5py.File, name: str, n_rows: int) -> None:
    """Give all datasets that go with one of this name as many rows, most of them never written."""
    together = (
        SKIPPED if name in SKIPPED else [each for each in datasets_of(file) if "/" not in each]
    )
    for each in together:
        old = file[each]
        dtype, shape = old.dtype, (n_rows, *old.shape[1:])
        del file[each]
        chunks = (1, *shape[1:]) if each == "codes" else (min(n_rows, 1 << 16), *shape[1:])
        new = file.create_dataset(each, shape, dtype, chunks=chunks, compression="gzip")
        if each == "digests":
            new[:] = b"0" * 64


def removed_shape(file: h5py.File, name: str) -> tuple[int, ...]:
    """Remove a dataset; return the shape that its replacement must have."""
    shape: tuple[int, ...] = file[name].shape
    del file[name]
    return shape


def written_anew(content: bytes, change: Callable[[h5py.File], None], **options: Any) -> bytes:
    """Write the file again, in another form."""
    buffer = io.BytesIO()
    with h5py.File(io.BytesIO(content)) as old, h5py.File(buffer, "w", **options) as new:
        for name in old:
            old.copy(name, new)
        for key, value in old.attrs.items():
            new.attrs[key] = value
        change(new)
    return buffer.getvalue()


def references(content: bytes, n_texts: int, length: int = LENGTH) -> re.Match[bytes]:
    """Find where a file refers to texts of some length, kept in its heaps, that stand in a row."""
    pattern = b"(?:" + re.escape(struct.pack("<I", length)) + b".{12}){%d}"
    match = re.search(pattern % n_texts, content, re.DOTALL)
    assert match is not None
    return match


def one_reference(file: h5py.File) -> bytes:
    """Write a large text; return how a row refers to it: length, heap, and index in that."""
    file["large"] = np.array(["y" * TEXT_BYTES], TEXT)
    file.flush()
    where = file["large"].id.get_offset()
    reference: bytes = file.id.get_file_image()[where : where + 16]
    return reference
