"""The head as an ONNX graph.

A linear head is three core operators: Flatten, Gemm and Softmax, and between the first two those
that normalise codes, if any (`normalize`): core operators too, so it
runs in every ONNX runtime, those in browsers and phones included. A head made from another
scikit-learn estimator is Flatten and the graph that the estimator was converted to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cnncodes._version import __version__
from cnncodes.head.normalize import normalization_nodes
from cnncodes.models.metadata import HeadInfo

OPSET = 18  # that of the backbones, so that the two can be joined
ML_OPSET = 3  # of the domain ai.onnx.ml, where trees and support vectors are
IR_VERSION = 8


def build_head(
    weights: NDArray[np.float32],
    bias: NDArray[np.float32],
    code_shape: Sequence[int],
    info: HeadInfo,
    normalize: str = "none",
) -> onnx.ModelProto:
    """Build a linear head: probabilities = softmax(codes · weights + bias).

    It is a sigmoid of each logit where `info` has thresholds, for several labels per image.

    Parameters
    ----------
    weights : ndarray of float32, shape (n_features, n_classes)
        Weights on flattened codes.
    bias : ndarray of float32, shape (n_classes,)
        Bias of the logits.
    code_shape : sequence of int
        Shape of one image's codes; its product is n_features.
    info : HeadInfo
        Metadata of the file.
    normalize : str
        What is done to codes before, one of `NORMALIZATIONS`.

    Returns
    -------
    onnx.ModelProto
        Input ``codes`` float32 (N, *code_shape), output ``probabilities`` float32
        (N, n_classes).
    """
    n_classes = len(bias)
    normalization, constants, name = normalization_nodes(normalize)
    nodes = [
        *normalization,
        helper.make_node("Gemm", [name, "weights", "bias"], ["logits"], name="gemm"),
        helper.make_node("Sigmoid", ["logits"], ["probabilities"], name="sigmoid")
        if info.has_several_labels
        else helper.make_node("Softmax", ["logits"], ["probabilities"], name="softmax", axis=-1),
    ]
    parameters = [
        numpy_helper.from_array(weights, "weights"),
        numpy_helper.from_array(bias, "bias"),
        *constants,
    ]
    model = make_head(nodes, parameters, code_shape, n_classes, {"": OPSET})
    helper.set_model_props(model, info.to_metadata("head"))
    return model


def make_head(
    nodes: Iterable[onnx.NodeProto],
    initializers: Iterable[onnx.TensorProto],
    code_shape: Sequence[int],
    n_classes: int,
    opsets: Mapping[str, int],
) -> onnx.ModelProto:
    """Build a head without metadata from nodes that turn ``flat`` into ``probabilities``.

    Parameters
    ----------
    nodes : iterable of onnx.NodeProto
        Nodes after Flatten, in topological order.
    initializers : iterable of onnx.TensorProto
        The constants of the nodes.
    code_shape : sequence of int
        Shape of one image's codes.
    n_classes : int
        Number of classes.
    opsets : mapping of str to int
        The version of each domain of operators.

    Returns
    -------
    onnx.ModelProto
        Input ``codes`` float32 (N, *code_shape), output ``probabilities`` float32
        (N, n_classes).
    """
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["codes"], ["flat"], name="flatten", axis=1), *nodes],
        "cnncodes_head",
        [helper.make_tensor_value_info("codes", TensorProto.FLOAT, ["N", *code_shape])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", n_classes])],
        list(initializers),
    )
    return helper.make_model(
        graph,
        producer_name="cnncodes",
        producer_version=__version__,
        opset_imports=[helper.make_opsetid(*each) for each in opsets.items()],
        ir_version=IR_VERSION,
    )
