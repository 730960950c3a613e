"""Winograd's convolutions: the same codes, restored exactly, and only where they are faster."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnncodes.export.graph import Graph, attribute
from cnncodes.export.winograd import restore_convolutions, use_winograd
from tests.export.networks import Network, codes_of, images, operators, optimized


def network(
    size: int = 24,
    n_in: int = 128,
    n_out: int = 128,
    kernel: tuple[int, int] = (3, 3),
    **options: object,
) -> Graph:
    """Return a network whose second convolution has these sizes."""
    net = Network(size)
    source = net.conv_relu(net.pixels(), n_in, 1)
    values = net.random.normal(0, (n_in * kernel[0] * kernel[1]) ** -0.5, (n_out, n_in, *kernel))
    pads = [taps // 2 for taps in kernel] * 2
    return net.graph(net.conv_relu(source, n_out, weights=values, **{"pads": pads, **options}))


def check(graph: Graph, expected_count: int = 1) -> None:
    """Rewrite and restore; the codes must be the same but for rounding, and exact at the end."""
    before, pixels = graph.model(), images(3, graph.shapes()["images"][1])
    expected = codes_of(graph, pixels)
    assert use_winograd(graph) == expected_count
    codes = codes_of(graph, pixels)
    np.testing.assert_allclose(codes, expected, rtol=0, atol=3e-5 * np.abs(expected).max())
    assert codes_of(graph, pixels[:0]).shape == (0, *expected.shape[1:])
    assert restore_convolutions(graph) == expected_count
    assert operators(graph) == [node.op_type for node in before.graph.node]
    np.testing.assert_array_equal(codes_of(graph, pixels), expected)


@settings(deadline=None, max_examples=25)
@given(
    size=st.integers(24, 40),
    n_in=st.sampled_from([128, 160]),
    n_out=st.sampled_from([128, 132]),
    pad=st.integers(0, 1),
    bias=st.booleans(),
)
def test_codes_stay_the_same(size: int, n_in: int, n_out: int, pad: int, bias: bool) -> None:
    values = None if bias else np.array([])
    check(network(size, n_in, n_out, pads=[pad] * 4, bias=values))


@pytest.mark.parametrize(
    ("size", "kernel", "pads", "points"),
    [
        (12, (1, 7), (0, 3), 22),
        (12, (7, 1), (3, 0), 22),
        (17, (1, 7), (0, 3), 29),
        (16, (7, 1), (3, 0), 28),
        (25, (5, 5), (2, 2), 40),
        (25, (3, 3), (1, 1), 49),
        (28, (3, 3), (1, 1), 36),
        (30, (3, 3), (0, 1), 42),
        (24, (7, 3), (3, 1), 40),
    ],
)
def test_each_algorithm(
    size: int, kernel: tuple[int, int], pads: tuple[int, int], points: int
) -> None:
    graph = network(size, kernel=kernel, pads=pads * 2)
    check(graph)
    use_winograd(graph)
    (products,) = (node for node in graph.nodes if node.name.startswith("winograd/products/"))
    assert attribute(products, "group", 1) == points


def test_several_convolutions_in_a_row_and_side_by_side() -> None:
    net = Network(24)
    source = net.conv_relu(net.pixels(), 128, 1)
    branches = (net.conv_relu(net.conv_relu(source, 128), 96) for _ in range(2))
    joined = net.concat(*branches, net.conv_relu(source, 64, 1))
    check(net.graph(net.conv_relu(joined, 128)), expected_count=5)


def test_convolution_whose_output_is_the_last() -> None:
    net = Network(24)
    graph = net.graph_without_end(net.conv(net.conv_relu(net.pixels(), 128, 1), 128))
    check(graph)


def test_restoring_reads_the_documented_names_only() -> None:
    """docs/file-formats.md has them: files that name other nodes otherwise are restored too."""
    graph = network()
    names = [node.name for node in graph.nodes]
    use_winograd(graph)
    added = [node for node in graph.nodes if node.name not in names]
    output = added[0].name.removeprefix("winograd/nhwc/")
    parts = {f"winograd/{part}/{output}" for part in ("nhwc", "taps", "weights", "filters", "bias")}
    assert parts < {node.name for node in added}
    for number, node in enumerate(added):
        assert node.name.startswith("winograd/")
        if node.name not in parts:
            node.name = f"winograd/{number}/{output}"
    assert restore_convolutions(graph) == 1
    assert sorted(node.op_type for node in graph.nodes) == sorted(operators(network()))


def test_names_that_only_resemble_those_of_winograd_stay() -> None:
    graph = network(n_in=16)
    graph.nodes[0].name, graph.nodes[1].name = "winograd/nhwc", "my/winograd/nhwc/x"
    before = operators(graph)
    assert restore_convolutions(graph) == 0
    assert operators(graph) == before


def test_onnxruntime_transforms_the_weights_when_it_loads_them() -> None:
    graph = network()
    use_winograd(graph)
    assert operators(graph).count("MatMul") == 5
    assert [node.op_type for node in optimized(graph).graph.node].count("MatMul") == 4


def test_rounds_little_more_than_a_plain_convolution() -> None:
    graph = network()
    pixels = images(4, 24)
    plain = codes_of(graph, pixels)
    use_winograd(graph)
    difference = np.abs(codes_of(graph, pixels) - plain).max() / np.abs(plain).max()
    assert 0 < difference < 1e-5


@pytest.mark.parametrize(
    "graph",
    [
        network(kernel=(1, 1)),
        network(n_in=16),
        network(size=5),
        network(size=16, n_in=640, n_out=640),
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
