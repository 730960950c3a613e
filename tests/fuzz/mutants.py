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
from onnx import TensorProto, helper

from tests.fuzz import bombs
from tests.fuzz.files import Chain, images

BYTES = bytes.fromhex("00 01 7f 80 fe ff")
NUMBERS = (0, 1, 2, 3, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
BOMB_EVERY = 100
TEXTS = ("", "{}", "[]", "null", "9" * 5000, "-1", "nan", '"\\ud800"', "[" * 2000, "\x1b[2J\n", "∞")
TEXTS += ('{"a":' * 400 + "1" + "}" * 400,)


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
    """

    suffix: str
    content: bytes
    how: str


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


def change_bytes(content: bytes, generator: Generator) -> bytes:
    """Change a few bytes, the first ones more often, since these say what follows."""
    data = bytearray(content)
    for _ in range(int(generator.integers(1, 5))):
        _EDITS[generator.integers(len(_EDITS))](data, generator)
    return bytes(data)


def _place(data: bytearray, generator: Generator) -> int:
    end = len(data) if generator.random() < 0.5 else min(len(data), 256)
    return int(generator.integers(end)) if end else 0


def _flip_bit(data: bytearray, generator: Generator) -> None:
    if data:
        data[_place(data, generator)] ^= 1 << int(generator.integers(8))


def _set_byte(data: bytearray, generator: Generator) -> None:
    if data:
        data[_place(data, generator)] = BYTES[generator.integers(len(BYTES))]


def _set_number(data: bytearray, generator: Generator) -> None:
    """Write a number such as a header has, at the limits of what it can be."""
    layout = ("<I", ">I", "<H", ">H", "<Q")[generator.integers(5)]
    largest = 2 ** (8 * struct.calcsize(layout)) - 1
    number = min(NUMBERS[generator.integers(len(NUMBERS))], largest)
    start = _place(data, generator)
    data[start : start + struct.calcsize(layout)] = struct.pack(layout, number)


def _truncate(data: bytearray, generator: Generator) -> None:
    del data[_place(data, generator) :]


def _remove(data: bytearray, generator: Generator) -> None:
    start = _place(data, generator)
    del data[start : start + int(generator.integers(1, 64))]


def _repeat(data: bytearray, generator: Generator) -> None:
    start = _place(data, generator)
    piece = data[start : start + int(generator.integers(1, 512))]
    data[start:start] = piece * int(generator.integers(1, 20))


def _insert_noise(data: bytearray, generator: Generator) -> None:
    start = _place(data, generator)
    data[start:start] = generator.bytes(int(generator.integers(1, 64)))


_EDITS: tuple[Callable[[bytearray, Generator], None], ...]
_EDITS = (_flip_bit, _flip_bit, _set_byte, _set_number, _truncate, _remove, _repeat, _insert_noise)


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
    if generator.random() < 0.5:
        return Mutant("h5", change_bytes(content, generator), "changed bytes")
    buffer = io.BytesIO(content)
    edits = bombs.CODES
    edit = edits[number % len(edits)]
    with h5py.File(buffer, "r+") as file:
        edit(file, generator)
    return Mutant("h5", buffer.getvalue(), edit.__name__.strip("_"))


def _model(generator: Generator, number: int, chain: Chain) -> Mutant:
    kind = ("backbone", "head", "app")[number % 3]
    content = getattr(chain, kind).read_bytes()
    if generator.random() < 0.4:
        return Mutant(f"{kind}.onnx", change_bytes(content, generator), "changed bytes")
    model = onnx.load_from_string(content)
    edit = _MODEL_EDITS[generator.integers(len(_MODEL_EDITS))]
    edit(model, generator)
    return Mutant(f"{kind}.onnx", model.SerializeToString(), edit.__name__.strip("_"))


def _change_metadata(model: onnx.ModelProto, generator: Generator) -> None:
    entry = model.metadata_props[generator.integers(len(model.metadata_props))]
    if generator.random() < 0.5:
        entry.value = TEXTS[generator.integers(len(TEXTS))]
    else:
        changed = change_bytes(entry.value.encode(), generator)
        entry.value = changed.decode("utf-8", "replace")


def _drop_metadata(model: onnx.ModelProto, generator: Generator) -> None:
    del model.metadata_props[generator.integers(len(model.metadata_props))]


def _change_dimension(model: onnx.ModelProto, generator: Generator) -> None:
    values = [*model.graph.input, *model.graph.output]
    shape = values[generator.integers(len(values))].type.tensor_type.shape
    dimension = shape.dim[generator.integers(len(shape.dim))]
    dimension.dim_value = int(generator.choice([-1, 0, 1, 7, 2**31, 2**62]))


def _change_type(model: onnx.ModelProto, generator: Generator) -> None:
    values = [*model.graph.input, *model.graph.output]
    value = values[generator.integers(len(values))]
    value.type.tensor_type.elem_type = int(generator.integers(30))


def _change_tensor(model: onnx.ModelProto, generator: Generator) -> None:
    tensor = model.graph.initializer[generator.integers(len(model.graph.initializer))]
    if generator.random() < 0.5 and tensor.dims:
        tensor.dims[generator.integers(len(tensor.dims))] = int(generator.choice([0, -1, 9, 2**40]))
    else:
        tensor.raw_data = change_bytes(tensor.raw_data, generator)


def _keep_tensor_outside(model: onnx.ModelProto, generator: Generator) -> None:
    """Say that weights are in another file, which may be any."""
    tensor = model.graph.initializer[generator.integers(len(model.graph.initializer))]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    places = ("/etc/passwd", "../../../../etc/passwd", "/dev/zero", "absent", "")
    for key, value in (("location", str(generator.choice(places))), ("length", "64")):
        tensor.external_data.add(key=key, value=value)


def _change_node(model: onnx.ModelProto, generator: Generator) -> None:
    node = model.graph.node[generator.integers(len(model.graph.node))]
    node.op_type = str(generator.choice(["Identity", "Sum", "Exp", "Nonsense", "Reshape", "Gemm"]))


def _reconnect(model: onnx.ModelProto, generator: Generator) -> None:
    nodes = model.graph.node
    node, other = (nodes[generator.integers(len(nodes))] for _ in range(2))
    node.input[generator.integers(len(node.input))] = other.output[0]


def _drop_node(model: onnx.ModelProto, generator: Generator) -> None:
    del model.graph.node[generator.integers(len(model.graph.node))]


def _repeat_node(model: onnx.ModelProto, generator: Generator) -> None:
    node = model.graph.node[generator.integers(len(model.graph.node))]
    model.graph.node.append(node)


def _change_attribute(model: onnx.ModelProto, generator: Generator) -> None:
    attributes = [each for node in model.graph.node for each in node.attribute]
    if attributes:
        attribute = attributes[generator.integers(len(attributes))]
        attribute.i = int(generator.choice([-1, 0, 5, 2**40]))
        for place in range(len(attribute.ints)):
            attribute.ints[place] = int(generator.choice([-1, 0, 1, 3, 2**31, 2**62]))


def _change_versions(model: onnx.ModelProto, generator: Generator) -> None:
    model.ir_version = int(generator.choice([0, 1, 8, 99, 2**40]))
    model.opset_import[0].version = int(generator.choice([-1, 0, 1, 13, 99, 2**40]))


def _add_node(model: onnx.ModelProto, generator: Generator) -> None:
    """Let the graph make much of a few bytes."""
    count = int(generator.choice([2**28, 2**33, 2**40]))
    shape = helper.make_tensor("many", TensorProto.INT64, [1], [count])
    model.graph.initializer.append(shape)
    model.graph.node.append(helper.make_node("ConstantOfShape", ["many"], ["filled"]))
    model.graph.node.append(helper.make_node("ReduceSum", ["filled"], ["sum"]))
    last = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["before" if name == last else name for name in node.output]
    model.graph.node.append(helper.make_node("Add", ["before", "sum"], [last]))


_MODEL_EDITS: tuple[Callable[[onnx.ModelProto, Generator], None], ...]
_MODEL_EDITS = (
    *(_change_metadata, _change_metadata, _change_metadata, _drop_metadata, _change_dimension),
    *(_change_type, _change_tensor, _change_tensor, _keep_tensor_outside, _change_node),
    *(_reconnect, _drop_node, _repeat_node, _change_attribute, _change_versions, _add_node),
)
KINDS: dict[str, Callable[[Generator, int, Chain], Mutant]]
KINDS = {"images": _image, "codes": _codes, "models": _model}
