"""An ONNX graph for rewriting: nodes in a list, constants as arrays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from cnncodes.errors import FileFormatError

TO_NHWC, TO_NCHW = [0, 2, 3, 1], [0, 3, 1, 2]  # axes of Transpose
POOLS = {"avg": "ReduceMean", "max": "ReduceMax"}  # operators over height and width


class Graph:
    """The nodes and constants of a model.

    Parameters
    ----------
    model : onnx.ModelProto
        The model, whose inputs, outputs and operator versions are kept.

    Attributes
    ----------
    nodes : list of onnx.NodeProto
        In topological order.
    constants : dict of str to ndarray
        The initializers. `model` omits those that no node reads.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._template = _without_content(model)
        self.nodes: list[onnx.NodeProto] = list(model.graph.node)
        self.constants: dict[str, NDArray[Any]] = {
            each.name: numpy_helper.to_array(each) for each in model.graph.initializer
        }

    @classmethod
    def load(cls, path: Path) -> Graph:
        """Read a graph from a file.

        Raises
        ------
        FileFormatError
            The file is not an ONNX model.
        """
        try:
            return cls(onnx.load(str(path), format="protobuf", load_external_data=False))
        except Exception as error:  # protobuf's errors have no public base class
            raise FileFormatError(f"{path}: is not a readable ONNX model") from error

    def with_nodes(self, nodes: Iterable[onnx.NodeProto]) -> Graph:
        """Return a graph of other nodes, with a copy of the constants."""
        other = Graph(self._template)
        other.nodes = list(nodes)
        other.constants = dict(self.constants)
        return other

    @property
    def input(self) -> str:
        """Name of the only input."""
        return str(self._template.graph.input[0].name)

    @property
    def output(self) -> str:
        """Name of the only output."""
        return str(self._template.graph.output[0].name)

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add a constant; return its name."""
        self.constants[name] = value
        return name

    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        """Return for each tensor the nodes that read it."""
        readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                readers[name].append(node)
        return readers

    def producers(self) -> dict[str, onnx.NodeProto]:
        """Return for each tensor the node that writes it."""
        return {name: node for node in self.nodes for name in node.output}

    def shapes(self) -> dict[str, list[int]]:
        """Return the shapes of tensors, as far as they can be inferred; 0 is an unknown length."""
        # Weights go in as inputs: only their shapes matter, and each copy of them takes memory.
        weights = {name: each for name, each in self.constants.items() if each.dtype == np.float32}
        model = self._model({n: each for n, each in self.constants.items() if n not in weights})
        model.graph.input.extend(
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, each.shape)
            for name, each in weights.items()
        )
        inferred = onnx.shape_inference.infer_shapes(model).graph
        return {
            value.name: [each.dim_value for each in value.type.tensor_type.shape.dim]
            for value in (*inferred.input, *inferred.value_info, *inferred.output)
        }

    def model(self, outputs: Iterable[str] | None = None) -> onnx.ModelProto:
        """Build a model.

        Parameters
        ----------
        outputs : iterable of str, optional
            Float tensors that are the outputs instead of the graph's own.

        Returns
        -------
        onnx.ModelProto
            A model without metadata.
        """
        model = self._model(self.constants)
        if outputs is not None:
            del model.graph.output[:]
            model.graph.output.extend(
                helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
                for name in outputs
            )
        return model

    def _model(self, constants: dict[str, NDArray[Any]]) -> onnx.ModelProto:
        """Build a model with some of the constants, as far as nodes read them."""
        model = onnx.ModelProto()
        model.CopyFrom(self._template)
        model.graph.node.extend(self.nodes)
        read = {name for node in self.nodes for name in node.input}
        for name, value in constants.items():
            if name in read:
                model.graph.initializer.add().CopyFrom(numpy_helper.from_array(value, name))
        return model


def _without_content(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model of the same versions, inputs and outputs, without nodes and constants."""
    empty = onnx.ModelProto(
        ir_version=model.ir_version,
        opset_import=model.opset_import,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        functions=model.functions,
    )
    empty.graph.name = model.graph.name
    empty.graph.input.extend(model.graph.input)
    empty.graph.output.extend(model.graph.output)
    return empty


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return an attribute of a node, or `default` if it is absent."""
    for each in node.attribute:
        if each.name == name:
            return helper.get_attribute_value(each)
    return default


def node_like(
    node: onnx.NodeProto, inputs: Iterable[str], outputs: Iterable[str]
) -> onnx.NodeProto:
    """Return a copy of a node that reads and writes other tensors."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = list(inputs)
    copy.output[:] = list(outputs)
    return copy


def rename_output(model: onnx.ModelProto, name: str) -> None:
    """Rename the only output of a model, in place, wherever a node reads or writes it."""
    old = model.graph.output[0].name
    model.graph.output[0].name = name
    rename_tensor(model, old, name)


def rename_tensor(model: onnx.ModelProto, old: str, name: str) -> None:
    """Rename a tensor of a model, in place, wherever a node reads or writes it."""
    for node in model.graph.node:
        for tensors in (node.input, node.output):
            tensors[:] = [name if each == old else each for each in tensors]


def is_plain_pool(node: onnx.NodeProto) -> bool:
    """Whether kernel, strides and pads alone define the windows of a pool."""
    return (
        attribute(node, "ceil_mode", 0) == 0
        and attribute(node, "auto_pad", b"NOTSET") == b"NOTSET"
        and all(step == 1 for step in attribute(node, "dilations", [1, 1]))
    )


def pads_of(node: onnx.NodeProto) -> list[int]:
    """Return the pads of a convolution or pool: top, left, bottom, right."""
    return [int(each) for each in attribute(node, "pads", [0, 0, 0, 0])]


def as_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return an array, or a scalar, as contiguous float32."""
    return np.array(values, np.float32, order="C")
