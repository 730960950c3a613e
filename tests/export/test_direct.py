"""Graphs built from layers against Keras, in processes of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnncodes.errors import WeightsError
from cnncodes.export.architectures import layers_before, layers_of
from cnncodes.export.backbones import BACKBONES
from cnncodes.export.direct import build_graph, resampling_matrix
from cnncodes.export.export import DIRECT_PARITY, parity_images
from cnncodes.export.keras_weights import read_weights
from cnncodes.export.weights import random_weights
from cnncodes.export.winograd import use_winograd
from tests.export.keras_process import run_with_keras, save_reference, well_conditioned
from tests.export.networks import codes_of

SIZES = dict.fromkeys(BACKBONES, 224)
ODD_SIZES = {"mobilenet_v2": 97, "resnet50": 113, "efficientnet_v2_b0": 75, "inception_v3": 76}


def difference(codes: np.ndarray, expected: np.ndarray) -> float:
    assert codes.shape == expected.shape
    return float(np.abs(codes - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(("name", "size"), [*SIZES.items(), *ODD_SIZES.items()])
def test_codes_are_those_of_keras(name: str, size: int, tmp_path: Path) -> None:
    """To the parity that a file states which could not be compared itself.

    Keras computes in double precision: in float32 its own rounding is larger than ours.
    """
    spec, images = BACKBONES[name], parity_images(size)
    done = run_with_keras(save_reference, name, images, tmp_path)
    assert done.returncode == 0, done.stderr
    layers = layers_of(name, size)
    trained = read_weights(layers, tmp_path / "keras3.weights.h5", name)
    published = read_weights(layers, tmp_path / "notop.h5", name)
    for layer, arrays in trained.items():
        for one, two in zip(arrays, published[layer], strict=True):
            np.testing.assert_array_equal(one, two)

    for label, weights in (("random", well_conditioned(name, size)), ("trained", trained)):
        single, double = (
            np.load(tmp_path / f"{label}.{dtype}.npy") for dtype in ("float32", "float64")
        )
        graph = build_graph(layers, weights, spec.preprocessing, "none")
        assert not weights  # taken out one by one, to save memory
        plain = codes_of(graph, images)
        assert difference(plain, double) <= DIRECT_PARITY[False]
        assert difference(plain, single) <= 5e-6
        use_winograd(graph)
        assert difference(codes_of(graph, images), double) <= DIRECT_PARITY[True]


@pytest.mark.parametrize("name", BACKBONES)
def test_every_layer_of_feature_maps_can_be_the_last(name: str) -> None:
    """The smallest networks, each cut at many layers: the graph is valid and runs."""
    size = BACKBONES[name].min_input_size
    layers = layers_of(name, size)
    images = parity_images(size)[:1]
    maps = [each for each in layers[1:] if len(each.shape) == 3]
    for last in [*maps[:14], *maps[14::17], maps[-1]]:
        cut = layers_before(layers, last.name)
        graph = build_graph(cut, random_weights(cut, 0), BACKBONES[name].preprocessing, "none")
        assert codes_of(graph, images).shape == (1, *last.shape), last.name


@pytest.mark.parametrize("pool", ["avg", "max"])
@pytest.mark.parametrize("last", ["rescaling", "stem_conv", "block4a_se_excite", "top_activation"])
def test_pooling_is_that_of_the_codes(pool: str, last: str) -> None:
    layers = layers_before(layers_of("efficientnet_v2_b0", 64), last)
    images = parity_images(64)
    maps = codes_of(build_graph(layers, random_weights(layers, 0), "none", "none"), images)
    pooled = codes_of(build_graph(layers, random_weights(layers, 0), "none", pool), images)
    expected = maps.mean(axis=(1, 2)) if pool == "avg" else maps.max(axis=(1, 2))
    np.testing.assert_allclose(pooled, expected, rtol=1e-4, atol=1e-6 * np.abs(maps).max())


@pytest.mark.parametrize(("before", "after"), [(64, 40), (33, 48), (50, 25)])
def test_graph_resizes_images_as_pillow_does(before: int, after: int) -> None:
    layers = layers_before(layers_of("mobilenet_v2", after), "Conv1_relu")
    images = parity_images(before)
    pillow = np.stack(
        [Image.fromarray(each).resize((after, after), Image.Resampling.BILINEAR) for each in images]
    )
    matrix = resampling_matrix(before, after)
    exact = np.einsum("ph,qw,nhwc->npqc", matrix, matrix, images, optimize=True)
    # Pillow rounds the rows, and then the columns.
    assert np.abs(exact - pillow).max() <= 1
    assert np.abs(exact - pillow).mean() <= 0.4
    resizing = build_graph(layers, random_weights(layers, 0), "none", "none", (), before)
    codes = codes_of(resizing, images)
    expected = codes_of(build_graph(layers, random_weights(layers, 0), "none", "none"), pillow)
    assert codes.shape == expected.shape
    assert np.abs(codes - expected).mean() <= 0.01 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("layer", "index", "value"),
    [("Conv1", 0, np.nan), ("bn_Conv1", 1, np.inf), ("bn_Conv1", 3, -1.0)],
)
def test_weights_that_are_no_numbers(layer: str, index: int, value: float) -> None:
    layers = layers_of("mobilenet_v2", 32)
    weights = random_weights(layers, 0)
    weights[layer][index].flat[0] = value
    with pytest.raises(WeightsError, match=r"weights of layer Conv1 are not finite numbers"):
        build_graph(layers, weights, "scaled", "none")


def test_weights_too_large_for_their_product_are_one_error() -> None:
    layers = layers_of("mobilenet_v2", 32)
    weights = random_weights(layers, 0)
    weights["bn_Conv1"][0][:] = 3e38  # gamma, by the root of a variance of 0
    weights["bn_Conv1"][3][:] = 0
    with pytest.raises(WeightsError, match=r"weights of layer Conv1 are not finite numbers"):
        build_graph(layers, weights, "none", "none")
