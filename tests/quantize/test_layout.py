"""Integer graphs in other shapes: the same bytes, and no operator more than reshaping."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from cnncodes.export.graph import Graph
from cnncodes.quantize.calibration import calibrate
from cnncodes.quantize.layout import FEW_PIXELS, fold_batch
from cnncodes.quantize.plan import Settings, observed_tensors
from cnncodes.quantize.qdq import quantize_graph
from cnncodes.quantize.rewrites import fold_preprocessing
from tests.export.networks import Network, codes_of, images, optimized


def integer(graph: Graph, size: int) -> Graph:
    fold_preprocessing(graph, size)
    chosen = Settings("max", 0.0, False, 63)
    tensors = observed_tensors(graph)
    ranges = calibrate(graph, tensors, images(8, size), threads=1, advance=int)
    return quantize_graph(graph, ranges, chosen)


def kinds(graph: Graph) -> Counter[str]:
    """Count the operators that onnxruntime runs."""
    return Counter(node.op_type for node in optimized(graph).graph.node)


def test_graph_without_convolution_stays() -> None:
    graph = Network(16).graph("images", transpose=False)
    assert fold_batch(graph) == 0


def tail(size: int = 8, height: int = 1, width: int = 1, **attributes: object) -> Graph:
    """Return a network whose second convolution has a window of `height` × `width`."""
    network = Network(size)
    first = network.conv_relu(network.pixels(), 16)
    weights = network.random.normal(0, 0.1, (8, 16, height, width))
    pads = [height // 2, width // 2] * 2
    usual: dict[str, object] = {"weights": weights, "pads": pads}
    second = network.conv(first, 8, **{**usual, **attributes})  # type: ignore[arg-type]
    return integer(network.graph(network.conv_relu(network.node("Relu", second), 8)), size)


@pytest.mark.parametrize("width", [1, 3, 5])
@pytest.mark.parametrize("strides", [[1, 1], [1, 2]])
@pytest.mark.parametrize("n_images", [1, 3])
def test_stacked_images_give_the_same_bytes(width: int, strides: list[int], n_images: int) -> None:
    graph = tail(width=width, strides=strides)
    pixels = images(n_images, 8)
    expected = codes_of(graph, pixels)
    assert fold_batch(graph) == 1
    np.testing.assert_array_equal(codes_of(graph, pixels), expected)


def test_stacking_moves_nothing() -> None:
    network = Network(8)
    source = network.conv_relu(network.pixels(), 16)
    branches = (network.conv_relu(network.conv_relu(source, 16, 1), 16, 1) for _ in range(3))
    joined = network.concat(*branches, network.conv_relu(source, 16))
    graph = integer(network.graph(network.conv_relu(joined, 8)), 8)
    before, expected = kinds(graph), codes_of(graph, images(4, 8))
    assert fold_batch(graph) == 6
    after = kinds(graph)
    assert set(after - before) == {"Reshape"}
    np.testing.assert_array_equal(codes_of(graph, images(4, 8)), expected)


@pytest.mark.parametrize(
    "graph",
    [
        tail(size=int(FEW_PIXELS**0.5) + 1),
        tail(height=3, width=1),
        tail(height=3, width=3),
        tail(strides=[2, 1]),
        tail(pads=[1, 0, 0, 0]),
        tail(auto_pad="SAME_UPPER"),
    ],
)
def test_other_convolutions_stay(graph: Graph) -> None:
    model = graph.model().SerializeToString()
    assert fold_batch(graph) == 0
    assert graph.model().SerializeToString() == model
