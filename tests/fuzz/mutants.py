"""Damaged files, each determined by its kind, a seed and a number.

Most are real files with some bytes changed. Others are built to be harmful: they claim more than
they hold, or unpack to far more than they are.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import h5py
import numpy as np
import onnx
from numpy.random import Generator

from tests.fuzz import bombs, hdf5_attributes, hdf5_forms, hdf5_links, hdf5_sizes, models
from tests.fuzz.files import Chain, images
from tests.fuzz.hdf5_tools import datasets_of
from tests.fuzz.noise import change_bytes
from tests.fuzz.protobuf import FORMS

BOMB_EVERY = 100
STRUCTURES = (
    *(*hdf5_links.STRUCTURES, *hdf5_sizes.STRUCTURES),
    *(*hdf5_forms.STRUCTURES, *hdf5_attributes.STRUCTURES),
)
MODELS = ("backbone", "head", "app")
CHECKSUM = b"cnncodes.checksum"
STRUCTURE_EVERY, FORM_EVERY = 3, 4
ALL = frozenset(("train", "evaluate", "verify", "extract", "quantize", "bundle", "predict"))


@dataclass(frozen=True)
class Mutant:
    """A damaged file.

    Attributes
    ----------
    suffix : str
        Ending of its name.
    content : bytes
        What is in it.
    how : str
        How it was made.
    refused_by : frozenset of str
        Commands that must not accept it.
    """

    suffix: str
    content: bytes
    how: str
    refused_by: frozenset[str] = frozenset()


def make(kind: str, seed: int, number: int, chain: Chain) -> Mutant:
    """Make a mutant.

    Parameters
    ----------
    kind : {"images", "codes", "models"}
        What it is a mutant of.
    seed, number : int
        Which of the mutants of that kind; the same ones give the same mutant.
    chain : Chain
        The files to damage.

    Returns
    -------
    Mutant
        The damaged file.
    """
    generator = np.random.default_rng([seed, sorted(KINDS).index(kind), number])
    return KINDS[kind](generator, number, chain)


def _image(generator: Generator, number: int, chain: Chain) -> Mutant:
    if number % BOMB_EVERY == BOMB_EVERY - 1:
        makers = bombs.IMAGES
        maker = makers[number // BOMB_EVERY % len(makers)]
        suffix, content = maker(generator)
        return Mutant(suffix, content, maker.__name__.strip("_"))
    seeds = images()
    suffix, content = seeds[generator.integers(len(seeds))]
    content = change_bytes(content, generator)
    if suffix == "png" and generator.random() < 0.8:
        content = _with_checksums(content)
    return Mutant(suffix, content, "changed bytes")


def _with_checksums(content: bytes) -> bytes:
    """Mend the checksums of a PNG, so that what is changed is read and not just refused."""
    data, start = bytearray(content), 8
    while start + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, start)
        end = start + 8 + length
        if end + 4 > len(data):
            break
        struct.pack_into(">I", data, end, zlib.crc32(data[start + 4 : end]))
        start = end + 4
    return bytes(data)


def _codes(generator: Generator, number: int, chain: Chain) -> Mutant:
    content = chain.codes.read_bytes()
    if number % STRUCTURE_EVERY == 0:
        return _structure(content, generator, number // STRUCTURE_EVERY)
    if generator.random() < 0.5:
        return Mutant("h5", change_bytes(content, generator), "changed bytes")
    buffer = io.BytesIO(content)
    edits = bombs.CODES
    edit = edits[number % len(edits)]
    with h5py.File(buffer, "r+") as file:
        edit(file, generator)
    return Mutant("h5", buffer.getvalue(), edit.__name__.strip("_"))


def _structure(content: bytes, generator: Generator, number: int) -> Mutant:
    """Make a codes file of each kind in turn, with each of its datasets in turn."""
    repeat, index = divmod(number, len(STRUCTURES))
    structure = STRUCTURES[index]
    buffer = io.BytesIO(content)
    with h5py.File(buffer, "r+") as file:
        names = datasets_of(file)
        name = names[(repeat + index) % len(names)]
        finish = structure.edit(file, name, generator)
    changed = buffer.getvalue()
    if finish is not None:
        changed = finish(changed)
    refused_by = ALL if structure.refused else frozenset()
    if structure.name == "swapped_rows" and "checksums" in names:
        refused_by = frozenset(["verify"])
    return Mutant("h5", changed, f"{structure.name} of {name}", refused_by)


def _model(generator: Generator, number: int, chain: Chain) -> Mutant:
    kind = MODELS[number % len(MODELS)]
    if number % FORM_EVERY == 0:
        repeat, index = divmod(number // FORM_EVERY, len(FORMS))
        kind, form = MODELS[(repeat + index) % len(MODELS)], FORMS[index]
        content = getattr(chain, kind).read_bytes()
        refused_by = ALL if form.refused else frozenset()
        if form.name == "flipped_weight" and CHECKSUM in content:
            refused_by = frozenset(["verify"])
        changed = form.edit(content, generator)
        return Mutant(f"{kind}.onnx", changed, f"{form.name} of {kind}", refused_by)
    content = getattr(chain, kind).read_bytes()
    if generator.random() < 0.4:
        return Mutant(f"{kind}.onnx", change_bytes(content, generator), "changed bytes")
    model = onnx.load_from_string(content)
    edit = models.AT_RANDOM[generator.integers(len(models.AT_RANDOM))]
    edit(model, generator)
    return Mutant(f"{kind}.onnx", model.SerializeToString(), edit.__name__.strip("_"))


KINDS: dict[str, Callable[[Generator, int, Chain], Mutant]]
KINDS = {"images": _image, "codes": _codes, "models": _model}
