"""Graphs as nodes and constants, and models built from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from cnncodes.errors import FileFormatError
from cnncodes.export.graph import (
    Graph,
    as_float32,
    attribute,
    is_plain_pool,
    node_like,
    pads_of,
    rename_output,
)
from cnncodes.quantize.calibration import run_graph
from tests.export.networks import Network, codes_of, images, operators


def small_graph() -> Graph:
    network = Network()
    return network.graph(network.conv_relu(network.pixels(), 4))


def test_loaded_graph_computes_the_same(tmp_path: Path) -> None:
    graph = small_graph()
    onnx.save(graph.model(), str(tmp_path / "graph.onnx"))
    loaded = Graph.load(tmp_path / "graph.onnx")
    assert (loaded.input, loaded.output) == ("images", "codes")
    assert operators(loaded) == operators(graph)
    np.testing.assert_array_equal(codes_of(loaded, images()), codes_of(graph, images()))


def test_model_keeps_neither_metadata_nor_unread_constants() -> None:
    model = small_graph().model()
    helper.set_model_props(model, {"author": "somebody"})
    graph = Graph(model)
    graph.constants["unread"] = np.zeros(3, np.float32)
    again = graph.model()
    assert not again.metadata_props
    assert {each.name for each in again.graph.initializer} == {
        each.name for each in model.graph.initializer
    }


def test_other_tensors_can_be_the_outputs() -> None:
    network = Network()
    pixels = network.pixels()
    graph = network.graph(network.conv_relu(pixels, 4))
    convolved = graph.producers()[graph.nodes[-1].input[0]].input[0]
    session = run_graph(graph, threads=1, outputs=[pixels, convolved])
    inputs, outputs = session.run(None, {"images": images()})
    np.testing.assert_allclose(
        inputs, images().transpose(0, 3, 1, 2) / 127.5 - 1, rtol=1e-6, atol=1e-6
    )
    assert outputs.shape == (8, 4, 16, 16)
    assert outputs.min() < 0


def test_graph_of_other_nodes_leaves_the_first_alone() -> None:
    graph = small_graph()
    other = graph.with_nodes(graph.nodes[:2])
    other.constants.clear()
    other.nodes.pop()
    assert operators(graph) == ["Cast", "Mul", "Add", "Transpose", "Conv", "Relu", "Transpose"]
    assert len(graph.constants) == 4


def test_producers_and_consumers() -> None:
    network = Network()
    first = network.conv(network.pixels(), 4)
    graph = network.graph(network.node("Add", first, network.node("Relu", first)))
    assert graph.producers()[first].op_type == "Conv"
    assert [each.op_type for each in graph.consumers()[first]] == ["Relu", "Add"]
    assert graph.consumers()["codes"] == []


@pytest.mark.parametrize("content", [b"not a model", b"\x0a\xff"])
def test_other_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"other\.onnx: is not a readable ONNX model"):
        Graph.load(path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"missing\.onnx"):
        Graph.load(tmp_path / "missing.onnx")


@pytest.mark.parametrize(
    ("attributes", "is_plain"),
    [
        ({}, True),
        ({"auto_pad": "NOTSET", "ceil_mode": 0, "dilations": [1, 1], "strides": [2, 2]}, True),
        ({"ceil_mode": 1}, False),
        ({"auto_pad": "SAME_UPPER"}, False),
        ({"dilations": [1, 2]}, False),
    ],
)
def test_plain_pools(attributes: dict[str, object], is_plain: bool) -> None:
    pool = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], **attributes)
    assert is_plain_pool(pool) == is_plain


def test_attributes() -> None:
    pool = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 2], pads=[1, 2, 3, 4])
    assert attribute(pool, "kernel_shape", None) == [3, 2]
    assert attribute(pool, "strides", [1, 1]) == [1, 1]
    assert pads_of(pool) == [1, 2, 3, 4]
    assert pads_of(helper.make_node("MaxPool", ["x"], ["y"])) == [0, 0, 0, 0]


def test_copied_node_reads_and_writes_other_tensors() -> None:
    pool = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 2])
    copy = node_like(pool, ["a"], ["b"])
    assert (list(copy.input), list(copy.output)) == (["a"], ["b"])
    assert (list(pool.input), list(pool.output)) == (["x"], ["y"])
    assert attribute(copy, "kernel_shape", None) == [3, 2]


def test_output_that_a_node_reads_too_is_renamed_everywhere() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Relu", ["y"], ["z"])]
    values = [helper.make_tensor_value_info(name, 1, [2]) for name in "xy"]
    model = helper.make_model(helper.make_graph(nodes, "test", values[:1], values[1:]))
    rename_output(model, "codes")
    assert model.graph.output[0].name == "codes"
    assert [list(node.input) for node in model.graph.node] == [["x"], ["codes"]]
    assert [list(node.output) for node in model.graph.node] == [["codes"], ["z"]]


def test_float32_keeps_the_shape() -> None:
    assert as_float32(np.float64(2)).shape == ()
    turned = as_float32(np.arange(6.0).reshape(2, 3).T)
    assert (turned.dtype, turned.shape, turned.flags.c_contiguous) == (np.float32, (3, 2), True)
