"""Winograd's convolutions: the same codes, undone without a trace, and only where they help."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnncodes.export.graph import Graph
from cnncodes.export.winograd import restore_convolutions, use_winograd
from tests.export.networks import Network, codes_of, images, operators, optimized


def network(
    size: int = 24, n_in: int = 128, n_out: int = 128, kernel: int = 3, **given: object
) -> Graph:
    """Return a network whose second convolution has so many channels."""
    made = Network(size)
    source = made.conv_relu(made.pixels(), n_in, 1)
    return made.graph(made.conv_relu(source, n_out, kernel, **given))


def check(graph: Graph, expected_count: int = 1) -> None:
    """Rewrite; the codes must be the same but for rounding, and the graph must come back."""
    before, pixels = graph.model(), images(3, graph.shapes()["images"][1])
    expected = codes_of(graph, pixels)
    assert use_winograd(graph) == expected_count
    codes = codes_of(graph, pixels)
    np.testing.assert_allclose(codes, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert restore_convolutions(graph) == expected_count
    assert operators(graph) == [node.op_type for node in before.graph.node]
    np.testing.assert_array_equal(codes_of(graph, pixels), expected)


@settings(deadline=None, max_examples=25)
@given(
    size=st.integers(25, 40),
    n_in=st.sampled_from([128, 160]),
    n_out=st.sampled_from([128, 132]),
    pad=st.integers(0, 1),
    bias=st.booleans(),
)
def test_codes_stay_the_same(size: int, n_in: int, n_out: int, pad: int, bias: bool) -> None:
    values = None if bias else np.array([])
    check(network(size, n_in, n_out, pads=[pad] * 4, bias=values))


def test_several_convolutions_in_a_row_and_side_by_side() -> None:
    made = Network(24)
    source = made.conv_relu(made.pixels(), 128, 1)
    branches = (made.conv_relu(made.conv_relu(source, 128), 96) for _ in range(2))
    joined = made.concat(*branches, made.conv_relu(source, 64, 1))
    check(made.graph(made.conv_relu(joined, 128)), expected_count=5)


def test_convolution_that_makes_the_output() -> None:
    made = Network(24)
    graph = made.graph_without_end(made.conv(made.conv_relu(made.pixels(), 128, 1), 128))
    check(graph)


def test_onnxruntime_transforms_the_weights_when_it_loads_them() -> None:
    graph = network()
    use_winograd(graph)
    assert "Einsum" in operators(graph)
    assert "Einsum" not in [node.op_type for node in optimized(graph).graph.node]


def test_rounds_little_more_than_a_plain_convolution() -> None:
    graph = network()
    pixels = images(4, 24)
    plain = codes_of(graph, pixels)
    use_winograd(graph)
    difference = np.abs(codes_of(graph, pixels) - plain).max() / np.abs(plain).max()
    assert 0 < difference < 5e-6


@pytest.mark.parametrize(
    "graph",
    [
        network(kernel=1),
        network(kernel=5),
        network(n_in=32),
        network(size=16),
        network(strides=[2, 2]),
        network(dilations=[2, 2], pads=[2] * 4),
        network(group=2),
        network(pads=[1, 1, 0, 0]),
        network(auto_pad="SAME_UPPER"),
    ],
)
def test_other_convolutions_stay(graph: Graph) -> None:
    model = graph.model().SerializeToString()
    assert use_winograd(graph) == 0
    assert restore_convolutions(graph) == 0
    assert graph.model().SerializeToString() == model
