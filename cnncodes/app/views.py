"""Views in the graph of an app: it makes them of each image and averages their logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from cnncodes.app.explain import BIAS, WEIGHTS
from cnncodes.images.views import SYMMETRIES
from cnncodes.models.metadata import UNKNOWN
from cnncodes.parameters import VIEWS

_PREFIX = "views/"
_SMALLEST = float(np.finfo(np.float32).eps)  # of `EstimatorHead.log_probabilities`


def average_over_views(app: onnx.ModelProto, augment: str) -> None:
    """Change an app to give the softmax of the mean of its logits over views, in place.

    The views are put one after the other on the axis of the images: first view 0 of all images,
    then view 1. Of a head without logits, logarithms of probabilities are averaged. The output
    `unknown` stays that of the image itself.

    Parameters
    ----------
    app : onnx.ModelProto
        An app, with `images` as input and `probabilities` as output.
    augment : {"hflip", "hvflip", "d4"}
        Which views, in the order of `make_views`.
    """
    graph, n_views = app.graph, VIEWS[augment]
    views = f"{_PREFIX}images"
    for node in graph.node:
        node.input[:] = [views if name == "images" else name for name in node.input]
    before = _make_views(graph, augment, views)
    before += list(graph.node)
    del graph.node[:]
    graph.node.extend(before)
    _average(graph, n_views)
    _take_first(graph, n_views)


def _make_views(graph: onnx.GraphProto, augment: str, output: str) -> list[onnx.NodeProto]:
    """Return the nodes that make the views; their constants are added to the graph."""
    nodes, names = [], []
    turned = f"{_PREFIX}exchanged"
    if any(exchanged for exchanged, _ in SYMMETRIES[augment]):
        nodes.append(_node("Transpose", ["images"], turned, perm=[0, 2, 1, 3]))
    for number, (exchanged, axes) in enumerate(SYMMETRIES[augment]):
        source = turned if exchanged else "images"
        if not axes:
            names.append(source)
            continue
        names.append(f"{_PREFIX}{number}")
        bounds = {
            "starts": [-1] * len(axes),
            "ends": [np.iinfo(np.int64).min + 1] * len(axes),
            "axes": list(axes),
            "steps": [-1] * len(axes),
        }
        inputs = [source]
        for kind, values in bounds.items():
            inputs.append(f"{_PREFIX}{number}/{kind}")
            constant = numpy_helper.from_array(np.array(values, np.int64), inputs[-1])
            graph.initializer.append(constant)
        nodes.append(_node("Slice", inputs, names[-1]))
    return [*nodes, _node("Concat", names, output, axis=0)]


def _average(graph: onnx.GraphProto, n_views: int) -> None:
    """Put the mean over the views before the softmax of the app's output."""
    (last,) = (node for node in graph.node if "probabilities" in node.output)
    operator = "Sigmoid" if last.op_type == "Sigmoid" else "Softmax"
    attributes = {"axis": -1} if operator == "Softmax" else {}
    linear = {WEIGHTS, BIAS} <= {each.name for each in graph.initializer}
    nodes = []
    if linear and last.op_type == operator:
        logits = last.input[0]
        graph.node.remove(last)
    else:
        each, logits = f"{_PREFIX}probabilities", f"{_PREFIX}logarithms"
        last.output[:] = [each if name == "probabilities" else name for name in last.output]
        least = f"{_PREFIX}least"
        graph.initializer.append(numpy_helper.from_array(np.array(_SMALLEST, np.float32), least))
        nodes += [
            _node("Max", [each, least], f"{_PREFIX}positive"),
            _node("Log", [f"{_PREFIX}positive"], logits),
        ]
    parts = [f"{_PREFIX}logits/{number}" for number in range(n_views)]
    split = helper.make_node(
        "Split", [logits], parts, name=f"{_PREFIX}split", axis=0, num_outputs=n_views
    )
    nodes += [
        split,
        _node("Mean", parts, f"{_PREFIX}mean"),
        _node(operator, [f"{_PREFIX}mean"], "probabilities", **attributes),
    ]
    graph.node.extend(nodes)


def _take_first(graph: onnx.GraphProto, n_views: int) -> None:
    """Give `unknown`, where there is such an output, of view 0 alone."""
    last = next((node for node in graph.node if UNKNOWN in node.output), None)
    if last is None:
        return
    of_all = f"{_PREFIX}{UNKNOWN}"
    last.output[:] = [of_all if name == UNKNOWN else name for name in last.output]
    parts = [UNKNOWN, *(f"{of_all}/{number}" for number in range(1, n_views))]
    graph.node.append(
        helper.make_node("Split", [of_all], parts, name=of_all, axis=0, num_outputs=n_views)
    )


def _node(operator: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    name = output if output.startswith(_PREFIX) else _PREFIX + output
    return helper.make_node(operator, inputs, [output], name=name, **attributes)
