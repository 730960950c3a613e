"""Networks in integers: near the float ones, and without a float operator where none is needed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper

from cnncodes.export.graph import Graph
from cnncodes.models.session import FULL_WEIGHTS, REDUCED_WEIGHTS, kernels_saturate
from cnncodes.quantize.calibration import METHODS, calibrate
from cnncodes.quantize.plan import Settings, observed_tensors
from cnncodes.quantize.qdq import quantize_graph
from cnncodes.quantize.rewrites import convolve_before_pooling, fold_preprocessing, pad_in_pooling
from tests.export.networks import Network, codes_of, images, operators, optimized

SIZE = 16
WEIGHT_LIMIT = REDUCED_WEIGHTS if kernels_saturate() else FULL_WEIGHTS
INTEGER_OPERATORS = {
    *("QLinearConv", "QLinearConcat", "QLinearAdd", "QLinearMul", "QLinearAveragePool"),
    *("MaxPool", "NhwcMaxPool", "Transpose", "Pad"),
}
PLAIN = Settings("max", 0.0, False, WEIGHT_LIMIT)


def rewritten(graph: Graph) -> Graph:
    pad_in_pooling(graph)
    convolve_before_pooling(graph)
    fold_preprocessing(graph, SIZE)
    return graph


def quantized(
    graph: Graph, chosen: Settings = PLAIN, calibration: NDArray[np.uint8] | None = None
) -> Graph:
    pixels = images(32, SIZE, seed=2) if calibration is None else calibration
    ranges = calibrate(graph, observed_tensors(graph), pixels, threads=1, advance=int)
    return quantize_graph(graph, ranges, chosen)


def cosines(expected: NDArray[np.float32], codes: NDArray[np.float32]) -> NDArray[np.float64]:
    one, two = (each.reshape(len(each), -1).astype(np.float64) for each in (expected, codes))
    product: NDArray[np.float64] = (one * two).sum(axis=1)
    return product / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)


def check(graph: Graph, chosen: Settings = PLAIN, cosine: float = 0.999) -> Graph:
    """Rewrite and quantize a graph; its codes must be near the float ones."""
    expected = codes_of(graph, images(size=SIZE))
    result = quantized(rewritten(graph), chosen)
    codes = codes_of(result, images(size=SIZE))
    assert codes.shape == expected.shape
    assert cosines(expected, codes).min() > cosine
    return result


def float_operators(graph: Graph) -> list[str]:
    """Return onnxruntime's operators on floats between the image and the last bytes."""
    kinds = [node.op_type for node in optimized(graph).graph.node]
    if kinds[-1] == "Mul":
        kinds.pop()
    assert kinds.pop() == "DequantizeLinear"
    return [kind for kind in kinds if kind not in INTEGER_OPERATORS]


def inception_block(network: Network, source: str, n_out: int = 16) -> str:
    pooled = network.conv(network.pool("AveragePool", source), n_out, 1)
    return network.concat(
        network.conv_relu(source, n_out, 1),
        network.conv_relu(network.conv_relu(source, n_out, 1), n_out, 3),
        network.node("Relu", pooled),
    )


# What integers do as well as floats


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("equalization", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("weight_limit", [WEIGHT_LIMIT, REDUCED_WEIGHTS])
@pytest.mark.parametrize("bias_correction", [False, True])
def test_convolutions_with_all_settings(
    method: str, equalization: float, weight_limit: int, bias_correction: bool
) -> None:
    network = Network(SIZE)
    last = network.conv_relu(network.conv_relu(network.pixels(), 16), 24, strides=[2, 2])
    graph = network.graph(network.conv_relu(last, 8, 1))
    chosen = Settings(method, equalization, bias_correction, weight_limit)
    assert float_operators(check(graph, chosen, cosine=0.997)) == []


@pytest.mark.parametrize("bias", [None, np.array([])])
@pytest.mark.parametrize("group", [1, 4, 16])
def test_groups_and_convolutions_without_bias(group: int, bias: np.ndarray | None) -> None:
    network = Network(SIZE)
    first = network.conv_relu(network.pixels(), 16, bias=bias)
    graph = network.graph(network.conv_relu(first, 32, group=group, bias=bias))
    assert float_operators(check(graph)) == []
    assert float_operators(check(graph, Settings("max", 1.0, True, WEIGHT_LIMIT))) == []


def test_preprocessing_that_needs_a_fourth_channel() -> None:
    network = Network(SIZE)
    source = network.pixels(1.0, [-103.939, -116.779, -123.68])
    graph = network.graph(network.conv_relu(network.conv_relu(source, 16), 8))
    assert float_operators(check(graph)) == []


def test_preprocessing_that_stays_float() -> None:
    network = Network(SIZE)
    source = network.node("Sqrt", network.pixels(1 / 255, 0.0))
    graph = check(network.graph(network.conv_relu(network.conv_relu(source, 16), 8)))
    assert "Sqrt" in operators(graph)
    kinds = Counter(node.op_type for node in optimized(graph).graph.node)
    assert (kinds["QLinearConv"], kinds["Conv"], kinds["FusedConv"]) == (2, 0, 0)


def test_max_pool() -> None:
    network = Network(SIZE)
    first = network.pool("MaxPool", network.conv_relu(network.pixels(), 16), strides=[2, 2])
    signed = network.pool("MaxPool", network.conv(first, 8))
    graph = network.graph(network.conv_relu(signed, 8))
    assert float_operators(check(graph)) == []


def test_clip_ends_the_range() -> None:
    network = Network(SIZE)
    bounds = [network.constant(np.float32(each)) for each in (0, 0.6)]
    clipped = network.node("Clip", network.conv(network.pixels(), 16), *bounds)
    graph = network.graph(clipped)
    result = check(graph)
    assert "Clip" not in operators(result)
    assert codes_of(result, images(size=SIZE)).max() == pytest.approx(0.6, rel=1e-5)


@pytest.mark.parametrize("clipped", ["term", "sum"])
@pytest.mark.parametrize("equalization", [0.0, 0.5, 1.0])
def test_clips_end_where_they_should_around_a_sum(clipped: str, equalization: float) -> None:
    network = Network(SIZE)
    source = network.conv_relu(network.pixels(), 16)
    bounds = [network.constant(np.float32(each)) for each in (0, 0.5)]
    uneven = np.geomspace(0.01, 3, 16)[:, None, None, None]
    weights = network.random.normal(0, 0.1, (16, 16, 3, 3)) * uneven
    term = network.conv(source, 16, bias=np.full(16, 1.0))
    if clipped == "term":
        term = network.node("Clip", term, *bounds)
    last = network.node("Add", term, network.conv(source, 16, weights=weights))
    if clipped == "sum":
        last = network.node("Clip", last, *bounds)
    check(network.graph(last), Settings("max", equalization, False, WEIGHT_LIMIT))


@pytest.mark.parametrize("bounds", [(-0.5, 0.5), (0.1, 0.5)])
def test_other_clips_stay(bounds: tuple[float, float]) -> None:
    network = Network(SIZE)
    ends = [network.constant(np.float32(each)) for each in bounds]
    clipped = network.node("Clip", network.conv(network.pixels(), 16), *ends)
    assert "Clip" in operators(check(network.graph(network.conv_relu(clipped, 8))))


def test_clip_behind_an_average_pool_stays() -> None:
    network = Network(SIZE)
    bounds = [network.constant(np.float32(each)) for each in (0, 0.2)]
    pooled = network.pool("AveragePool", network.conv_relu(network.pixels(), 16))
    clipped = network.node("Clip", network.conv(pooled, 16, 1), *bounds)
    result = check(network.graph(clipped))
    assert codes_of(result, images(size=SIZE)).max() == pytest.approx(0.2, rel=0.01)


# Average pools


@pytest.mark.parametrize("n_channels", [16, 10])
@pytest.mark.parametrize("behind", ["convolution and Relu", "Conv"])
@pytest.mark.parametrize("kernel", [2, 3])
def test_average_pool_is_right_at_the_edges(n_channels: int, behind: str, kernel: int) -> None:
    network = Network(SIZE)
    first = network.conv_relu(network.pixels(), 16, bias=np.full(16, 1.0))
    pads = [kernel // 2] * 2 + [(kernel - 1) // 2] * 2
    if behind == "convolution and Relu":  # which goes in front of the pool
        convolved = network.conv(
            network.pool("AveragePool", first, kernel, pads=pads), n_channels, 1
        )
        last = network.node("Relu", convolved)
    else:
        pooled = network.pool(
            "AveragePool", network.conv_relu(first, n_channels), kernel, pads=pads
        )
        last = network.conv_relu(pooled, 8)
    graph = network.graph(last)
    expected = codes_of(graph, images(size=SIZE))
    result = check(graph)
    assert float_operators(result) == []
    error = np.abs(codes_of(result, images(size=SIZE)) - expected)
    edge = np.ones((SIZE, SIZE), bool)
    edge[1:-1, 1:-1] = False
    tolerance = 0.03 * expected.max()
    assert error[:, edge].max() < tolerance
    assert error[:, ~edge].max() < tolerance
    assert error[:, edge].mean() < 2 * error[:, ~edge].mean() + 1e-6
    depthwise = [node for node in result.nodes if node.name.startswith("AveragePool")]
    # A corner's factor must fit in a byte: 9/4 does, 4 does not.
    kind = "Conv" if n_channels == 16 and kernel == 3 else "AveragePool"
    assert [node.op_type for node in depthwise] == [kind]


@pytest.mark.parametrize(
    "attributes",
    [
        {"count_include_pad": 1},
        {"strides": [2, 2]},
        {"kernel": 5},
        {"ceil_mode": 1, "strides": [2, 2]},
        {"pads": [0, 0, 0, 0]},
    ],
)
def test_average_pools_of_other_kinds(attributes: dict[str, object]) -> None:
    network = Network(SIZE)
    pooled = network.pool("AveragePool", network.conv_relu(network.pixels(), 16), **attributes)  # type: ignore[arg-type]
    check(network.graph(network.conv_relu(pooled, 16)))


def test_average_pool_of_signed_values() -> None:
    network = Network(SIZE)
    pooled = network.pool("AveragePool", network.conv(network.pixels(), 16))
    check(network.graph(network.conv_relu(pooled, 16)))


# Branches


def test_branches_of_different_ranges_are_joined_by_copying() -> None:
    network = Network(SIZE)
    source = network.conv_relu(network.pixels(), 16)
    small = network.conv_relu(
        source, 16, 1, weights=network.random.normal(0, 1e-4, (16, 16, 1, 1)), bias=np.array([])
    )
    large = network.conv_relu(
        source, 16, 1, weights=network.random.normal(0, 1e3, (16, 16, 1, 1)), bias=np.array([])
    )
    pooled = network.node("Relu", network.conv(network.pool("AveragePool", source), 16, 1))
    joined = network.concat(small, large, network.pool("MaxPool", source), pooled)
    result = check(network.graph(joined))
    assert float_operators(result) == []
    assert "Relu" not in operators(result)
    model = optimized(result)
    constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    (concat,) = [node for node in model.graph.node if node.op_type == "QLinearConcat"]
    scales = [concat.input[0], *concat.input[3::3]]
    assert {float(constants[each]) for each in scales} == {float(np.float32(1 / 255))}
    codes, expected = (
        codes_of(each, images(size=SIZE)) for each in (result, network.graph(joined))
    )
    for start in (0, 16, 32, 48):  # each branch on its own, the small one included
        branch = slice(start, start + 16)
        assert cosines(expected[..., branch], codes[..., branch]).min() > 0.999


def test_inception_blocks() -> None:
    network = Network(SIZE)
    last = network.conv_relu(network.pixels(), 16)
    for _ in range(3):
        last = inception_block(network, last)
    result = check(network.graph(last), Settings("max", 0.5, True, WEIGHT_LIMIT), cosine=0.998)
    assert float_operators(result) == []


def test_residual_sums() -> None:
    network = Network(SIZE)
    last = network.conv(network.pixels(), 16)
    for _ in range(2):
        inner = network.conv(network.conv_relu(last, 16), 16)
        last = network.node("Relu", network.node("Add", last, inner))
        last = network.node("Add", network.conv(last, 16), network.conv(last, 16, 1))
    graph = network.graph(network.node("Relu", last))
    for equalization in (0.0, 0.5):
        chosen = Settings("max", equalization, False, WEIGHT_LIMIT)
        result = check(graph, chosen, cosine=0.997)  # five layers add up
        assert float_operators(result) == []
        assert "Relu" not in operators(result)


def test_sum_of_what_stays_float() -> None:
    network = Network(SIZE)
    first = network.conv(network.pixels(), 16)
    result = check(network.graph(network.node("Add", first, network.node("Sigmoid", first))))
    assert {"Add", "Sigmoid"} <= set(operators(result))


def test_sum_over_one_element() -> None:
    network = Network(SIZE)
    pooled = network.node("GlobalAveragePool", network.conv_relu(network.pixels(), 16))
    both = network.conv(pooled, 16, 1), network.conv_relu(pooled, 16, 1)
    added = network.node("Relu", network.node("Add", *both))
    result = check(network.graph(network.conv_relu(added, 8, 1)))
    assert "Relu" not in operators(result)


@pytest.mark.parametrize("equalization", [0.0, 1.0])
def test_sum_of_an_activation_that_others_read_too(equalization: float) -> None:
    network = Network(SIZE)
    first = network.conv(network.pixels(), 16, bias=np.geomspace(0.01, 5, 16))
    activated = network.node("Relu", first)
    second = network.conv(activated, 16)
    added = network.node("Add", activated, second)
    graph = network.graph(network.concat(network.conv(added, 8), network.conv(first, 8)))
    check(graph, Settings("max", equalization, False, WEIGHT_LIMIT))


# What stays float


def test_swish_is_a_float_island() -> None:
    network = Network(SIZE)
    first = network.conv(network.pixels(), 16)
    swish = network.node("Mul", first, network.node("Sigmoid", first))
    pooled = network.node("Relu", network.pool("AveragePool", swish))
    graph = network.graph(network.concat(network.conv_relu(swish, 8), pooled))
    for equalization in (0.0, 0.5):
        chosen = Settings("max", equalization, False, WEIGHT_LIMIT)
        assert {"Sigmoid", "Mul"} <= set(operators(check(graph, chosen)))


def test_pool_of_floats_larger_than_one() -> None:
    network = Network(SIZE)
    large = network.node("Exp", network.conv(network.pixels(), 16))  # read by a Conv first
    convolved = network.conv_relu(large, 8)
    pooled = network.node("Relu", network.pool("AveragePool", large))
    check(network.graph(network.concat(convolved, pooled)), cosine=0.998)


def test_squeeze_and_excitation_around_floats() -> None:
    network = Network(SIZE)
    first = network.conv_relu(network.pixels(), 16)
    squeezed = network.conv_relu(network.node("GlobalAveragePool", first), 4, 1)
    excited = network.node("Sigmoid", network.conv(squeezed, 16, 1))
    last = network.conv_relu(network.node("Mul", first, excited), 8)
    kinds = Counter(node.op_type for node in optimized(check(network.graph(last))).graph.node)
    assert kinds["QLinearConv"] == 4
    assert kinds["Conv"] + kinds["FusedConv"] == 0


@pytest.mark.parametrize("transpose", [True, False])
def test_pooled_codes(transpose: bool) -> None:
    network = Network(SIZE)
    pooled = network.node("GlobalAveragePool", network.conv_relu(network.pixels(), 32))
    flat = network.node("Flatten", pooled)
    result = check(network.graph(pooled if transpose else flat, transpose=transpose))
    assert codes_of(result, images(3, SIZE)).shape == ((3, 1, 1, 32) if transpose else (3, 32))


@pytest.mark.parametrize("last", ["Conv", "Relu", "Add", "MaxPool", "AveragePool", "Concat"])
def test_output_without_a_transpose_is_of_numbers(last: str) -> None:
    network = Network(SIZE)
    first = network.conv_relu(network.pixels(), 16, bias=np.geomspace(0.01, 5, 16))
    second = network.conv_relu(first, 16)
    output = {
        "Conv": lambda: network.conv(second, 8),
        "Relu": lambda: network.conv_relu(second, 8),
        "Add": lambda: network.node("Add", first, second),
        "MaxPool": lambda: network.pool("MaxPool", second),
        "AveragePool": lambda: network.pool("AveragePool", second),
        "Concat": lambda: network.concat(first, second),
    }[last]()
    check(network.graph_without_end(output), Settings("max", 0.5, False, WEIGHT_LIMIT))


def test_convolutions_to_be_spared_stay_float() -> None:
    network = Network(SIZE)
    first = network.conv(network.pixels(), 16)
    second = network.conv(network.node("Relu", first), 16)
    third = network.conv(network.node("Relu", second), 16)
    added = network.node("Relu", network.node("Add", second, third))
    graph = network.graph(network.conv_relu(added, 8))
    everything = [first, second, third]
    for floats in (set(), {first}, {second}, {third}, {first, third}, set(everything)):
        chosen = Settings("max", 0.5, True, WEIGHT_LIMIT, frozenset(floats))
        result = check(graph, chosen)
        stored = [node.output[0] for node in result.nodes if node.op_type == "Conv"]
        assert stored[:3] == everything
        weights = [node.input[1] for node in result.nodes if node.op_type == "Conv"]
        assert {n for n, w in zip(stored, weights, strict=True) if w in result.constants} == floats


# Numbers


def uneven_graph() -> Graph:
    """A network whose channels differ a thousandfold, which its second convolution makes up for."""
    network = Network(SIZE)
    sizes = np.geomspace(1, 1e-3, 16)
    first = network.random.normal(0, 0.3, (16, 3, 3, 3)) * sizes[:, None, None, None]
    second = network.random.normal(0, 0.1, (8, 16, 3, 3)) / sizes[:, None, None]
    source = network.conv_relu(network.pixels(), 16, weights=first, bias=np.array([]))
    return network.graph(network.conv_relu(source, 8, weights=second))


def test_equalization_helps_uneven_channels() -> None:
    expected = codes_of(uneven_graph(), images(size=SIZE))
    errors = [
        1
        - cosines(
            expected, codes_of(quantized(rewritten(uneven_graph()), chosen), images(size=SIZE))
        ).mean()
        for chosen in (Settings("max", each, False, WEIGHT_LIMIT) for each in (0.0, 0.5, 1.0))
    ]
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 0.02 * errors[0]


def test_bias_correction_brings_the_mean_nearer() -> None:
    differences = []
    for seed in range(5):
        network = Network(SIZE, seed)
        first = network.conv_relu(network.pixels(), 32)
        graph = rewritten(network.graph(network.conv_relu(network.conv_relu(first, 32), 32)))
        expected = codes_of(graph, images(32, SIZE)).mean(axis=(0, 1, 2))
        for correction in (False, True):
            chosen = Settings("max", 0.0, correction, 7)  # few bits, much to take back
            codes = codes_of(quantized(graph, chosen), images(32, SIZE))
            differences.append(np.abs(codes.mean(axis=(0, 1, 2)) - expected).mean())
    without, corrected = np.reshape(differences, (5, 2)).mean(axis=0)
    assert corrected < 0.5 * without


@pytest.mark.parametrize("limit", [REDUCED_WEIGHTS, FULL_WEIGHTS])
def test_weights_stay_within_their_limit(limit: int) -> None:
    network = Network(SIZE)
    last = inception_block(network, network.conv_relu(network.pixels(), 16))
    graph = quantized(rewritten(network.graph(last)), Settings("max", 0.5, True, limit))
    stored = [
        value for value in graph.constants.values() if value.dtype == np.int8 and value.ndim == 4
    ]
    assert len(stored) == 6
    for weights in stored:
        assert np.abs(weights.astype(int)).max(axis=(1, 2, 3)).tolist() == [limit] * len(weights)


def test_dead_channels_and_rows_of_zeros() -> None:
    network = Network(SIZE)
    weights = network.random.normal(0, 0.3, (16, 3, 3, 3))
    weights[4] = 0
    bias = network.random.normal(0, 0.1, 16)
    bias[3:6] = [-100, 0, 0]
    first = network.conv_relu(network.pixels(), 16, weights=weights, bias=bias)
    graph = network.graph(network.conv_relu(first, 8))
    for equalization in (0.0, 0.5, 1.0):
        check(graph, Settings("mse", equalization, True, WEIGHT_LIMIT))


@pytest.mark.parametrize("equalization", [0.0, 0.5, 1.0])
def test_channel_dead_in_calibration_can_come_alive(equalization: float) -> None:
    network = Network(SIZE)
    weights = np.eye(3)[:, :, None, None]  # each colour a channel
    source = network.pixels(1 / 255, 0.0)
    colours = network.conv_relu(source, 3, 1, weights=weights, bias=np.array([]))
    graph = network.graph(colours)
    expected = codes_of(graph, images(size=SIZE))
    without_red = images(32, SIZE, seed=2) * np.array([0, 1, 1], np.uint8)
    chosen = Settings("max", equalization, False, WEIGHT_LIMIT)
    result = quantized(rewritten(graph), chosen, without_red)
    np.testing.assert_allclose(codes_of(result, images(size=SIZE)), expected, atol=1.1 / 255)


def test_dead_tensor_in_front_of_a_convolution_of_zeros() -> None:
    network = Network(SIZE)
    dead = network.conv_relu(network.pixels(), 16, bias=np.full(16, -100.0))
    weights = network.random.normal(0, 1, (8, 16, 3, 3))
    weights[:4] = 0
    both = [
        network.conv_relu(dead, 8, weights=weights, bias=each)
        for each in (np.linspace(0, 3, 8), np.array([]))
    ]
    result = quantized(rewritten(network.graph(network.concat(*both))), PLAIN)
    codes = codes_of(result, images(size=SIZE))
    expected = np.append(np.linspace(0, 3, 8), np.zeros(8))
    np.testing.assert_allclose(codes, np.broadcast_to(expected, codes.shape), atol=3 / 255)


@pytest.mark.parametrize("first", [1e-12, 1e-3, 1e3, 1e12])
@pytest.mark.parametrize("second", [1e-6, 1e6])
def test_huge_and_tiny_scales(first: float, second: float) -> None:
    network = Network(SIZE)
    source = network.conv_relu(
        network.pixels(),
        16,
        weights=first * network.random.normal(0, 0.3, (16, 3, 3, 3)),
        bias=np.full(16, 0.1 * first),
    )
    last = network.conv_relu(
        source,
        8,
        weights=second * network.random.normal(0, 0.1, (8, 16, 3, 3)),
        bias=np.full(8, 0.1 * first * second),
    )
    for method in METHODS:
        check(network.graph(last), Settings(method, 0.5, True, WEIGHT_LIMIT), cosine=0.998)


def test_bias_far_larger_than_the_products() -> None:
    network = Network(SIZE)
    source = network.conv_relu(network.pixels(), 16)
    weights = network.random.normal(0, 1e-9, (8, 16, 3, 3))
    last = network.conv_relu(source, 8, weights=weights, bias=np.linspace(1, 5, 8))
    check(network.graph(last))


# Any chain of them


@settings(max_examples=40)
@given(
    seed=st.integers(0, 1000),
    kinds=st.lists(
        st.sampled_from(
            ["conv", "signed", "depthwise", "max", "average", "block", "residual", "swish", "clip"]
        ),
        min_size=1,
        max_size=4,
    ),
    n_channels=st.sampled_from([16, 12]),
    method=st.sampled_from(METHODS),
    equalization=st.sampled_from([0.0, 0.5]),
    bias_correction=st.booleans(),
)
def test_any_small_network_is_near_its_float_form(
    seed: int,
    kinds: list[str],
    n_channels: int,
    method: str,
    equalization: float,
    bias_correction: bool,
) -> None:
    network = Network(SIZE, seed)
    last = network.conv_relu(network.pixels(), n_channels)
    for kind in kinds:
        last = add_layer(network, last, kind, n_channels)
    graph = network.graph(network.conv_relu(last, 8))
    check(graph, Settings(method, equalization, bias_correction, WEIGHT_LIMIT), cosine=0.96)


def add_layer(network: Network, source: str, kind: str, n_channels: int) -> str:
    if kind == "conv":
        return network.conv_relu(source, n_channels)
    if kind == "signed":
        return network.conv(source, n_channels, 1)
    if kind == "depthwise":
        n_in = network.channels[source]
        return network.conv_relu(source, n_in, group=n_in)
    if kind in ("max", "average"):
        return network.pool({"max": "MaxPool", "average": "AveragePool"}[kind], source)
    if kind == "block":
        return inception_block(network, source, n_channels)
    convolved = network.conv(source, n_channels)
    if kind == "residual":
        added = network.node("Add", convolved, network.conv(source, n_channels, 1))
        return network.node("Relu", added)
    if kind == "swish":
        return network.node("Mul", convolved, network.node("Sigmoid", convolved))
    bounds = [network.constant(np.float32(each)) for each in (0, 6)]
    return network.node("Clip", convolved, *bounds)
