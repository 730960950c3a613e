"""The head as an ONNX graph of three core operators: Flatten, Gemm and Softmax.

Nothing else is in it, so it runs in every ONNX runtime, those in browsers and phones included.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cnncodes import __version__
from cnncodes.model_file import HeadInfo

OPSET = 18  # that of the backbones, so that the two can be joined
IR_VERSION = 8


def build_head(
    weights: NDArray[np.float32],
    bias: NDArray[np.float32],
    code_shape: Sequence[int],
    info: HeadInfo,
) -> onnx.ModelProto:
    """Build a linear head: probabilities = softmax(codes · weights + bias).

    Parameters
    ----------
    weights : ndarray of float32, shape (n_features, n_classes)
        Weights on flattened codes.
    bias : ndarray of float32, shape (n_classes,)
        Bias of the logits.
    code_shape : sequence of int
        Shape of one image's codes; its product is n_features.
    info : HeadInfo
        What the file says of itself.

    Returns
    -------
    onnx.ModelProto
        Input ``codes`` float32 (N, *code_shape), output ``probabilities`` float32
        (N, n_classes).
    """
    n_classes = len(bias)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["codes"], ["flat"], name="flatten", axis=1),
            helper.make_node("Gemm", ["flat", "weights", "bias"], ["logits"], name="gemm"),
            helper.make_node("Softmax", ["logits"], ["probabilities"], name="softmax", axis=-1),
        ],
        "cnncodes_head",
        [helper.make_tensor_value_info("codes", TensorProto.FLOAT, ["N", *code_shape])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", n_classes])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(
        graph,
        producer_name="cnncodes",
        producer_version=__version__,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    helper.set_model_props(model, info.to_metadata("head"))
    return model


def save_checked(model: onnx.ModelProto, path: Path) -> None:
    """Check a model's structure and write it to `path`."""
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
