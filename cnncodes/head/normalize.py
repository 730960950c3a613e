"""Normalisations of codes, computed by the head itself before its weights.

``sqrt`` is the signed square root, which keeps a few large channels from deciding alone, and
``length`` divides by the Euclidean length, so that brightness and contrast count for less
(Perronnin, Sánchez and Mensink, "Improving the Fisher kernel for large-scale image
classification", ECCV 2010). ``sqrt+length`` is the one, then the other.

Blocks of columns may be normalised each in its own way: ``1024:none,512:length`` leaves the first
1,024 as they are and divides the 512 after them by their length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cnncodes.bounds import SMALLEST_LENGTH
from cnncodes.head.rows import CodeRows

if TYPE_CHECKING:
    import onnx


def normalized(X: NDArray[np.float32], how: str) -> NDArray[np.float32]:
    """Normalise codes, of shape (n_images, n_features), as one of `NORMALIZATIONS` or in blocks."""
    if blocks := _blocks(how):
        parts = np.split(X, np.cumsum([width for width, _ in blocks])[:-1], axis=1)
        return np.concatenate(
            [normalized(part, each) for part, (_, each) in zip(parts, blocks, strict=True)], axis=1
        )
    if "sqrt" in how:
        X = np.sign(X) * np.sqrt(np.abs(X))
    if "length" in how:
        with np.errstate(over="ignore"):  # an infinite length makes zeros, as in the graph
            lengths = np.sqrt(np.square(X).sum(axis=1, keepdims=True))
        X = X / np.maximum(lengths, np.float32(SMALLEST_LENGTH))
    return X


def _blocks(how: str) -> list[tuple[int, str]]:
    """Return width and normalisation of each block of columns; nothing where all are alike."""
    if ":" not in how:
        return []
    pairs = (each.partition(":") for each in how.split(","))
    return [(int(width), each) for width, _, each in pairs]


class NormalizedRows(CodeRows):
    """Rows of a codes file, normalised as they are read.

    Parameters
    ----------
    rows : CodeRows
        The same rows as they are.
    how : str
        One of `NORMALIZATIONS`.
    """

    def __init__(self, rows: CodeRows, how: str) -> None:
        self.__dict__.update(rows.__dict__)
        self._how = how

    def pick(self, indices: NDArray[np.intp]) -> NDArray[np.float32]:
        """Read and normalise images, as `CodeRows.pick`."""
        return normalized(super().pick(indices), self._how)


def normalization_nodes(how: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto], str]:
    """Return the nodes that normalise ``flat``, their constants, and the name of the result."""
    from onnx import helper, numpy_helper

    blocks = _blocks(how)
    if not blocks:
        return _nodes(how, "flat", "")
    widths = np.array([width for width, _ in blocks], np.int64)
    parts = [f"block{number}/flat" for number in range(len(blocks))]
    nodes = [helper.make_node("Split", ["flat", "widths"], parts, name="split", axis=1)]
    constants, names = [numpy_helper.from_array(widths, "widths")], []
    for number, (_, each) in enumerate(blocks):
        own_nodes, own_constants, name = _nodes(each, parts[number], f"block{number}/")
        nodes += own_nodes
        constants += own_constants
        names.append(name)
    nodes.append(helper.make_node("Concat", names, ["normalized"], name="concat", axis=1))
    return nodes, constants, "normalized"


def _nodes(
    how: str, name: str, prefix: str
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto], str]:
    """Return the nodes that normalise a tensor, their constants, and the name of the result."""
    from onnx import helper, numpy_helper

    nodes, constants = [], []

    def add(operator: str, inputs: list[str], output: str, node: str) -> str:
        nodes.append(helper.make_node(operator, inputs, [prefix + output], name=prefix + node))
        return prefix + output

    if "sqrt" in how:
        roots = add("Sqrt", [add("Abs", [name], "sizes", "abs")], "roots", "sqrt")
        signs = add("Sign", [name], "signs", "sign")
        name = add("Mul", [signs, roots], "powers", "signed_sqrt")
    if "length" in how:
        axis, least = f"{prefix}feature_axis", f"{prefix}smallest_length"
        constants += [
            numpy_helper.from_array(np.array([1], np.int64), axis),
            numpy_helper.from_array(np.array([SMALLEST_LENGTH], np.float32), least),
        ]
        length = add("ReduceL2", [name, axis], "length", "length")
        divisor = add("Max", [length, least], "divisor", "divisor")
        name = add("Div", [name, divisor], "unit", "to_unit")
    return nodes, constants, name
