from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cnncodes import Classifier
from cnncodes.app.bundle import bundle
from cnncodes.app.variants import halve_weights
from cnncodes.errors import ParameterError
from cnncodes.models.session import noise_images
from tests.helpers import error_of, run_command


@pytest.fixture(scope="module")
def half(small_backbone, head, tmp_path_factory):
    path = tmp_path_factory.mktemp("half") / "app.onnx"
    bundle(small_backbone, head, path, half=True)
    return path


@pytest.fixture(scope="module", params=[1, 4])
def fixed(request, small_backbone, head, tmp_path_factory):
    path = tmp_path_factory.mktemp("fixed") / "app.onnx"
    bundle(small_backbone, head, path, batch=request.param)
    return path, request.param


def test_half_the_size_and_nearly_the_same_answers(app, half):
    assert half.stat().st_size < 0.52 * app.stat().st_size
    images = noise_images(8, 75)
    wanted, actual = (Classifier(each).predict_proba(images) for each in (app, half))
    assert 0 < np.abs(wanted - actual).max() < 0.01
    assert (wanted.argmax(axis=1) == actual.argmax(axis=1)).all()


def test_one_cast_for_each_large_weight(app, half):
    plain, halved = (onnx.load(str(each)).graph for each in (app, half))
    weights = {each.name: numpy_helper.to_array(each) for each in plain.initializer}
    stored = {each.name: numpy_helper.to_array(each) for each in halved.initializer}
    casts = {
        each.output[0]: each.input[0]
        for each in halved.node
        if each.op_type == "Cast" and each.input[0] in stored
    }
    assert len(casts) == sum(each.dtype == np.float16 for each in stored.values())
    assert all(
        each.ndim == 1 or each.size < 1024
        for name, each in weights.items()
        if each.dtype == np.float32 and name not in casts
    )
    for name, source in casts.items():
        assert np.abs(stored[source] - weights[name]).max() <= 2**-11 * np.abs(weights[name]).max()
    assert [each.op_type for each in halved.node][len(casts) :] == [
        each.op_type for each in plain.node
    ]


def test_difference_is_printed_and_kept(half, small_backbone, head, tmp_path):
    app = tmp_path / "app.onnx"
    arguments = ("bundle", small_backbone, head, "-o", app, "--half")
    lines = run_command(*arguments).stdout.splitlines()
    card = json.loads(run_command(*arguments, "--overwrite", "--json").stdout)["card"]
    assert card == Classifier(half).info.card
    assert (card["half"]["n_images"], card["half"]["n_same_label"]) == (16, 16)
    assert 0 < card["half"]["largest_difference"] < 0.01
    assert lines[1].startswith(
        f"  half  {card['half']['n_tensors']} tensors of weights stored as float16; probabilities "
        f"differ by {card['half']['largest_difference']:.1e} at most, 16 of 16 labels are the same"
    )


def one_weight(values):
    values = np.asarray(values, np.float32)
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", len(values)]) for name in "xy"
    ]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weights"], ["y"])],
        "g",
        ends[:1],
        ends[1:],
        [numpy_helper.from_array(values, "weights")],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])


@pytest.mark.parametrize("value", [65_520, -1e38, np.nan, np.inf])
def test_weight_that_float16_cannot_hold(value):
    weights = np.full((32, 32), 65_504)
    assert halve_weights(one_weight(weights)) == 1
    weights = weights.astype(np.float32)
    weights[3, 4] = value
    with pytest.raises(ParameterError, match="half=True: the weight 'weights' reaches "):
        halve_weights(one_weight(weights))


def test_overflow_is_one_line_and_leaves_nothing(small_backbone, head, tmp_path):
    model = onnx.load(str(head))
    (weights,) = (each for each in model.graph.initializer if each.name == "weights")
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * 1e9, "weights"))
    large = tmp_path / "large.onnx"
    onnx.save(model, str(large))
    app = tmp_path / "app.onnx"
    message = error_of("bundle", small_backbone, large, "-o", app, "--half")
    assert message.startswith("Error: --half: the weight 'head/weights' reaches ")
    assert message.endswith("float16 ends at 65,504; bundle it with float32 weights")
    assert not app.exists()


def test_small_weights_stay():
    assert halve_weights(one_weight(np.ones((31, 31)))) == 0


def test_fixed_batch_in_the_file(fixed):
    path, n_images = fixed
    graph = onnx.load(str(path)).graph
    shapes = [value.type.tensor_type.shape.dim for value in (*graph.input, *graph.output)]
    assert {shape[0].dim_value for shape in shapes} == {n_images}
    assert Classifier(path).info.card["batch"] == n_images


@pytest.mark.parametrize("n_images", [0, 1, 3, 4, 9])
def test_any_number_of_images_in_a_fixed_batch(app, fixed, n_images):
    images = noise_images(9, 75)[:n_images]
    wanted, actual = (Classifier(each).predict_proba(images) for each in (app, fixed[0]))
    assert actual.shape == (n_images, 10)
    assert np.abs(wanted - actual).max(initial=0) < 1e-5


def test_commands_take_an_app_of_a_fixed_batch(app, fixed, photos, run):
    files = sorted(photos.rglob("*.png"))[::6]
    wanted, actual = (run("predict", each, *files).stdout for each in (app, fixed[0]))
    assert actual == wanted
    figures = [
        json.loads(run("evaluate", each, photos, "--json").stdout)["figures"]["accuracy"]
        for each in (app, fixed[0])
    ]
    assert figures[0] == figures[1]
    assert run("verify", fixed[0]).exit_code == 0


@pytest.mark.parametrize("batch", [0, 257, True, "1"])
def test_batch_out_of_range(small_backbone, head, tmp_path, batch):
    with pytest.raises(ParameterError, match="batch must be "):
        bundle(small_backbone, head, tmp_path / "app.onnx", batch=batch)
