"""The networks as we list them against Keras's own, layer by layer."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from cnncodes.export.architectures import Layer, layers_before, layers_of
from cnncodes.export.backbones import BACKBONES
from tests.export.keras_process import run_with_keras, save_layers

FUNCTIONS = {"linear": "", "relu": "relu", "silu": "silu", "sigmoid": "sigmoid"}
INITIALIZERS = {"GlorotUniform": "glorot", "VarianceScaling": "fan_out"}
PREPROCESSING = {"scaled": "tf", "caffe": "caffe"}
SIZES = {name: (spec.min_input_size, 97, 150, 224, 299) for name, spec in BACKBONES.items()}


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Any]:
    """What Keras says of each network, at sizes even and odd."""
    path = tmp_path_factory.mktemp("layers") / "layers.json"
    networks = [
        (name, BACKBONES[name].keras_class, size) for name, sizes in SIZES.items() for size in sizes
    ]
    done = run_with_keras(save_layers, networks, path)
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    return {(name, size): each for (name, _, size), each in zip(networks, found, strict=True)}


@pytest.mark.parametrize("name", BACKBONES)
def test_every_layer_is_that_of_keras(name: str, described: dict[tuple[str, int], Any]) -> None:
    for size in SIZES[name]:
        layers = layers_of(name, size)
        others = described[name, size]
        assert [each.name for each in layers] == [each["name"] for each in others]
        shapes = {each.name: each.shape for each in layers}
        for layer, config in zip(layers, others, strict=True):
            assert replace(layer, scale=(), shift=()) == from_keras(config, shapes), (size, config)
            if layer.kind in ("rescaling", "normalization"):
                scale, shift = affine_map(config)
                assert layer.scale == pytest.approx(scale)
                assert layer.shift == pytest.approx(shift)


def from_keras(config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> Layer:
    """Return a layer as Keras's configuration has it, without the scale of pixels."""
    kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", config["kind"]).lower()
    kernel = tuple(config.get("kernel_size") or config.get("pool_size") or (1, 1))
    strides = tuple(config.get("strides", (1, 1)))
    (top, bottom), (left, right) = pads_of(config, shapes, kernel, strides)
    if kind == "re_lu":
        assert (config["max_value"], config["negative_slope"], config["threshold"]) == (6, 0, 0)
        function = "relu6"
    else:
        function = FUNCTIONS[config.get("activation", "linear")]
    for key, value in (("dilation_rate", [1, 1]), ("groups", 1), ("depth_multiplier", 1)):
        assert config.get(key, value) == value
    return Layer(
        name=config["name"],
        kind=kind,
        inputs=tuple(config["inputs"]),
        shape=tuple(config["shape"]),
        weights=tuple(map(tuple, config["weights"])),
        kernel=kernel,  # type: ignore[arg-type]
        strides=strides,  # type: ignore[arg-type]
        pads=(top, left, bottom, right),
        function=function,
        initializer=INITIALIZERS.get(config["initializer"], "glorot"),
        epsilon=config["epsilon"] if kind == "batch_normalization" else 0.0,
    )


def pads_of(
    config: dict[str, Any],
    shapes: dict[str, tuple[int, ...]],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
) -> list[list[int]]:
    """Return the zeros before and behind height and width."""
    if config.get("padding", "valid") != "same":
        return [[0, 0], [0, 0]] if config.get("padding") in (None, "valid") else config["padding"]
    pads = []
    for before, after, taps, step in zip(
        shapes[config["inputs"][0]], config["shape"], kernel, strides, strict=False
    ):
        missing = max((after - 1) * step + taps - before, 0)
        pads.append([missing // 2, missing - missing // 2])
    return pads


def affine_map(config: dict[str, Any]) -> tuple[list[float], list[float]]:
    if config["kind"] == "Rescaling":
        return [config["scale"]], [config["offset"]]
    means, variances = config["mean"], config["variance"]
    deviations = [each**0.5 for each in variances]
    return (
        [1 / each for each in deviations],
        [-mean / each for mean, each in zip(means, deviations, strict=True)],
    )


def test_layers_before_one_are_those_it_depends_on() -> None:
    layers = layers_of("inception_v3", 75)
    needed = [each.name for each in layers_before(layers, "mixed0")]
    assert needed[0] == "input_layer"
    assert needed[-1] == "mixed0"
    assert len(needed) < len(layers) / 4
    assert layers_before(layers, layers[-1].name) == layers
    # Another branch of the same depth is none of them.
    branch = {each.name for each in layers_before(layers, "conv2d_5")}
    assert "conv2d_6" not in branch
