"""A converted graph made plain: fewer operators, and those that every runtime does well.

tf2onnx leaves the batch normalization of a depthwise convolution, and the padding before it, as
operators of their own. onnxruntime's basic optimizations, which keep to standard ONNX, fold both
into the convolution. What remains of squeeze-and-excitation, a mean and two reshapes, becomes
one global average pooling here.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
from onnx import ModelProto, numpy_helper

HEIGHT_AND_WIDTH = [2, 3]


def simplify(model: ModelProto) -> ModelProto:
    """Return a model that computes the same with fewer and plainer operators.

    Parameters
    ----------
    model : onnx.ModelProto
        A model of standard operators.

    Returns
    -------
    onnx.ModelProto
        With the same inputs and outputs. It may declare domains of which it uses no operator.
    """
    model = _optimize(model)
    del model.graph.value_info[:]  # the shapes below would contradict it
    _pool_globally(model)
    _drop_idle_reshapes(model)
    _put_constants_in_order(model)
    return model


def _optimize(model: ModelProto) -> ModelProto:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return onnx.load(str(path))


def _pool_globally(model: ModelProto) -> None:
    """Make each mean over height and width GlobalAveragePool where it is reshaped to 1 × 1."""
    constants = _constants(model)
    for node in model.graph.node:
        if node.op_type != "ReduceMean" or constants.get(node.input[-1]) != HEIGHT_AND_WIDTH:
            continue
        readers = [each for each in model.graph.node if node.output[0] in each.input]
        if readers and all(
            each.op_type == "Reshape" and constants.get(each.input[1], [])[2:] == [1, 1]
            for each in readers
        ):
            node.op_type = "GlobalAveragePool"
            del node.input[1:], node.attribute[:]


def _drop_idle_reshapes(model: ModelProto) -> None:
    """Remove each Reshape whose input has the wanted shape already, the batch being free."""
    constants = _constants(model)
    shapes = {
        value.name: [each.dim_value for each in value.type.tensor_type.shape.dim]
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    for node in [node for node in model.graph.node if node.op_type == "Reshape"]:
        given, wanted = shapes.get(node.input[0], []), constants.get(node.input[1], [])
        if wanted[:1] != [-1] or given[1:] != wanted[1:] or not all(wanted[1:]):
            continue
        for reader in model.graph.node:
            for index, name in enumerate(reader.input):
                if name == node.output[0]:
                    reader.input[index] = node.input[0]
        if node.output[0] not in {value.name for value in model.graph.output}:
            model.graph.node.remove(node)


def _put_constants_in_order(model: ModelProto) -> None:
    """Give constants numbers and places as they are read, and drop those that are not.

    tf2onnx goes through sets of names, so its own names and order differ from run to run.
    """
    constants = {each.name: each for each in model.graph.initializer}
    read = dict.fromkeys(name for node in model.graph.node for name in node.input)
    ours = enumerate(name for name in read if name in constants)
    names = {name: f"constant_{number}" for number, name in ours}
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    for old, new in names.items():
        constants[old].name = new
    del model.graph.initializer[:]
    model.graph.initializer.extend(constants[old] for old in names)


def _constants(model: ModelProto) -> dict[str, list[int]]:
    """Return the constants that may be shapes or axes, by name."""
    return {
        each.name: numpy_helper.to_array(each).tolist()
        for each in model.graph.initializer
        if each.data_type == onnx.TensorProto.INT64 and len(each.dims) == 1
    }
