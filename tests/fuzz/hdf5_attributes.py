"""Codes files with attributes and objects that are too large, too many, or of another type."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import h5py
import numpy as np
from numpy.random import Generator

from tests.fuzz.files import DECOYS
from tests.fuzz.hdf5_tools import (
    ATTRIBUTES,
    LENGTH,
    TEXT,
    Finish,
    Structure,
    choose,
    one_reference,
    references,
    written_anew,
)


def _attribute(generator: Generator) -> str:
    return str(generator.choice(ATTRIBUTES))


def _long_attribute(file: h5py.File, name: str, generator: Generator) -> Finish:
    """Have a text of megabytes, as a list of names that is right."""
    key = _attribute(generator)
    n_names = int(choose(generator, 10**4, 10**6))
    value = json.dumps([f"class {number}" for number in range(n_names)])
    file.attrs[key] = value
    if generator.random() < 0.5:
        return bytes

    def change(new: h5py.File) -> None:
        del new.attrs[key]
        new.attrs.create(key, value.encode(), dtype=f"S{len(value)}")

    return partial(written_anew, change=change, libver="latest")


def _shared_attribute(file: h5py.File, name: str, generator: Generator) -> Finish:
    """Have an attribute of thousands of texts, which are one."""
    key, n_texts = _attribute(generator), 4_000
    file.attrs[key] = np.array(["w" * LENGTH] * n_texts, object)
    reference = one_reference(file)

    def finish(content: bytes) -> bytes:
        match = references(content, n_texts)
        return content[: match.start()] + reference * n_texts + content[match.end() :]

    return finish


def _strange_attribute(file: h5py.File, name: str, generator: Generator) -> None:
    """Have an attribute of another type or rank, of the file or of a dataset."""
    key, dataset = _attribute(generator), file[name]
    owner = file if generator.random() < 0.8 else dataset
    values: tuple[tuple[Any, Any], ...] = (
        *((file.ref, h5py.ref_dtype), (np.zeros(1000), None), (np.zeros((3, 3)), "int64")),
        *((0, h5py.enum_dtype({"a": 0}, "int8")), (np.void(b"x" * 50_000), None)),
        *((np.zeros(1, [("a", "i4"), ("b", "S9")]), None), (h5py.Empty("S9"), None)),
        *((np.array(["a", "b"], object), TEXT), (np.zeros((), ("f4", (999,))), ("f4", (999,)))),
        *((True, None), (1j, None), (np.float16(1), None), (np.uint64(2**64 - 1), None)),
        *((np.nan, None), (-1, None), (b"codes", "S5"), (b"\xff\xfe", "S2"), (2**62, None)),
        *((b"1" + b" " * 60_000, "S60001"), ("1", h5py.string_dtype("ascii"))),
    )
    value, dtype = values[generator.integers(len(values))]
    if isinstance(value, h5py.Empty):
        owner.attrs[key] = value
    else:
        owner.attrs.create(key, value, dtype=dtype)
    if generator.random() < 0.2:
        owner.attrs[key] = dataset.regionref[0:1]


def _many_attributes(file: h5py.File, name: str, generator: Generator) -> Finish:
    """Have thousands of attributes, which HDF5 keeps in a heap and trees of their own."""
    n_attributes = int(choose(generator, 9, 1_000, 5_000))
    order = generator.random() < 0.5

    def change(new: h5py.File) -> None:
        for number in range(n_attributes):
            new.attrs[f"attribute {number}"] = number
            if not number % 10:
                new[name].attrs[f"attribute {number}"] = b"text"

    return partial(written_anew, change=change, libver="latest", track_order=order)


def _many_objects(file: h5py.File, name: str, generator: Generator) -> None:
    """Have thousands of other objects, in a row or inside each other."""
    n_objects = int(choose(generator, 10, 3_000))
    if generator.random() < 0.3:
        group = file
        for _ in range(min(n_objects, 1_000)):
            group = group.create_group("g")
        return
    for number in range(n_objects):
        file[f"object {number}"] = (
            h5py.ExternalLink(f"{DECOYS}/other.h5", "/"),
            h5py.SoftLink("/codes"),
        )[number % 2]


STRUCTURES = (
    Structure(_long_attribute),
    Structure(_shared_attribute),
    Structure(_strange_attribute),
    Structure(_many_attributes),
    Structure(_many_objects),
)
