"""3 × 3 convolutions with a quarter of the multiplications, in standard operators.

1. A tile of 6 × 6 values makes 4 × 4 results. Seen as polynomials, tile and window are evaluated
   at six points, multiplied there, and the products interpolated: 36 multiplications instead of
   144. The sums over channels happen at the points, as 36 matrix products. (Lavin and Gray 2016,
   "Fast Algorithms for Convolutional Neural Networks"; Winograd 1980.)
2. The points are 0, ±√½, ±√2 and ∞. Rounding errors depend on them: these err by 2e-6 of the
   largest result, the usual 0, ±1, ±2 and ∞ by 1e-5, a plain convolution by 5e-7.
3. The file keeps the weights of the convolution; onnxruntime evaluates them at the points when
   it loads the file, and then needs four times the memory for them.
4. Transforming costs more than it saves where there are few channels or places, so a
   convolution is rewritten only where `_is_worthwhile` expects a gain.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from cnncodes.export.graph import Graph, as_float32, attribute, pads_of

TILE, WINDOW = 4, 3
SPAN = TILE + WINDOW - 1
POINTS = (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))
# As timed, in multiplications: to bring one channel of a tile to the points or back. And how many
# tiles a weight must serve to be worth the memory it takes.
_CHANNEL_COST, _FEWEST_TILES = 4000, 30
_MARK = "winograd"


def use_winograd(graph: Graph) -> int:
    """Rewrite the 3 × 3 convolutions of a float graph that become quicker by it, in place.

    Parameters
    ----------
    graph : Graph
        A float network of fixed height and width.

    Returns
    -------
    int
        Number of convolutions rewritten.
    """
    shapes, nodes, rewritten = graph.shapes(), [], 0
    for node in graph.nodes:
        if _is_usual(graph, node) and _is_worthwhile(shapes[node.input[0]], shapes[node.output[0]]):
            nodes += _rewritten(graph, node, shapes[node.input[0]], shapes[node.output[0]])
            rewritten += 1
        else:
            nodes.append(node)
    graph.nodes = nodes
    return rewritten


def restore_convolutions(graph: Graph) -> int:
    """Undo `use_winograd`, in place.

    Returns
    -------
    int
        Number of convolutions restored.
    """
    parts: dict[str, dict[str, onnx.NodeProto]] = {}
    for node in graph.nodes:
        mark, _, part_of = node.name.partition("/")
        if mark == _MARK:
            part, _, result = part_of.partition("/")
            parts.setdefault(result, {})[part] = node
    nodes = []
    for node in graph.nodes:
        if not node.name.startswith(f"{_MARK}/"):
            nodes.append(node)
        elif node.name.startswith(f"{_MARK}/tiles/"):
            result = node.name.split("/", 2)[2]
            nodes.append(_restored(graph, result, parts[result]))
    graph.nodes = nodes
    return len(parts)


def _restored(graph: Graph, result: str, parts: dict[str, onnx.NodeProto]) -> onnx.NodeProto:
    turned = graph.constants[parts["weights"].input[1]].transpose(1, 2, 0)
    weights = as_float32(turned.reshape(*turned.shape[:2], WINDOW, WINDOW))
    inputs = [parts["tiles"].input[0], graph.constant(f"{result}/weights", weights)]
    if "bias" in parts:
        bias = graph.constants[parts["bias"].input[1]].reshape(-1)
        inputs.append(graph.constant(f"{result}/bias", bias))
    pads = 2 * pads_of(parts["tiles"])[:2]
    return helper.make_node(
        "Conv", inputs, [result], name=result, kernel_shape=[WINDOW] * 2, pads=pads
    )


def _is_usual(graph: Graph, node: onnx.NodeProto) -> bool:
    if node.op_type != "Conv" or any(each not in graph.constants for each in node.input[1:]):
        return False
    pads = pads_of(node)
    return (
        graph.constants[node.input[1]].shape[2:] == (WINDOW, WINDOW)
        and attribute(node, "group", 1) == 1
        and all(step == 1 for step in attribute(node, "strides", [1, 1]))
        and all(step == 1 for step in attribute(node, "dilations", [1, 1]))
        and attribute(node, "auto_pad", b"NOTSET") == b"NOTSET"
        and pads[:2] == pads[2:]
    )


def _is_worthwhile(source: list[int], result: list[int]) -> bool:
    (_, n_in, *_), (_, n_out, height, width) = source, result
    n_tiles = -(-height // TILE) * -(-width // TILE)
    plain = WINDOW**2 * n_in * n_out * height * width
    products = SPAN**2 * n_in * n_out * n_tiles
    transforms = _CHANNEL_COST * (n_in + n_out) * n_tiles
    return n_tiles >= _FEWEST_TILES and products + transforms < plain


def _rewritten(
    graph: Graph, node: onnx.NodeProto, source: list[int], result: list[int]
) -> list[onnx.NodeProto]:
    """Write a convolution as transforms and matrix products."""
    (_, n_in, *size), (_, n_out, *new_size) = source, result
    name, pads = node.output[0], pads_of(node)
    n_rows, n_columns = (-(-each // TILE) for each in new_size)
    n_tiles, n_points, n_places = n_rows * n_columns, SPAN**2, TILE**2
    spans = [TILE * n_rows + WINDOW - 1, TILE * n_columns + WINDOW - 1]
    ends = [span - length - pad for span, length, pad in zip(spans, size, pads, strict=False)]
    to_points, of_weights, from_points = _transforms()
    each_channel = np.tile(to_points.reshape(n_points, 1, SPAN, SPAN), (n_in, 1, 1, 1))
    windows = graph.constant(f"{_MARK}/{n_in}/to_points", each_channel)
    weights = graph.constant(f"{_MARK}/of_weights", of_weights)
    back = graph.constant(f"{_MARK}/from_points", from_points)
    nodes: list[onnx.NodeProto] = []

    def add(part: str, kind: str, *inputs: str, **attributes: Any) -> str:
        made = f"{_MARK}/{part}/{name}"
        nodes.append(helper.make_node(kind, inputs, [made], name=made, **attributes))
        return made

    def reshape(part: str, source: str, *shape: int) -> str:
        sizes = graph.constant(f"{_MARK}/{part}/{name}/shape", np.array(shape, np.int64))
        return add(part, "Reshape", source, sizes)

    stored = graph.constants[node.input[1]].reshape(n_out, n_in, -1).transpose(2, 0, 1)
    turned = graph.constant(f"{_MARK}/weights/{name}/turned", as_float32(stored))
    filters = add("weights", "Einsum", weights, turned, equation="pw,woi->poi")

    tiles = add(
        "tiles",
        "Conv",
        *(node.input[0], windows),
        group=n_in,
        kernel_shape=[SPAN] * 2,
        strides=[TILE] * 2,
        pads=[*pads[:2], *ends],
    )
    by_channel = reshape("by_channel", tiles, -1, n_in, n_points, n_tiles)
    by_point = add("by_point", "Transpose", by_channel, perm=[2, 1, 0, 3])
    values = reshape("values", by_point, n_points, n_in, -1)
    products = reshape("products", add("product", "MatMul", filters, values), n_points, -1)
    places = add("places", "MatMul", back, products)
    by_place = reshape("by_place", places, n_places, n_out, -1, n_tiles)
    by_image = add("by_image", "Transpose", by_place, perm=[2, 0, 1, 3])
    deep = reshape("deep", by_image, -1, n_places * n_out, n_rows, n_columns)
    last = add("wide", "DepthToSpace", deep, blocksize=TILE, mode="DCR")
    if [TILE * n_rows, TILE * n_columns] != new_size:
        cut = [
            graph.constant(f"{_MARK}/cut/{name}/{which}", np.array(value, np.int64))
            for which, value in (("first", [0, 0]), ("end", new_size), ("axes", [2, 3]))
        ]
        last = add("cut", "Slice", last, *cut)
    if len(node.input) > 2:
        bias = graph.constants[node.input[2]].reshape(1, n_out, 1, 1)
        last = add("bias", "Add", last, graph.constant(f"{_MARK}/bias/{name}/values", bias))
    nodes[-1].output[0] = name
    return nodes


@cache
def _transforms() -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return what brings a tile to the points, what brings weights there, and the way back.

    Returns
    -------
    tuple of ndarray of float32
        Shapes (36, 36), (36, 9) and (16, 36): Cook's and Toom's algorithm in two dimensions.
    """
    tile, weights, back = np.zeros((SPAN, SPAN)), np.zeros((SPAN, WINDOW)), np.zeros((TILE, SPAN))
    for row, point in enumerate(POINTS):
        others = [other for other in POINTS if other != point]
        tile[row, :-1] = np.poly(others)[::-1]
        weights[row] = point ** np.arange(WINDOW) / np.prod(np.subtract(point, others))
        back[:, row] = point ** np.arange(TILE)
    tile[-1], weights[-1, -1], back[-1, -1] = np.poly(POINTS)[::-1], 1, 1
    on_planes = [np.kron(each, each) for each in (tile, weights, back)]
    return as_float32(on_planes[0]), as_float32(on_planes[1]), as_float32(on_planes[2])
