"""Models that `evaluate` runs, and those that it refuses."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.helpers import error_of, head_info, write_head, write_labelled_codes


def write_graph(path, nodes, n, labels):
    """A head of any graph."""
    graph = helper.make_graph(
        nodes,
        "head",
        [helper.make_tensor_value_info("codes", TensorProto.FLOAT, ["N", n])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", len(labels)])],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])
    helper.set_model_props(model, head_info(labels).to_metadata("head"))
    onnx.save(model, str(path))
    return path


def test_head_of_any_graph_is_run_as_it_is(tmp_path, run):
    nodes = [
        helper.make_node("Mul", ["codes", "codes"], ["squared"]),
        helper.make_node("Softmax", ["squared"], ["probabilities"], axis=-1),
    ]
    head = write_graph(tmp_path / "head.onnx", nodes, 2, ["a", "b"])
    X = np.random.default_rng(0).normal(size=(600, 2))  # more than a block
    y = (np.abs(X[:, 0]) < np.abs(X[:, 1])).astype(int).tolist()
    codes = write_labelled_codes(tmp_path / "codes.h5", X, y, ["a", "b"])
    result = json.loads(run("evaluate", head, codes, "--json").stdout)
    assert result["figures"]["accuracy"] == 1
    squared = X.astype(np.float32).astype(np.float64) ** 2
    p = np.exp(squared) / np.exp(squared).sum(axis=1, keepdims=True)
    expected = -np.log(p[np.arange(600), y]).mean()
    assert result["figures"]["log_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("operator", ["Identity", "Log"])
def test_graph_that_gives_no_probabilities_is_refused(tmp_path, operator):
    nodes = [helper.make_node(operator, ["codes"], ["probabilities"])]
    head = write_graph(tmp_path / "head.onnx", nodes, 2, ["a", "b"])
    codes = write_labelled_codes(tmp_path / "codes.h5", [[-2.0, 1.0]], [0], ["a", "b"])
    assert f"{head}: gives no probabilities; train it again" in error_of("evaluate", head, codes)


def test_codes_of_another_shape(small, tmp_path):
    codes = write_labelled_codes(tmp_path / "wide.h5", np.zeros((2, 4)), [0, 1], ["a", "b"])
    assert "takes codes of another shape" in error_of("evaluate", small[0], codes)


def test_images_by_another_backbone(small, small_backbone, photos):
    message = error_of("evaluate", small[0], photos, "--backbone", small_backbone)
    assert f"{small[0]}: was trained on codes of another backbone (vgg16, imagenet, " in message
    assert f" than that of {small_backbone} (inception_v3, random:0, " in message


def test_app_does_not_take_codes(app, codes):
    assert error_of("evaluate", app, codes) == (
        f"Error: {app}: is an app, which takes images; give it the folder or CSV file of the "
        f"images, or evaluate its head on {codes}"
    )


def test_head_does_not_take_images_alone(head, photos):
    assert error_of("evaluate", head, photos) == (
        f"Error: {head}: is a head, which takes codes; give it a codes file, or pass "
        "--backbone FILE with the file of its network"
    )


def test_model_of_another_kind(small_backbone, codes, tmp_path):
    message = error_of("evaluate", small_backbone, codes)
    assert "is a backbone (extract, quantize, bundle and bench take it), not a head" in message
    assert "no such file" in error_of("evaluate", tmp_path / "absent.onnx", codes)


@pytest.mark.parametrize(
    ("labels", "name"), [("abc", "scores"), ("ab", "probabilities"), ("a", "probabilities")]
)
def test_head_with_other_outputs_is_refused(small, tmp_path, labels, name):
    softmax = helper.make_node("Softmax", ["codes"], [name], axis=-1)
    head = write_head(tmp_path / "odd.onnx", list("abc") if len(labels) > 1 else ["a"])
    model = onnx.load(str(head))
    model.graph.node[-1].CopyFrom(softmax)
    model.graph.node[-1].input[0] = "logits"
    model.graph.output[0].name = name
    helper.set_model_props(model, head_info(labels).to_metadata("head"))
    onnx.save(model, str(head))
    assert "its input or output is not that of a head" in error_of("evaluate", head, small[1])
