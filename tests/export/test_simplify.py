"""Simplified graphs: each must compute the same as before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from cnncodes.export.simplify import simplify

X = np.random.default_rng(0).normal(size=(3, 4, 6, 6)).astype(np.float32)


def node(kind: str, inputs: str, output: str, **attributes: object) -> NodeProto:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


def model_of(nodes: Sequence[NodeProto], **constants: object) -> ModelProto:
    """A graph from x, of shape (N, 4, 6, 6), to the output of the last node."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 6, 6])],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)  # the shape of the output


def simplified(model: ModelProto) -> list[str]:
    """Simplify, check that the result is the same, and return its operators."""
    plain = simplify(model)
    onnx.checker.check_model(plain)
    before, after = (
        onnxruntime.InferenceSession(
            each.SerializeToString(), providers=["CPUExecutionProvider"]
        ).run(None, {"x": X})[0]
        for each in (model, plain)
    )
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)
    read = {name for each in plain.graph.node for name in each.input}
    assert {each.name for each in plain.graph.initializer} <= read
    return [each.op_type for each in plain.graph.node]


def test_squeeze_and_excitation_is_one_pooling() -> None:
    nodes = [
        node("ReduceMean", "x axes", "mean", keepdims=0),
        node("Reshape", "mean flat", "squeezed"),
        node("Conv", "squeezed weights", "reduced"),
        node("Sigmoid", "reduced", "activated"),
        node("Reshape", "activated flat", "excited"),
        node("Mul", "x excited", "y"),
    ]
    weights = np.random.default_rng(1).normal(size=(4, 4, 1, 1)).astype(np.float32)
    model = model_of(nodes, axes=[2, 3], flat=[-1, 4, 1, 1], weights=weights)
    assert simplified(model) == ["GlobalAveragePool", "Conv", "Sigmoid", "Mul"]


def test_padding_and_scale_are_folded_into_a_depthwise_convolution() -> None:
    random = np.random.default_rng(2)
    nodes = [
        node("Pad", "x pads", "padded"),
        node("Conv", "padded weights", "convolved", group=4, strides=[2, 2]),
        node("Mul", "convolved scale", "scaled"),
        node("Add", "scaled shift", "y"),
    ]
    model = model_of(
        nodes,
        pads=[0, 0, 0, 0, 0, 0, 1, 1],
        weights=random.normal(size=(4, 1, 3, 3)).astype(np.float32),
        scale=random.uniform(0.5, 2, (1, 4, 1, 1)).astype(np.float32),
        shift=random.normal(size=(1, 4, 1, 1)).astype(np.float32),
    )
    assert simplified(model) == ["Conv"]


@pytest.mark.parametrize(
    ("axes", "shape"), [([1, 2], [-1, 6, 1, 1]), ([2, 3], [-1, 2, 2]), ([2, 3], [-1, 1, 2, 2])]
)
def test_other_means_and_reshapes_stay(axes: list[int], shape: list[int]) -> None:
    nodes = [
        node("ReduceMean", "x axes", "mean", keepdims=0),
        node("Reshape", "mean shape", "reshaped"),
        node("Relu", "reshaped", "y"),
    ]
    model = model_of(nodes, axes=axes, shape=shape)
    assert simplified(model) == ["ReduceMean", "Reshape", "Relu"]


def test_mean_that_something_else_reads_stays() -> None:
    nodes = [
        node("ReduceMean", "x axes", "mean", keepdims=0),
        node("Reshape", "mean flat", "pooled"),
        node("ReduceSum", "mean one", "sums", keepdims=0),
        node("Add", "pooled sums", "y"),
    ]
    model = model_of(nodes, axes=[2, 3], flat=[-1, 4, 1, 1], one=[1])
    assert "ReduceMean" in simplified(model)


def test_output_keeps_its_name_though_its_reshape_is_idle() -> None:
    nodes = [node("Relu", "x", "positive"), node("Reshape", "positive shape", "y")]
    assert simplified(model_of(nodes, shape=[-1, 4, 6, 6]))[0] == "Relu"


def test_pooling_at_the_end_keeps_its_shape() -> None:
    model = model_of([node("ReduceMean", "x axes", "y", keepdims=0)], axes=[2, 3])
    assert simplified(model) == ["ReduceMean"]


def test_names_and_order_of_constants_do_not_show() -> None:
    """A converter that goes through sets gives others each time."""
    one = model_of([node("Mul", "x a", "m"), node("Add", "m b", "y")], a=X[0], b=X[1])
    two = model_of([node("Mul", "x b", "m"), node("Add", "m a", "y")], a=X[1], b=X[0])
    assert simplified(one) == simplified(two) == ["Mul", "Add"]
    assert simplify(one).SerializeToString() == simplify(two).SerializeToString()
