"""Weights and described widths of an ONNX file, read where a program has no ``onnx``."""

from __future__ import annotations

import mmap
from collections.abc import Container, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnncodes.models.safety import BYTES, VARINT, mapped, read_fields

# Fields of the messages ModelProto, GraphProto and TensorProto, and values of the last's data_type.
_GRAPH, _INITIALIZER = 7, 5
_DATA_TYPE, _NAME, _RAW_DATA = 2, 8, 9
# A ValueInfoProto of the graph, and in it the name and the dimensions of its shape.
_VALUE, _VALUE_NAME, _DIMENSIONS = (_GRAPH, 13), (1,), (2, 1, 2, 1)
_LENGTH = 1
_DTYPES: dict[object, str] = {1: "<f4", 10: "<f2"}


def read_tensors(path: Path, names: Container[str]) -> dict[str, NDArray[np.float32]]:
    """Read initializers of an ONNX file.

    Parameters
    ----------
    path : Path
        The file.
    names : container of str
        The names of the initializers.

    Returns
    -------
    dict of str to ndarray of float32, shape (n_elements,)
        Those of these names that are in the file, stored in it as raw float32 or float16.

    Raises
    ------
    FileFormatError
        The file cannot be read or is not an ONNX model.
    """
    found: dict[str, NDArray[np.float32]] = {}
    with mapped(path) as model:
        for graph_number, graph_kind, graph in read_fields(model, slice(0, len(model))):
            if (graph_number, graph_kind) != (_GRAPH, BYTES) or not isinstance(graph, slice):
                continue
            for number, kind, tensor in read_fields(model, graph):
                if (number, kind) != (_INITIALIZER, BYTES) or not isinstance(tensor, slice):
                    continue
                fields = {(n, k): value for n, k, value in read_fields(model, tensor)}
                name, raw = fields.get((_NAME, BYTES)), fields.get((_RAW_DATA, BYTES))
                dtype = _DTYPES.get(fields.get((_DATA_TYPE, VARINT)))
                if isinstance(name, slice) and isinstance(raw, slice) and dtype is not None:
                    key = model[name].decode("utf-8")
                    if key in names:
                        found[key] = np.frombuffer(model[raw], dtype).astype(np.float32)
    return found


def read_widths(path: Path) -> dict[str, int]:
    """Return the last length of each value inside an ONNX graph whose shape the file describes.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    FileFormatError
        The file cannot be read or is not an ONNX model.
    """
    widths: dict[str, int] = {}
    with mapped(path) as model:
        for value in _inside(model, slice(0, len(model)), _VALUE):
            names = list(_inside(model, value, _VALUE_NAME))
            dimensions = list(_inside(model, value, _DIMENSIONS))
            if names and dimensions:
                fields = {(n, k): each for n, k, each in read_fields(model, dimensions[-1])}
                if isinstance(length := fields.get((_LENGTH, VARINT)), int):
                    widths[model[names[-1]].decode("utf-8")] = length
    return widths


def _inside(model: mmap.mmap, span: slice, numbers: tuple[int, ...]) -> Iterator[slice]:
    """Yield the spans of the fields of bytes that are reached by these numbers, one in another."""
    if not numbers:
        yield span
        return
    for number, kind, value in read_fields(model, span):
        if (number, kind) == (numbers[0], BYTES) and isinstance(value, slice):
            yield from _inside(model, value, numbers[1:])
