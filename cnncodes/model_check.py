"""An ONNX file looked through before onnxruntime opens it: it may come from a stranger.

An ONNX file is a message of protobuf, which is read here as far as needed and without copying:
numbers of fields, lengths, and what stands in some of them. The names of the messages and the
numbers of their fields are those of ``onnx.proto``. It needs nothing but the standard library.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cnncodes.errors import FileFormatError

MAX_METADATA = 16_000_000  # bytes
DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
# For each message the fields that hold others of interest, and which. All of a graph is in it.
MESSAGES: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 8: "OperatorSet", 14: "Entry", 20: "Training", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor",
        6: "Graph",
        10: "Tensor",
        11: "Graph",
        22: "SparseTensor",
        23: "SparseTensor",
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "OperatorSet": {},
    "Entry": {},
    "Tensor": {},
}
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # kinds of fields
# Trees and support vectors are millions of numbers, each a field (7 and 8 of an attribute).
_NUMBERS = re.compile(rb"(?:\x3d.{4}){1,1000}|(?:\x40[\x80-\xff]{0,9}[\0-\x7f]){1,1000}", re.DOTALL)

Scalars = dict[tuple[int, int], "int | slice"]


@dataclass(frozen=True)
class ModelOutline:
    """What an ONNX file says of itself.

    Attributes
    ----------
    metadata : dict of str to str
        The ``metadata_props``.
    ir_version : int
        Version of the format ONNX.
    opset : int
        Version of ONNX's own operators.
    """

    metadata: dict[str, str]
    ir_version: int
    opset: int


def check_model(path: Path) -> ModelOutline:
    """Look through an ONNX file, and refuse one that reaches outside of itself.

    Its weights must all be inside, and its operators those of ONNX: onnxruntime has others that
    open files.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    ModelOutline
        What it says of itself.

    Raises
    ------
    FileFormatError
        The file cannot be read, is not an ONNX model, or one that may not be opened.
    """
    try:
        if not path.stat().st_size:
            raise ValueError("empty file")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as model:
            return _outline(model, path)
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise FileFormatError(f"{path}: cannot be opened as an ONNX model ({error})") from error


def _outline(model: mmap.mmap, path: Path) -> ModelOutline:
    metadata: dict[str, str] = {}
    ir_version = opset = metadata_bytes = 0
    has_graph = False
    for name, scalars in _messages(model):
        if name == "Model":
            ir_version = _number(scalars, 1)
        elif name == "OperatorSet" and _text(model, scalars, 1) in DOMAINS[:2]:
            opset = max(opset, _number(scalars, 2))
        elif name == "Graph":
            has_graph = True
        elif name == "Tensor":
            _refuse_external(model, scalars, path)
        elif name in ("Node", "Function"):
            _refuse_domain(_text(model, scalars, 7 if name == "Node" else 10), path)
        elif name == "Entry":
            metadata_bytes += sum(
                value.stop - value.start for value in scalars.values() if isinstance(value, slice)
            )
            if metadata_bytes > MAX_METADATA:
                raise FileFormatError(
                    f"{path}: has more than {MAX_METADATA / 1e6:.0f} MB of metadata; cnncodes "
                    "never writes that many: make the file again"
                )
            metadata[_text(model, scalars, 1)] = _text(model, scalars, 2)
    if not has_graph:
        raise ValueError("it has no graph")
    return ModelOutline(metadata, ir_version, opset)


def _refuse_external(model: mmap.mmap, scalars: Scalars, path: Path) -> None:
    if (13, BYTES) in scalars or _number(scalars, 14):
        raise FileFormatError(
            f"{path}: its weight {_text(model, scalars, 8)!r} is in another file, which might be "
            "any of this machine; use a file that holds its own weights"
        )


def _refuse_domain(domain: str, path: Path) -> None:
    if domain not in DOMAINS:
        raise FileFormatError(
            f"{path}: uses operators of {domain!r}, not of ONNX alone; such can do anything, so it "
            "is not opened: make the file with cnncodes"
        )


def _messages(model: mmap.mmap) -> Iterator[tuple[str, Scalars]]:
    """Give the messages of `MESSAGES`, the outer ones first, and what else is in each."""
    waiting = [("Model", 0, len(model))]
    while waiting:
        name, start, end = waiting.pop()
        scalars: Scalars = {}
        inner = MESSAGES[name]
        for number, kind, value in _fields(model, start, end):
            if kind == BYTES and number in inner and isinstance(value, slice):
                waiting.append((inner[number], value.start, value.stop))
            else:
                scalars[number, kind] = value  # where a field comes twice the last counts
        yield name, scalars


def _fields(model: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int | slice]]:
    """Give number, kind and value of the fields between two places; of bytes where they are."""
    while start < end:
        numbers = _NUMBERS.match(model, start, end)
        if numbers:
            start = numbers.end()
            continue
        tag, start = _varint(model, start, end)
        number, kind = tag >> 3, tag & 7
        value: int | slice
        if kind == VARINT:
            value, start = _varint(model, start, end)
        elif kind == BYTES:
            length, start = _varint(model, start, end)
            value = slice(start, start + length)
            start += length
        elif kind in (FIXED32, FIXED64):
            value = start
            start += 4 if kind == FIXED32 else 8
        else:
            raise ValueError("not of ONNX's format")
        if start > end or not 0 < number < 2**29:
            raise ValueError("not of ONNX's format")
        yield number, kind, value


def _varint(model: mmap.mmap, start: int, end: int) -> tuple[int, int]:
    """Return a number of protobuf, seven bits a byte and the lowest first, and its end."""
    value = shift = 0
    for place in range(start, min(end, start + 10)):
        byte = model[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place + 1
        shift += 7
    raise ValueError("cut off")


def _number(scalars: Scalars, number: int) -> int:
    value = scalars.get((number, VARINT), 0)
    return value if isinstance(value, int) else 0


def _text(model: mmap.mmap, scalars: Scalars, number: int) -> str:
    value = scalars.get((number, BYTES), slice(0, 0))
    return model[value].decode("utf-8") if isinstance(value, slice) else ""
