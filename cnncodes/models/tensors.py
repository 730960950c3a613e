"""Weights of an ONNX file, read where a program has no ``onnx``."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnncodes.models.safety import BYTES, VARINT, mapped, read_fields

# Fields of the messages ModelProto, GraphProto and TensorProto, and values of the last's data_type.
_GRAPH, _INITIALIZER = 7, 5
_DATA_TYPE, _NAME, _RAW_DATA = 2, 8, 9
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
