"""Codes files in types, layouts and formats that cnncodes does not write."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from functools import partial
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5p, h5t, h5z
from numpy.random import Generator

from tests.fuzz.hdf5_tools import (
    ATTRIBUTES,
    SPARE,
    TEXT,
    Finish,
    Structure,
    choose,
    create,
    datasets_of,
    moved,
    new_settings,
    removed_shape,
    written_anew,
)


def _strange_type(file: h5py.File, name: str, generator: Generator) -> None:
    """Have values of another kind, as many as there were."""
    shape = removed_shape(file, name)
    dtypes: tuple[Any, ...] = (
        *(h5py.ref_dtype, h5py.regionref_dtype, h5py.vlen_dtype("int32"), "V64", "V100000000"),
        *(h5py.enum_dtype({"a": 0, "b": 1}, "int32"), h5py.opaque_dtype("datetime64[s]")),
        *([("a", "f2"), ("b", TEXT)], [("a", "S64", (100_000,))], ("int32", (10_000_000,))),
        *(">i4", ">f2", ">f4", "int8", "uint64", "float64", "longdouble", "bool", "complex64"),
        *(h5py.string_dtype("ascii"), h5py.string_dtype("utf-8", 64), h5py.vlen_dtype(TEXT)),
        *(h5t.STD_B32LE, h5t.UNIX_D32LE, h5t.IEEE_F16BE, _odd_float(), _odd_integer()),
    )
    dtype = dtypes[generator.integers(len(dtypes))]
    settings = new_settings()
    if generator.random() < 0.5:
        settings.set_chunk((1,) * len(shape))
        settings.set_deflate(9)
    create(file, name, dtype, shape, settings)


def _odd_float() -> h5t.TypeFloatID:
    """Make a float of as many bits as no processor has."""
    kind = h5t.IEEE_F32LE.copy()
    kind.set_fields(30, 20, 10, 0, 20)
    return kind


def _odd_integer() -> h5t.TypeIntegerID:
    kind = h5t.STD_I32LE.copy()
    kind.set_size(200)
    kind.set_precision(1_500)
    return kind


def _named_type(file: h5py.File, name: str, generator: Generator) -> None:
    """Let the type of a dataset stand in the file under a name of its own, or through a link."""
    old = file[name]
    values, dtype = old[...], old.dtype
    file["type"] = dtype
    file["alias"] = h5py.SoftLink("/type")
    shape = removed_shape(file, name)
    new = create(file, name, file[choose(generator, "type", "alias")].id, shape, new_settings())
    new[...] = values
    file.attrs.create(choose(generator, *ATTRIBUTES), values.ravel()[:1], dtype=file["alias"])
    if generator.random() < 0.3:
        del file[name]
        file[name] = file["type"]


def _references_as_values(file: h5py.File, name: str, generator: Generator) -> None:
    """Refer to objects, or to regions of them, instead of values."""
    shape = removed_shape(file, name)
    target = file[datasets_of(file)[0]]
    region = generator.random() < 0.5
    dtype = h5py.regionref_dtype if region else h5py.ref_dtype
    new = file.create_dataset(name, shape, dtype)
    for index in np.ndindex(shape):
        new[index] = target.regionref[0:1] if region else target.ref


def _copied(file: h5py.File, name: str, settings: h5p.PropDCID) -> None:
    """Store a dataset anew, with other settings."""
    old = moved(file, name)
    new = create(file, name, old.dtype, old.shape, settings)
    new[...] = old[...]
    del file[SPARE]


def _other_layout(file: h5py.File, name: str, generator: Generator) -> None:
    settings = new_settings()
    settings.set_layout(choose(generator, h5d.COMPACT, h5d.CONTIGUOUS, h5d.CHUNKED))
    shape = file[name].shape
    if settings.get_layout() == h5d.CHUNKED:
        settings.set_chunk(tuple(max(1, length // 2) for length in shape))
    _copied(file, name, settings)


def _other_filters(file: h5py.File, name: str, generator: Generator) -> None:
    settings, shape = new_settings(), file[name].shape
    settings.set_chunk((1, *shape[1:]))
    text = h5py.check_string_dtype(file[name].dtype) is not None
    ways: list[Callable[[], None]] = [
        settings.set_shuffle,
        partial(settings.set_deflate, 0),
    ]
    if not text:  # which HDF5 refuses to write
        ways += [
            settings.set_fletcher32,
            partial(settings.set_filter, h5z.FILTER_LZF, h5z.FLAG_OPTIONAL),
        ]
    if file[name].dtype.kind in "iu":
        ways.append(partial(settings.set_scaleoffset, h5z.SO_INT, 0))
    for number in generator.choice(len(ways), int(generator.integers(1, 4))):
        ways[number]()
    _copied(file, name, settings)


def _unknown_filter(file: h5py.File, name: str, generator: Generator) -> None:
    """Name a filter that HDF5 looks for on the disk."""
    old, settings = moved(file, name), new_settings()
    settings.set_chunk((1, *old.shape[1:]))
    number = int(choose(generator, 32015, 32001, 305, 65_535))
    settings.set_filter(number, h5z.FLAG_OPTIONAL, tuple(range(int(generator.integers(20)))))
    if generator.random() < 0.5:
        settings.set_deflate(1)
    new = create(file, name, old.dtype, old.shape, settings)
    for row in range(len(old)):
        content = generator.bytes(old.dtype.itemsize)
        new.id.write_direct_chunk((row, *[0] * (old.ndim - 1)), content)


def _damaged_parameters(file: h5py.File, name: str, generator: Generator) -> None:
    """Have the filter that scales numbers find anything in a chunk."""
    old = moved(file, name)
    dtype = old.dtype if old.dtype.kind in "iuf" else np.dtype("int32")
    settings = new_settings()
    settings.set_chunk(old.shape)
    way = (h5z.SO_INT, 0) if dtype.kind in "iu" else (h5z.SO_FLOAT_DSCALE, 3)
    if dtype.itemsize > 2:
        settings.set_scaleoffset(*way)
    settings.set_shuffle()
    settings.set_fletcher32()
    new = create(file, name, dtype, old.shape, settings)
    head = struct.pack("<IBQ", int(choose(generator, 0, 3, 64, 2**32 - 1)), 8, 2**63)
    new.id.write_direct_chunk((0,) * old.ndim, head + generator.bytes(64))


def _user_block(file: h5py.File, name: str, generator: Generator) -> Finish:
    """Begin with up to a megabyte of anything."""
    n_bytes = int(choose(generator, 512, 1024, 4096, 1 << 20))
    heads = (b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\x89HDF\r\n\x1a\n", b"cnncodes-j1\n")
    head: bytes = choose(generator, *heads, b"\x08\x08", generator.bytes(512))

    def finish(content: bytes) -> bytes:
        written = written_anew(content, lambda _: None, userblock_size=n_bytes)
        return head + written[len(head) :]

    return finish


def _latest_format(file: h5py.File, name: str, generator: Generator) -> Finish:
    """Write what HDF5 has in its latest version only: other headers, and ways to find chunks."""
    unlimited, chunked = generator.random(2) < (0.5, 0.8)

    def change(new: h5py.File) -> None:
        old = moved(new, name)
        longest = (None, *old.shape[1:]) if unlimited else old.shape
        layout = {"maxshape": longest, "chunks": (1, *old.shape[1:])} if chunked else {}
        new.create_dataset(name, data=old[...], dtype=old.dtype, **layout)
        del new[SPARE]

    def in_place(content: bytes) -> bytes:
        """Keep the headers of the file itself, and its attributes, as they are."""
        buffer = io.BytesIO(content)
        with h5py.File(buffer, "r+", libver="latest") as new:
            change(new)
        return buffer.getvalue()

    if generator.random() < 0.7:
        return in_place
    strategy = choose(generator, {}, {"fs_strategy": "fsm", "fs_persist": True})
    return partial(written_anew, change=change, libver="latest", **strategy)


def _swapped_rows(file: h5py.File, name: str, generator: Generator) -> None:
    """Exchange the codes of two images."""
    codes = file["codes"]
    rows = (0, len(codes) - 1)
    indices = [(row, *[0] * (codes.ndim - 1)) for row in rows]
    chunks = [codes.id.read_direct_chunk(index)[1] for index in indices]
    for index, chunk in zip(indices, reversed(chunks), strict=True):
        codes.id.write_direct_chunk(index, chunk)


STRUCTURES = (
    Structure(_strange_type),
    Structure(_named_type),
    Structure(_references_as_values),
    Structure(_other_layout),
    Structure(_other_filters),
    Structure(_unknown_filter),
    Structure(_damaged_parameters),
    Structure(_user_block),
    Structure(_latest_format),
    Structure(_swapped_rows),
)
