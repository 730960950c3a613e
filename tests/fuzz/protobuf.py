"""Models as messages of protobuf that other readers may parse in another way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import onnx
from numpy.random import Generator
from onnx import TensorProto

from tests.fuzz.models import LARGE, OUTSIDE, Edit, add_sum, tensor_outside

BYTES = 2  # kind of a field of protobuf that has a length
GRAPH, METADATA = 7, 14  # numbers of fields of a model
Field = tuple[int, int, bytes]  # number, kind and content


@dataclass(frozen=True)
class Form:
    """A way to make a model harmful, as `structures.Structure` is one for codes.

    Attributes
    ----------
    name : str
        What is done, in words.
    edit : callable
        From the bytes of a model to others.
    refused : bool
        Whether no command but info may accept the file.
    """

    name: str
    edit: Callable[[bytes, Generator], bytes]
    refused: bool = False


def varint(value: int, n_bytes: int = 0) -> bytes:
    """Write a number of protobuf, in `n_bytes` bytes, which may be more than it needs."""
    parts: list[int] = []
    while value or not parts or len(parts) < n_bytes:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts[-1] &= 0x7F
    return bytes(parts)


def _read_varint(content: bytes, start: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[start]
        value, shift, start = value | (byte & 0x7F) << shift, shift + 7, start + 1
        if byte < 0x80:
            return value, start


def fields(content: bytes) -> Iterator[Field]:
    """Give number, kind and content of the fields of a message that is whole."""
    start = 0
    while start < len(content):
        tag, start = _read_varint(content, start)
        kind = tag & 7
        begin = start
        if kind == 0:
            _, start = _read_varint(content, start)
        elif kind == BYTES:
            length, begin = _read_varint(content, start)
            start = begin + length
        else:
            start += 4 if kind == 5 else 8
        yield tag >> 3, kind, content[begin:start]


def written(parts: Sequence[Field], tag_bytes: int = 0, length_bytes: int = 0) -> bytes:
    """Write a message of fields."""
    return b"".join(
        varint(number << 3 | kind, tag_bytes)
        + (varint(len(content), length_bytes) if kind == BYTES else b"")
        + content
        for number, kind, content in parts
    )


def _disguised(content: bytes, generator: Generator) -> bytes:
    """Write a model in another way that means the same, if it means anything.

    A graph may come in parts, fields in any order, numbers in more bytes than they need, and
    fields of unknown numbers may be between.
    """
    parts = list(fields(content))
    others = [part for part in parts if part[0] != GRAPH]
    inner = [part for number, _, graph in parts if number == GRAPH for part in fields(graph)]
    n_parts = int(generator.integers(1, 4))
    graphs = [(GRAPH, BYTES, b"")] * n_parts
    tag_bytes, length_bytes = int(generator.choice([0, 0, 2, 5])), int(generator.choice([0, 5, 10]))
    if generator.random() < 0.5:
        inner.insert(int(generator.integers(len(inner))), (1_000, BYTES, b"\x6a\x00" * 20))
        inner.insert(int(generator.integers(len(inner))), (15, 0, b"\x80" * 9 + b"\x01"))
    cuts = sorted(int(generator.integers(len(inner) + 1)) for _ in range(n_parts - 1))
    for number, (start, end) in enumerate(zip([0, *cuts], [*cuts, len(inner)], strict=True)):
        graphs[number] = (GRAPH, BYTES, written(inner[start:end], tag_bytes, length_bytes))
    first = generator.random() < 0.5
    return written([*graphs, *others] if first else [*others, *graphs], tag_bytes, length_bytes)


def _repeated_graph(content: bytes, generator: Generator) -> bytes:
    """Have the graph, or part of it, a second time."""
    graph = next(inner for number, _, inner in fields(content) if number == GRAPH)
    parts = list(fields(graph))
    again = written([part for part in parts if generator.random() < 0.5])
    repeats = int(generator.choice([1, 1, 2, 100]))
    added = written([(GRAPH, BYTES, (graph, again)[generator.integers(2)])] * repeats)
    return content + added if generator.random() < 0.5 else added + content


def _long_lengths(content: bytes, generator: Generator) -> bytes:
    """Have a field that claims to be longer than the file, or a number without end."""
    tag = varint(int(generator.choice([GRAPH, METADATA, 1_000])) << 3 | BYTES)
    length = int(generator.choice([2**31 - 1, 2**31, 2**32 - 1, 2**32 + 1, 2**62]))
    added = (
        tag + varint(length),
        tag + varint(2**63, 10) + b"\0",
        tag + b"\xff" * int(generator.choice([9, 10, 11, 100_000])),
        b"\x80" * 9 + b"\x01" + b"\0",
        varint((2**32 + GRAPH) << 3 | BYTES) + b"\0",
        varint(1_000 << 3 | 3) * int(generator.choice([1, 99, 101, 100_000])),
        varint(1_000 << 3 | 4),
        varint(GRAPH << 3 | 6),
    )[generator.integers(8)]
    parts = list(fields(content))
    index = len(written(parts[: generator.integers(len(parts) + 1)]))
    return content[:index] + added + content[index:]


def _deep_graphs(content: bytes, generator: Generator) -> bytes:
    """Have a graph in an attribute of a node of a graph, without end."""
    depth = int(generator.choice([5, 24, 34, 200, 3_000]))
    graph = b""
    for _ in range(depth):
        attribute = written([(1, BYTES, b"body"), (6, BYTES, graph), (20, 0, b"\x05")])
        node = written([(4, BYTES, b"Scan"), (5, BYTES, attribute)])
        graph = written([(1, BYTES, node)])
    return content + written([(GRAPH, BYTES, graph)])


def _outside_disguised(content: bytes, generator: Generator) -> bytes:
    """Have weights in another file, in a message that is written in an unusual way."""
    model = onnx.load_from_string(content)
    OUTSIDE[generator.integers(len(OUTSIDE))](model, generator)
    return _disguised(model.SerializeToString(), generator)


def _outside_by_parts(content: bytes, generator: Generator) -> bytes:
    """Say in a second part of a tensor that its numbers are outside: parts are put together."""
    tensor = tensor_outside(generator)
    inside = TensorProto(name="outside", data_type=TensorProto.FLOAT, dims=[27])
    outside = TensorProto(data_location=TensorProto.EXTERNAL, external_data=tensor.external_data)
    named = [(1, BYTES, b"value"), (20, 0, b"\x04")]
    parts = [(5, BYTES, each.SerializeToString()) for each in (inside, outside)]
    attribute = written([*named, *parts] if generator.random() < 0.5 else [*parts, *named])
    node = written([(2, BYTES, b"outside"), (4, BYTES, b"Constant"), (5, BYTES, attribute)])
    model = onnx.load_from_string(content)
    add_sum(model, "outside")
    first = written([(GRAPH, BYTES, written([(1, BYTES, node)]))])
    return first + bytes(model.SerializeToString())


def _outside_by_a_wide_number(content: bytes, generator: Generator) -> bytes:
    """Say that a tensor is outside by a number that is 1 in its lowest 32 bits only."""
    tensor = tensor_outside(generator)
    tensor.ClearField("data_location")
    number = varint(int(generator.choice([2**32 + 1, 2**40 + 1, 2**62 + 1])))
    body = tensor.SerializeToString() + written([(14, 0, number)])
    model = onnx.load_from_string(content)
    add_sum(model, "outside")
    return bytes(model.SerializeToString()) + written([(GRAPH, BYTES, written([(5, BYTES, body)]))])


def _of_message(content: bytes, generator: Generator, *, edit: Edit) -> bytes:
    model = onnx.load_from_string(content)
    edit(model, generator)
    return bytes(model.SerializeToString())


def _forms(edits: Sequence[Edit], *, refused: bool) -> Iterator[Form]:
    for edit in edits:
        yield Form(edit.__name__.strip("_"), partial(_of_message, edit=edit), refused)


FORMS = (
    *_forms(OUTSIDE, refused=True),
    Form("outside_disguised", _outside_disguised, refused=True),
    Form("outside_by_parts", _outside_by_parts, refused=True),
    Form("outside_by_a_wide_number", _outside_by_a_wide_number, refused=True),
    *_forms(LARGE, refused=False),
    *(Form("disguised", _disguised), Form("repeated_graph", _repeated_graph)),
    *(Form("long_lengths", _long_lengths), Form("deep_graphs", _deep_graphs)),
)
