from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from cnncodes.head.head_onnx import build_head
from cnncodes.models.checksum import save_checked
from cnncodes.models.metadata import BackboneInfo, HeadInfo

BACKBONE = BackboneInfo(
    "vgg16", "random:0", 32, "block5_pool", "none", "float32", 1e-6, "noise", "a test"
)


def make_head(code_shape, n_classes, seed=0, size=1.0):
    generator = np.random.default_rng(seed)
    weights = generator.normal(0, size, (int(np.prod(code_shape)), n_classes)).astype(np.float32)
    bias = generator.normal(0, size, n_classes).astype(np.float32)
    info = HeadInfo(
        labels=tuple(f"class {number}" for number in range(n_classes)),
        training={"estimator": "logistic", "test": {"accuracy": 0.5}},
        backbone=BACKBONE,
        backbone_sha256="ab" * 32,
        training_images=frozenset(),
        created_with="a test",
    )
    return build_head(weights, bias, code_shape, info), weights, bias, info


def session_of(model):
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def test_file_passes_the_checker(tmp_path):
    save_checked(make_head((2, 2, 3), 4)[0], tmp_path / "head.onnx")
    model = onnx.load(tmp_path / "head.onnx")
    onnx.checker.check_model(model, full_check=True)


def test_broken_graph_is_not_written(tmp_path):
    model = make_head((6,), 3)[0]
    model.graph.node[1].input[1] = "absent"
    with pytest.raises(onnx.checker.ValidationError, match="absent"):
        save_checked(model, tmp_path / "head.onnx")
    assert not list(tmp_path.iterdir())


def test_only_three_core_operators():
    model = make_head((2, 2, 3), 4)[0]
    assert [node.op_type for node in model.graph.node] == ["Flatten", "Gemm", "Softmax"]
    assert [each.domain for each in model.opset_import] == [""]
    assert {node.domain for node in model.graph.node} == {""}


@pytest.mark.parametrize("n_images", [0, 1, 2, 300])
@pytest.mark.parametrize("code_shape", [(12,), (2, 2, 3)])
def test_probabilities_are_the_softmax_of_the_logits(code_shape, n_images):
    model, weights, bias, _ = make_head(code_shape, 5)
    codes = np.random.default_rng(1).normal(size=(n_images, *code_shape)).astype(np.float32)
    actual = session_of(model).run(["probabilities"], {"codes": codes})[0]
    assert actual.dtype == np.float32
    assert actual.shape == (n_images, 5)
    logits = codes.reshape(n_images, len(weights)).astype(np.float64) @ weights + bias
    assert actual == pytest.approx(softmax(logits, axis=1), abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    code_shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    n_classes=st.integers(2, 9),
    exponent=st.integers(-3, 3),
)
def test_rows_add_up_to_one_even_where_logits_are_huge(seed, code_shape, n_classes, exponent):
    model, weights, bias, _ = make_head(code_shape, n_classes, seed, 10.0**exponent)
    codes = np.random.default_rng(seed).normal(size=(7, *code_shape)).astype(np.float32)
    actual = session_of(model).run(None, {"codes": codes})[0]
    assert actual.sum(axis=1) == pytest.approx(1, abs=1e-5)
    logits = codes.reshape(7, -1).astype(np.float64) @ weights + bias
    assert np.abs(actual - softmax(logits, axis=1)).max() < 1e-6 * max(1, np.abs(logits).max())


def test_columns_of_another_memory_order_are_kept():
    """Weights come transposed from scikit-learn."""
    weights = np.arange(12, dtype=np.float32).reshape(3, 4).T
    model = build_head(weights, np.zeros(3, np.float32), (4,), make_head((4,), 3)[3])
    kept = onnx.numpy_helper.to_array(model.graph.initializer[0])
    assert np.array_equal(kept, weights)


def test_names_types_and_batch_of_any_size():
    session = session_of(make_head((2, 2, 3), 4)[0])
    (given_codes,), (outputs,) = session.get_inputs(), session.get_outputs()
    assert (given_codes.name, given_codes.type) == ("codes", "tensor(float)")
    assert given_codes.shape == ["N", 2, 2, 3]
    assert (outputs.name, outputs.type, outputs.shape) == (
        "probabilities",
        "tensor(float)",
        ["N", 4],
    )


def test_metadata_are_complete(tmp_path):
    model, _, _, info = make_head((6,), 3)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["cnncodes.format"] == "1"
    assert metadata["cnncodes.kind"] == "head"
    assert json.loads(metadata["cnncodes.labels"]) == ["class 0", "class 1", "class 2"]
    assert HeadInfo.from_metadata(metadata, tmp_path) == info
    assert model.producer_name == "cnncodes"
