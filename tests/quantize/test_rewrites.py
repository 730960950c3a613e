"""Rewrites of the float graph: each must compute what it did before, and know what to leave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from cnncodes.export.graph import Graph, pads_of
from cnncodes.quantize.rewrites import convolve_before_pooling, fold_preprocessing, pad_in_pooling
from tests.export.networks import Network, codes_of, images, operators

SIZE = 16
VGG_MEANS = [103.939, 116.779, 123.68]


def changed(graph: Graph, rewrite: Callable[[Graph], object]) -> bool:
    """Rewrite a graph, check that it computes the same, and return whether it changed at all."""
    pixels, before = images(size=SIZE), codes_of(graph, images(size=SIZE))
    model = graph.model().SerializeToString()
    done = bool(rewrite(graph))
    after = codes_of(graph, pixels)
    np.testing.assert_allclose(after, before, rtol=0, atol=2e-6 * np.abs(before).max())
    assert done == (graph.model().SerializeToString() != model)
    return done


def fold(graph: Graph) -> bool:
    return fold_preprocessing(graph, SIZE)


# Pads in front of max pools


def padded_pool(
    value: float | None = 0.0,
    amounts: tuple[int, ...] = (0, 0, 1, 1, 0, 0, 1, 1),
    *,
    behind: str = "Relu",
    kind: str = "MaxPool",
    mode: str = "constant",
    **attributes: object,
) -> Graph:
    network = Network(SIZE)
    source = network.node(behind, network.conv(network.pixels(), 4))
    inputs = [source, network.constant(np.array(amounts, np.int64))]
    if value is not None:
        inputs.append(network.constant(np.float32(value)))
    padded = network.node("Pad", *inputs, mode=mode)
    options = {"kernel_shape": [3, 3], "strides": [2, 2], **attributes}
    return network.graph(network.node(kind, padded, **options))


@pytest.mark.parametrize("value", [0.0, None])
def test_pad_goes_into_the_pool(value: float | None) -> None:
    graph = padded_pool(value)
    assert changed(graph, pad_in_pooling)
    assert "Pad" not in operators(graph)


def test_pads_add_up_on_each_side() -> None:
    graph = padded_pool(amounts=(0, 0, 1, 0, 0, 0, 0, 1), kernel_shape=[4, 4], pads=[1, 0, 0, 1])
    assert changed(graph, pad_in_pooling)
    (pool,) = [node for node in graph.nodes if node.op_type == "MaxPool"]
    assert pads_of(pool) == [2, 0, 0, 2]


@pytest.mark.parametrize(
    "graph",
    [
        padded_pool(behind="Identity"),
        padded_pool(behind="Sigmoid"),
        padded_pool(value=1.0),
        padded_pool(value=-1.0),
        padded_pool(amounts=(0, 1, 1, 1, 0, 0, 1, 1)),
        padded_pool(amounts=(0, 0, 1, 1, 0, 1, 1, 1)),
        padded_pool(amounts=(0, 0, -1, 1, 0, 0, 1, 1)),
        padded_pool(amounts=(0, 0, 3, 0, 0, 0, 0, 0)),
        padded_pool(amounts=(0, 0, 2, 0, 0, 0, 0, 0), pads=[1, 0, 0, 0]),
        padded_pool(mode="reflect"),
        padded_pool(ceil_mode=1),
        padded_pool(kind="AveragePool"),
    ],
)
def test_other_pads_stay(graph: Graph) -> None:
    assert not changed(graph, pad_in_pooling)
    assert "Pad" in operators(graph)


def test_pad_of_computed_value_stays() -> None:
    network = Network(SIZE)
    source = network.conv_relu(network.pixels(), 4)
    amounts = network.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    value = network.node("Identity", network.constant(np.float32(5)))
    padded = network.node("Pad", source, amounts, value)
    assert not changed(network.graph(network.pool("MaxPool", padded)), pad_in_pooling)


def test_pad_that_something_else_reads_stays() -> None:
    network = Network(SIZE)
    source = network.conv_relu(network.pixels(), 4)
    amounts = network.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    padded = network.node("Pad", source, amounts)
    pools = [network.pool(kind, padded) for kind in ("MaxPool", "AveragePool")]
    assert not changed(network.graph(network.concat(*pools)), pad_in_pooling)


# Average pools in front of 1 × 1 convolutions


def pooled_convolution(
    n_out: int = 4, kernel: int = 1, *, pool: dict[str, object] | None = None, **conv: object
) -> Graph:
    network = Network(SIZE)
    pooled = network.pool("AveragePool", network.conv_relu(network.pixels(), 8), **(pool or {}))
    convolved = network.conv(pooled, n_out, kernel, **conv)  # type: ignore[arg-type]
    return network.graph(network.node("Relu", convolved))


@pytest.mark.parametrize("n_out", [4, 8])
@pytest.mark.parametrize("bias", [None, np.array([])])
@pytest.mark.parametrize("strides", [[1, 1], [2, 2]])
def test_convolution_goes_first(n_out: int, bias: np.ndarray | None, strides: list[int]) -> None:
    graph = pooled_convolution(n_out, bias=bias, pool={"strides": strides})
    assert changed(graph, convolve_before_pooling)
    assert operators(graph)[-4:] == ["Conv", "AveragePool", "Relu", "Transpose"]


def test_pools_in_a_row_all_move() -> None:
    network = Network(SIZE)
    source = network.conv_relu(network.pixels(), 8)
    pools = [network.pool("AveragePool", source, kernel) for kernel in (3, 5)]
    graph = network.graph(network.concat(*(network.conv(each, 4, 1) for each in pools)))
    moved = []
    assert changed(graph, lambda graph: moved.append(convolve_before_pooling(graph)) or moved)
    assert moved == [2]


@pytest.mark.parametrize(
    "graph",
    [
        pooled_convolution(pool={"count_include_pad": 1}),
        pooled_convolution(pool={"ceil_mode": 1, "strides": [2, 2]}),
        pooled_convolution(pool={"auto_pad": "SAME_UPPER"}),
        pooled_convolution(kernel=3),
        pooled_convolution(strides=[2, 2]),
        pooled_convolution(group=2),
        pooled_convolution(pads=[1, 1, 1, 1]),
        pooled_convolution(n_out=9),
    ],
)
def test_other_pools_stay(graph: Graph) -> None:
    assert not changed(graph, convolve_before_pooling)


def test_pool_that_two_nodes_read_stays() -> None:
    network = Network(SIZE)
    pooled = network.pool("AveragePool", network.conv_relu(network.pixels(), 8))
    graph = network.graph(network.concat(network.conv(pooled, 4, 1), network.conv(pooled, 4, 1)))
    assert not changed(graph, convolve_before_pooling)


def test_pools_of_inception_v3_move(small_backbone: Path) -> None:
    graph = Graph.load(small_backbone)
    pixels = images(4, 75)
    before = codes_of(graph, pixels)
    assert convolve_before_pooling(graph) == 9
    np.testing.assert_allclose(codes_of(graph, pixels), before, atol=1e-5 * before.max())
    assert fold_preprocessing(graph, 75)
    np.testing.assert_allclose(codes_of(graph, pixels), before, atol=1e-5 * before.max())


# Preprocessing


def prepared(
    scale: ArrayLike = 1 / 127.5,
    shift: ArrayLike = -1.0,
    *,
    order: list[int] | None = None,
    mixed: ArrayLike | None = None,
    **conv: object,
) -> Graph:
    """A convolution behind: channels in another order, mixed, scaled and shifted."""
    network = Network(SIZE)
    source = network.pixels(scale, shift)
    if order is not None:
        source = network.node("Gather", source, network.constant(np.array(order)), axis=1)
    if mixed is not None:
        source = network.conv(source, 3, 1, weights=np.array(mixed))
    options = {"bias": np.linspace(-1, 1, 5), **conv}
    return network.graph(network.conv(source, 5, 3, **options))  # type: ignore[arg-type]


FORMS: list[dict[str, object]] = [
    {"pads": [0, 0, 0, 0]},
    {"pads": [0, 0, 0, 0], "shift": [-3.0, 1.0, 9.0]},
    {"scale": 1 / 255, "shift": 0.0},
    {"scale": -1 / 64, "shift": 2.0},
    {"scale": 1.0, "shift": [-103.0, -103.2, -102.8], "pads": [0, 0, 0, 0]},
    {"scale": 1.0, "shift": np.negative(VGG_MEANS), "order": [2, 1, 0]},
    {"scale": [0.01, 0.02, 0.03], "shift": [-1.0, -2.0, -2.5]},
    {"scale": 1.0, "shift": 5.0},
    {"scale": 1.0, "shift": -300.0},
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("strides", [[1, 1], [2, 2]])
@pytest.mark.parametrize("bias", [np.linspace(-1, 1, 5), np.array([])])
def test_first_convolution_takes_the_pixels(
    form: dict[str, object], strides: list[int], bias: np.ndarray
) -> None:
    graph = prepared(**form, strides=strides, bias=bias)  # type: ignore[arg-type]
    assert changed(graph, fold)
    assert set(operators(graph)) <= {"Pad", "Transpose", "DequantizeLinear", "Conv"}


def test_zero_between_two_grey_levels_costs_half_a_level_at_the_edge() -> None:
    graph = prepared()
    before = codes_of(graph, images())
    weights = graph.constants[graph.nodes[-2].input[1]]
    assert fold(graph)
    assert operators(graph) == ["Transpose", "DequantizeLinear", "Conv", "Transpose"]
    difference = np.abs(codes_of(graph, images()) - before)
    assert difference[:, 1:-1, 1:-1].max() < 1e-5
    half_level = 0.5 / 127.5
    assert 1e-4 < difference.max() <= half_level * np.abs(weights).sum(axis=(1, 2, 3)).max() + 1e-5


@pytest.mark.parametrize(("shift", "has_pad"), [(-100.0, False), ([-100.0, -101.0, -100.0], True)])
def test_fourth_channel_only_where_one_level_does_not_do(shift: ArrayLike, has_pad: bool) -> None:
    graph = prepared(1.0, shift)
    assert changed(graph, fold)
    assert ("Pad" in operators(graph)) == has_pad


@settings(max_examples=25)
@given(
    scale=st.lists(st.floats(0.01, 2) | st.floats(-2, -0.01), min_size=3, max_size=3),
    shift=st.lists(st.floats(-300, 300), min_size=3, max_size=3),
    order=st.permutations([0, 1, 2]),
    pads=st.lists(st.integers(0, 2), min_size=4, max_size=4),
)
def test_any_scale_and_shift_is_folded(
    scale: list[float], shift: list[float], order: list[int], pads: list[int]
) -> None:
    graph = prepared(scale, shift, order=order, pads=pads)
    before = codes_of(graph, images(4))
    assert fold(graph)
    difference = np.abs(codes_of(graph, images(4)) - before)
    rounding = 5e-6 * np.abs(before).max()
    top, left, bottom, right = pads
    height, width = difference.shape[1:3]
    assert difference[:, top : height - bottom, left : width - right].max() <= rounding
    half_level = 0.5 * np.abs(graph.constants["pixels/weights"]).sum(axis=(1, 2, 3)).max()
    assert difference.max() <= half_level + rounding


@pytest.mark.parametrize("shift", [0.0, -1.0, [-1.0, 0.0, 1.0]])
def test_grey_images_are_folded_too(shift: ArrayLike) -> None:
    network = Network(SIZE)
    numbers = network.node("Cast", "images", to=1)
    grey = network.node("MatMul", numbers, network.constant(np.full((3, 3), 1 / 765, np.float32)))
    shifted = network.node("Add", grey, network.constant(np.float32(shift)))
    source = network.node("Transpose", shifted, perm=[0, 3, 1, 2])
    assert changed(network.graph(network.conv(source, 5)), fold)


def preprocessed(kind: str, **attributes: object) -> Graph:
    """A convolution behind an operator that is no affine map of each pixel."""
    network = Network(SIZE)
    source = network.node(kind, network.pixels(1 / 255, 0.0), **attributes)
    return network.graph(network.conv(source, 4))


def preprocessed_with(kind: str, constant: np.ndarray) -> Graph:
    network = Network(SIZE)
    source = network.pixels(1 / 255, 0.0)
    return network.graph(network.conv(network.node(kind, source, network.constant(constant)), 4))


def relative_to_the_image() -> Graph:
    network = Network(SIZE)
    source = network.pixels()
    mean = network.node("GlobalAveragePool", source)
    return network.graph(network.conv(network.node("Sub", source, mean), 4))


def read_twice() -> Graph:
    network = Network(SIZE)
    source = network.pixels()
    return network.graph(network.node("Add", source, network.conv(source, 3)))


def with_first_convolution(**attributes: object) -> Graph:
    network = Network(SIZE)
    return network.graph(network.conv(network.pixels(), 3, **attributes))  # type: ignore[arg-type]


def without_convolution() -> Graph:
    network = Network(SIZE)
    return network.graph(network.node("Relu", network.pixels()))


@pytest.mark.parametrize(
    "graph",
    [
        preprocessed("Sqrt"),
        preprocessed("Sigmoid"),
        preprocessed("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        preprocessed("AveragePool", kernel_shape=[2, 2], strides=[2, 2]),
        preprocessed_with("Min", np.float32(0.9)),
        preprocessed_with("Pad", np.array([0, 0, 1, 1, 0, 0, 1, 1])),
        preprocessed_with("Add", np.random.default_rng(0).random((1, 3, SIZE, SIZE), np.float32)),
        relative_to_the_image(),
        read_twice(),
        with_first_convolution(group=3),
        with_first_convolution(auto_pad="SAME_UPPER"),
        without_convolution(),
    ],
)
def test_other_preprocessing_stays(graph: Graph) -> None:
    assert not changed(graph, fold)


def test_preprocessing_without_finite_values_stays() -> None:
    graph = preprocessed("Log")  # of zero, where a pixel is black
    assert not fold(graph)
    assert "Log" in operators(graph)


def test_convolution_of_six_channels_stays() -> None:
    network = Network(SIZE)
    graph = network.graph(network.conv(network.concat(network.pixels(), network.pixels()), 4))
    assert not changed(graph, fold)
