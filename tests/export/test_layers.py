"""Codes of several layers and pools side by side: against each layer alone, pooled in numpy."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from cnncodes import Backbone, Classifier
from cnncodes.export.architectures import layers_before, layers_of
from cnncodes.export.direct import build_graph
from cnncodes.export.export import parity_images
from cnncodes.export.weights import random_weights
from cnncodes.export.winograd import restore_convolutions, use_winograd
from cnncodes.models.pooling import pool_codes
from tests.conftest import Exports
from tests.export.keras_process import command, run_with_keras
from tests.export.networks import codes_of
from tests.helpers import error_of, run_command

OPTIONS = ("--input-size", "64", "--layers", "block_6_expand_relu,out_relu", "--pool", "avg+max")


def adaptive_means(features: np.ndarray) -> list[np.ndarray]:
    """Compute PyTorch's ``adaptive_avg_pool2d`` to 2 × 2, by the bounds of its documentation."""
    height, width = features.shape[1:3]
    bounds = [
        [(index * n // 2, -(-(index + 1) * n // 2)) for index in range(2)] for n in (height, width)
    ]
    return [
        features[:, top:bottom, left:right].mean(axis=(1, 2))
        for top, bottom in bounds[0]
        for left, right in bounds[1]
    ]


@pytest.mark.parametrize("pool", ["avg+max", "grid2"])
@pytest.mark.parametrize(
    ("name", "size", "outputs"),
    [
        ("vgg16", 44, ["block3_pool", "block2_conv2"]),  # 5 x 5 and 22 x 22
        ("mobilenet_v2", 97, ["out_relu"]),
        (
            "mobilenet_v2",
            75,
            ["block_1_pad", "Conv1", "block_13_depthwise", "bn_Conv1", "out_relu"],
        ),
        ("efficientnet_v2_b0", 75, ["block2a_expand_conv", "top_conv"]),
    ],
)
def test_codes_are_those_of_each_layer_pooled(
    name: str, size: int, outputs: list[str], pool: str
) -> None:
    images, layers = parity_images(size), layers_of(name, size)
    parts = []
    for output in outputs:
        cut = layers_before(layers, output)
        features = codes_of(build_graph(cut, random_weights(cut, 0), "scaled", "none"), images)
        for each in pool.split("+"):
            pooled = {
                "avg": [features.mean(axis=(1, 2))],
                "max": [features.max(axis=(1, 2))],
                "grid2": adaptive_means(features),
            }[each]
            parts += pooled
    cut = layers_before(layers, *outputs)
    graph = build_graph(cut, random_weights(cut, 0), "scaled", pool, outputs)
    use_winograd(graph)
    codes = codes_of(graph, images)
    start = 0
    for part in parts:
        found = codes[:, start : start + part.shape[1]]
        np.testing.assert_allclose(found, part, rtol=1e-3, atol=1e-5 * np.abs(part).max())
        start += part.shape[1]
    assert start == codes.shape[1]
    restore_convolutions(graph)
    np.testing.assert_allclose(codes_of(graph, images), codes, rtol=1e-3, atol=1e-5 * codes.max())


@pytest.mark.parametrize("shape", [(4, 6, 3), (5, 2, 3), (7, 3, 1)])
def test_quarters_in_numpy_are_those_of_pytorch(shape: tuple[int, ...]) -> None:
    features = np.random.default_rng(0).normal(size=shape)
    wanted = np.concatenate(adaptive_means(features[np.newaxis]), axis=1)[0]
    np.testing.assert_allclose(pool_codes(features, "grid2"), wanted, rtol=1e-12)


def test_tf2onnx_gives_the_same_codes(exports: Exports) -> None:
    """Both files are compared with Keras when they are made."""
    options = ("--input-size", "75", "--layer", "block_3_expand,out_relu", "--pool", "grid2")
    images = parity_images(75)
    exports.begin("mobilenet_v2", *options)
    converted = Backbone(exports.get("mobilenet_v2", *options, "--converter", "tf2onnx"))
    direct = Backbone(exports.get("mobilenet_v2", *options))
    assert direct.info.layer == "block_3_expand,out_relu"
    assert direct.info.pool == "grid2"
    assert direct.code_shape == (4 * (144 + 1280),)
    assert max(direct.info.parity, converted.info.parity) <= 5e-6
    codes = direct.extract(images)
    np.testing.assert_allclose(
        converted.extract(images), codes, rtol=1e-3, atol=1e-5 * np.abs(codes).max()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--layer", "mixed4,mixed8"), "codes of several layers go side by side only if pooled"),
        (("--layer", "mixed4,mixed4", "--pool", "avg"), "layer must name one layer or more"),
        (("--layer", "mixed4,", "--pool", "avg"), "inception_v3 has no layer ''"),
        (("--layer", "mixed4,avgs", "--pool", "avg"), "inception_v3 has no layer 'avgs'"),
        (("--input-size", "75", "--pool", "grid2"), "layer 'mixed10' of inception_v3 gives 1 x 1"),
    ],
)
def test_requests_that_cannot_be_met(
    options: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    words = ("export", "inception_v3", "--weights", "random", "-o", str(tmp_path / "x.onnx"))
    done = run_with_keras(command, *words, *options)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_app_answers_as_evaluated_on_stored_codes(
    precision: str, exports: Exports, photos: Path, tmp_path: Path
) -> None:
    backbone = exports.get("mobilenet_v2", *OPTIONS)
    if precision == "int8":
        # A random network is none that int8 has to be close to; that all of it runs is tested.
        int8 = tmp_path / "int8.onnx"
        run_command("quantize", backbone, "--images", photos, "-o", int8, "--n-images", 16)
        backbone = int8
    codes, head, app = (tmp_path / name for name in ("codes.h5", "head.onnx", "app.onnx"))
    run_command("extract", backbone, photos, "-o", codes, "--dtype", "float32")
    run_command("train", codes, "-o", head)
    run_command("bundle", backbone, head, "-o", app)
    run_command("evaluate", head, codes, "--predictions", tmp_path / "predictions.csv")
    classifier = Classifier(app)
    assert classifier.info.backbone.layer == "block_6_expand_relu,out_relu"
    assert json.loads(run_command("info", app, "--json").stdout)["pool"] == "avg+max"
    run_command("verify", codes, "--source", photos, "--backbone", backbone)
    with (tmp_path / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows
    for row in rows:
        (best,) = classifier.predict(photos / row["path"], 1)
        assert best.label == row["predicted"]
        assert best.probability == pytest.approx(float(row["probability"]), abs=1e-4)
    image = photos / rows[0]["path"]
    assert error_of("predict", app, image, "--explain", tmp_path / "why") == (
        f"Error: {app}: cannot explain its answers, since its codes are of several networks, "
        "layers or pools; use a backbone of one layer with pool none, avg or max"
    )
