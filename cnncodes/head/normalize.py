"""Normalisations of codes, computed by the head itself before its weights.

``sqrt`` is the signed square root, which keeps a few large channels from deciding alone, and
``length`` divides by the Euclidean length, so that brightness and contrast count for less
(Perronnin, Sánchez and Mensink, "Improving the Fisher kernel for large-scale image
classification", ECCV 2010). ``sqrt+length`` is the one, then the other. ``standardize`` divides
each code by its standard deviation over the training images, so that layers with small codes count
as much as others; it is folded into the weights. ``sqrt+standardize`` does so to the roots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cnncodes.bounds import SMALLEST_LENGTH
from cnncodes.head.rows import CodeRows
from cnncodes.head.scaling import SMALLEST_SPREAD

if TYPE_CHECKING:
    import onnx


def normalized(X: NDArray[np.float32], how: str) -> NDArray[np.float32]:
    """Normalise codes, of shape (n_images, n_features), as one of `NORMALIZATIONS`."""
    if "sqrt" in how:
        X = np.sign(X) * np.sqrt(np.abs(X))
    if "length" in how:
        with np.errstate(over="ignore"):  # an infinite length makes zeros, as in the graph
            lengths = np.sqrt(np.square(X).sum(axis=1, keepdims=True))
        X = X / np.maximum(lengths, np.float32(SMALLEST_LENGTH))
    return X


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


class StandardizedRows(CodeRows):
    """Rows of a codes file, whose columns are divided by their standard deviations over them.

    Parameters
    ----------
    rows : CodeRows
        The same rows as they are, or normalised.

    Attributes
    ----------
    deviations : ndarray of float32, shape (n_features,)
        The divisors; one where a column varies by too little for float32.
    """

    def __init__(self, rows: CodeRows) -> None:
        self.__dict__.update(rows.__dict__)
        self._undivided = rows
        reference = rows.read(0, 1)[0]
        total, squares = np.zeros((2, rows.n_features))
        for _, X in rows.blocks():
            X -= reference  # near the mean, so that squares lose no digits
            total += X.sum(axis=0, dtype=np.float64)
            squares += np.square(X, dtype=np.float64).sum(axis=0)
        shift = total / len(rows)
        deviations = np.sqrt(np.maximum(squares / len(rows) - np.square(shift), 0))
        varying = deviations > SMALLEST_SPREAD * np.abs(reference + shift)
        self.deviations = np.where(varying, deviations, 1).astype(np.float32)

    def pick(self, indices: NDArray[np.intp]) -> NDArray[np.float32]:
        """Read and divide the codes of images, as `CodeRows.pick`."""
        return self._undivided.pick(indices) / self.deviations


def normalization_nodes(how: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto], str]:
    """Return the nodes that normalise ``flat``, their constants, and the name of the result."""
    from onnx import helper, numpy_helper

    nodes, constants, name = [], [], "flat"
    if "sqrt" in how:
        nodes += [
            helper.make_node("Abs", [name], ["sizes"], name="abs"),
            helper.make_node("Sqrt", ["sizes"], ["roots"], name="sqrt"),
            helper.make_node("Sign", [name], ["signs"], name="sign"),
            helper.make_node("Mul", ["signs", "roots"], ["powers"], name="signed_sqrt"),
        ]
        name = "powers"
    if "length" in how:
        constants += [
            numpy_helper.from_array(np.array([1], np.int64), "feature_axis"),
            numpy_helper.from_array(np.array([SMALLEST_LENGTH], np.float32), "smallest_length"),
        ]
        nodes += [
            helper.make_node("ReduceL2", [name, "feature_axis"], ["length"], name="length"),
            helper.make_node("Max", ["length", "smallest_length"], ["divisor"], name="divisor"),
            helper.make_node("Div", [name, "divisor"], ["unit"], name="to_unit"),
        ]
        name = "unit"
    return nodes, constants, name
