"""Convolutions with fewer multiplications, in standard operators.

1. Rows, columns or both are transformed to points, where a convolution is a product (`bilinear`).
   The sum over channels at each point is a grouped convolution with one group per point. (Lavin
   and Gray 2016, "Fast Algorithms for Convolutional Neural Networks"; Mathieu, Henaff and LeCun
   2014, "Fast Training of Convolutional Networks through FFTs".)
2. All is in NHWC, where transforming a row is one matrix product for all of its channels, and the
   points become groups of channels without a copy.
3. The file has the weights of the convolution; onnxruntime transforms them when it loads the file,
   and then needs 2 to 8 times their memory.
4. The transforms cost more than they save where there are few channels, and so does reading more
   weights where few outputs share them. The convolution stays unless `_cost` expects another
   algorithm to be clearly faster.
5. Nodes are named ``winograd/PART/TENSOR``, TENSOR being the output of the convolution;
   `restore_convolutions` reads PART, as docs/file-formats.md documents.

Gain on one thread, in images per second with float32: 1.25 × on InceptionV3, 1.6 × on VGG16 (1.4 ×
in batches of 8). docs/benchmarks.md has both kinds of file beside other runtimes
(``benchmarks/extract.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import onnx
from onnx import helper

from cnncodes.export.bilinear import POINTS, TAPS_OF_TILES, Algorithm, tiled, whole_row
from cnncodes.export.graph import TO_NCHW, TO_NHWC, Graph, as_float32, attribute, pads_of

# Costs of the kinds of `_work`; unit: one multiplication of a plain convolution. They were set by
# timings of single convolutions on x86_64, which benchmarks/winograd.py repeats, with a fit.
_COSTS = (1, 8, 40, 4.5)
_CACHE, _BEYOND_CACHE = 8 * 2**20, 2  # bytes; factor on transforms of more than fit the cache
_WORTHWHILE = 0.85  # of the cost of the plain convolution
# More bytes of weights than this need this many tiles to be worth their memory.
_LARGE, _FEWEST_TILES = 16 * 2**20, 30
# The format of the nodes' names. `restore_convolutions` needs the parts nhwc, taps, weights,
# filters and, if there is one, bias.
_PREFIX = "winograd"
_NODE_NAME = re.compile(rf"{_PREFIX}/(?P<part>[^/]+)/(?P<tensor>.+)", re.DOTALL)


@dataclass(frozen=True)
class _Convolution:
    """A convolution of stride 1, with the algorithms of its rows and columns; None is plain."""

    n_in: int
    n_out: int
    kernel: tuple[int, int]
    size: tuple[int, int]
    pads: tuple[int, int]
    algorithms: tuple[Algorithm | None, Algorithm | None] = (None, None)

    @property
    def output_size(self) -> list[int]:
        """Height and width of the output."""
        each = zip(self.size, self.pads, self.kernel, strict=True)
        return [length + 2 * pad - taps + 1 for length, pad, taps in each]

    @property
    def points(self) -> list[int]:
        """Points of a tile along each axis; 1 where it is plain."""
        return [each.n_points if each else 1 for each in self.algorithms]

    @property
    def window(self) -> list[int]:
        """The kernel of the grouped convolution."""
        each = zip(self.algorithms, self.kernel, strict=True)
        return [1 if algorithm else taps for algorithm, taps in each]

    @property
    def window_pads(self) -> list[int]:
        """The padding of the grouped convolution."""
        each = zip(self.algorithms, self.pads, strict=True)
        return [0 if algorithm else pad for algorithm, pad in each]

    @property
    def n_weights(self) -> int:
        """Number of transformed weights."""
        return self.n_in * self.n_out * int(np.prod(self.points) * np.prod(self.window))

    def tiles(self, size: Sequence[int]) -> list[int]:
        """Return the number of tiles along each axis, or its length in `size` where it is plain."""
        each = zip(self.algorithms, size, strict=True)
        return [algorithm.n_tiles if algorithm else length for algorithm, length in each]


def use_winograd(graph: Graph) -> int:
    """Rewrite the convolutions of a float graph for which that is faster, in place.

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
        plan = _fastest(graph, node, shapes) if _is_supported(graph, node) else None
        if plan:
            nodes += _ConvolutionWriter(graph, node, plan).write()
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
    shapes = graph.shapes()
    names = [_NODE_NAME.fullmatch(node.name) for node in graph.nodes]
    parts: dict[str, dict[str, onnx.NodeProto]] = {}
    for node, name in zip(graph.nodes, names, strict=True):
        if name:
            parts.setdefault(name["tensor"], {})[name["part"]] = node
    nodes = []
    for node, name in zip(graph.nodes, names, strict=True):
        if not name:
            nodes.append(node)
        elif name["part"] == "nhwc":  # the first of them
            nodes.append(_restored(graph, name["tensor"], parts[name["tensor"]], shapes))
    graph.nodes = nodes
    return len(parts)


def _restored(
    graph: Graph, output: str, parts: dict[str, onnx.NodeProto], shapes: dict[str, list[int]]
) -> onnx.NodeProto:
    source = parts["nhwc"].input[0]
    stored = graph.constants[parts["weights"].input[1]]
    n_points, *taps = graph.constants[parts["taps"].input[0]].shape
    n_filters, n_in, *window = graph.constants[parts["filters"].input[1]].tolist()
    n_out = n_filters // n_points
    kernel = [transformed * plain for transformed, plain in zip(taps, window, strict=True)]
    # (tapsH·tapsW, K·C·windowH·windowW) -> (K, C, tapsH, windowH, tapsW, windowW) -> (K, C, kH, kW)
    split = stored.reshape(*taps, n_out, n_in, *window).transpose(2, 3, 0, 4, 1, 5)
    weights = as_float32(split.reshape(n_out, n_in, *kernel))
    lengths = zip(shapes[source][2:], shapes[output][2:], kernel, strict=True)
    pads = [(after + size - 1 - before) // 2 for before, after, size in lengths]
    inputs = [source, graph.constant(f"{output}/weights", weights)]
    if "bias" in parts:
        inputs.append(parts["bias"].input[1])
    return helper.make_node(
        "Conv", inputs, [output], name=output, kernel_shape=kernel, pads=2 * pads
    )


def _is_supported(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a node is a convolution of constant weights and stride 1 with symmetric padding."""
    if node.op_type != "Conv" or any(each not in graph.constants for each in node.input[1:]):
        return False
    pads = pads_of(node)
    return (
        graph.constants[node.input[1]].ndim == 4
        and attribute(node, "group", 1) == 1
        and all(step == 1 for step in attribute(node, "strides", [1, 1]))
        and all(step == 1 for step in attribute(node, "dilations", [1, 1]))
        and attribute(node, "auto_pad", b"NOTSET") == b"NOTSET"
        and pads[:2] == pads[2:]
    )


def _fastest(
    graph: Graph, node: onnx.NodeProto, shapes: dict[str, list[int]]
) -> _Convolution | None:
    """Return a convolution with its fastest algorithms; None if the plain one is."""
    n_out, n_in, *kernel = graph.constants[node.input[1]].shape
    height, width = shapes[node.input[0]][2:]
    pads = pads_of(node)
    if not (height and width) or any(pad >= taps for pad, taps in zip(pads, kernel, strict=False)):
        return None
    plain = _Convolution(n_in, n_out, (kernel[0], kernel[1]), (height, width), (pads[0], pads[1]))
    best = min(filter(_is_compact, _candidates(plain)), key=_cost, default=plain)
    return best if _cost(best) < _WORTHWHILE * _cost(plain) else None


def _candidates(plain: _Convolution) -> Iterator[_Convolution]:
    """Yield a convolution with all combinations of algorithms, the plain one included."""
    by_axis: list[list[Algorithm | None]] = []
    for length, pad, taps in zip(plain.size, plain.pads, plain.kernel, strict=True):
        algorithms: list[Algorithm | None] = [None]
        if taps == TAPS_OF_TILES:
            algorithms += [tiled(length, pad, tile) for tile in POINTS]
        elif taps > TAPS_OF_TILES:
            algorithms.append(whole_row(length, pad, taps))
        by_axis.append(algorithms)
    for rows, columns in product(*by_axis):
        yield replace(plain, algorithms=(rows, columns))


def _is_compact(plan: _Convolution) -> bool:
    """Whether the transformed weights are worth the memory they take."""
    n_tiles = int(np.prod([each.n_tiles for each in plan.algorithms if each]))
    return 4 * plan.n_weights <= _LARGE or n_tiles >= _FEWEST_TILES


def _cost(plan: _Convolution) -> float:
    """Estimate the time of a convolution, in multiplications of a plain one."""
    return float(np.dot(_COSTS, _work(plan)))


def _work(plan: _Convolution) -> tuple[int, int, int, int]:
    """Count multiplications, weights, transformed numbers, and those times inputs per tile."""
    n_positions = int(np.prod(plan.tiles(plan.output_size)))  # at which each weight is used
    span = max((each.span for each in plan.algorithms if each), default=0)
    per_channel = int(np.prod(plan.points)) * n_positions
    n_transformed = per_channel * (plan.n_in + plan.n_out) if span else 0
    if 4 * per_channel * max(plan.n_in, plan.n_out) > _CACHE:
        n_transformed *= _BEYOND_CACHE
    return plan.n_weights * n_positions, plan.n_weights, n_transformed, span * n_transformed


class _ConvolutionWriter:
    """Writes one convolution as transforms and a grouped convolution.

    Shapes in the comments: N images of height H and width W, C input and K output channels; TH × TW
    tiles of PH × PW points, SH × SW inputs and MH × MW outputs. Along a plain axis a tile is one
    position, of one point. Only columns (axis W) are transformed before and after rows (axis H).

    Parameters
    ----------
    graph : Graph
        Receives the constants.
    node : onnx.NodeProto
        The convolution.
    plan : _Convolution
        Its sizes and algorithms.
    """

    def __init__(self, graph: Graph, node: onnx.NodeProto, plan: _Convolution) -> None:
        self._graph = graph
        self._node = node
        self._plan = plan
        self._nodes: list[onnx.NodeProto] = []

    def write(self) -> list[onnx.NodeProto]:
        """Return the nodes; the last has the output of the convolution."""
        node = self._node
        last = self._add("nhwc", "Transpose", node.input[0], perm=TO_NHWC)
        last = self._transform_input(last)
        last = self._multiply(last, self._filters())
        last = self._transform_output(last)
        if len(node.input) > 2:
            last = self._add("bias", "Add", last, node.input[2])
        self._add("nchw", "Transpose", last, perm=TO_NCHW)
        self._nodes[-1].output[0] = node.output[0]
        return self._nodes

    def _transform_input(self, last: str) -> str:
        """From (N, H, W, C) to (N, TH, TW, PH·PW·C)."""
        plan, (rows, columns) = self._plan, self._plan.algorithms
        n_rows, n_columns = plan.tiles(plan.size)
        row_points, column_points = plan.points
        if columns:  # (N, H, W, C) -> (N, H, TW, PW, C), without TW if that is 1 whole row
            last = self._to_points("columns", last, columns, axis=2)
        if rows:
            # -> (N, H, TW·PW·C)
            n_across = n_columns * column_points * plan.n_in
            last = self._reshape("rows", last, -1, plan.size[0], n_across)
            # -> (N, TH, PH, TW·PW·C), without TH if that is 1 whole column
            last = self._to_points("rows", last, rows, axis=1)
            # -> (N, TH, PH, TW, PW·C) -> (N, TH, TW, PH, PW·C)
            shape = (-1, n_rows, row_points, n_columns, column_points * plan.n_in)
            last = self._reshape("points_first", last, *shape)
            last = self._add("points_last", "Transpose", last, perm=[0, 1, 3, 2, 4])
        n_channels = row_points * column_points * plan.n_in
        return self._reshape("grouped", last, -1, n_rows, n_columns, n_channels)

    def _to_points(self, part: str, last: str, algorithm: Algorithm, axis: int) -> str:
        """Cut an axis into tiles and transform them: (…, length, n) to (…, T, P, n)."""
        matrix = algorithm.input_transform  # (T, P, S)
        if algorithm.indices is None:  # (P, S) @ (…, S, n)
            matrix = matrix[0]
        else:  # (…, length, n) -> (…, T, S, n), then (T, P, S) @ (…, T, S, n)
            name = f"{_PREFIX}/{algorithm.name}/indices"
            indices = self._graph.constant(name, algorithm.indices)
            last = self._add(f"{part}_in_tiles", "Gather", last, indices, axis=axis)
        name = f"{_PREFIX}/{algorithm.name}/input_transform"
        transform = self._graph.constant(name, as_float32(matrix))
        return self._add(f"{part}_input_transform", "MatMul", transform, last)

    def _filters(self) -> str:
        """Transform the weights, from (K, C, kH, kW) to (PH·PW·K, C, windowH, windowW)."""
        plan = self._plan
        n_points = int(np.prod(plan.points))
        by_axis = [each.filter_transform if each else np.ones((1, 1)) for each in plan.algorithms]
        taps = [each.shape[1] for each in by_axis]  # 1 along a plain axis; its taps are the window
        # (PH·PW, tapsH, tapsW), for the file to keep both numbers of taps -> (PH·PW, tapsH·tapsW)
        algorithms = "/".join(each.name if each else "" for each in plan.algorithms)
        transform = self._graph.constant(
            f"{_PREFIX}/{algorithms}/filter_transform",
            as_float32(np.kron(*by_axis).reshape(n_points, *taps)),
        )
        transform = self._reshape("taps", transform, n_points, -1)
        # (K, C, tapsH, windowH, tapsW, windowW) -> (tapsH·tapsW, K·C·windowH·windowW)
        weights = self._graph.constants[self._node.input[1]]
        split = (plan.n_out, plan.n_in, taps[0], plan.window[0], taps[1], plan.window[1])
        stored = weights.reshape(split).transpose(2, 4, 0, 1, 3, 5).reshape(taps[0] * taps[1], -1)
        name = f"{_PREFIX}/weights/{self._node.output[0]}/stored"
        filters = self._add(
            "weights", "MatMul", transform, self._graph.constant(name, as_float32(stored))
        )
        # (PH·PW, K·C·windowH·windowW) -> (PH·PW·K, C, windowH, windowW)
        return self._reshape("filters", filters, n_points * plan.n_out, plan.n_in, *plan.window)

    def _multiply(self, last: str, filters: str) -> str:
        """Sum over channels at each point: (N, TH, TW, PH·PW·C) to (N, TH, TW, PH·PW·K)."""
        last = self._add("groups", "Transpose", last, perm=TO_NCHW)
        last = self._add(
            "products",
            "Conv",
            *(last, filters),
            group=int(np.prod(self._plan.points)),
            kernel_shape=self._plan.window,
            pads=2 * self._plan.window_pads,
        )
        return self._add("products_nhwc", "Transpose", last, perm=TO_NHWC)

    def _transform_output(self, last: str) -> str:
        """From (N, TH, TW, PH·PW·K) to the output in NHWC."""
        plan, (rows, columns) = self._plan, self._plan.algorithms
        row_points, column_points = plan.points
        size = plan.tiles(plan.output_size)
        if rows:
            # -> (N, TH, TW, PH, PW·K) -> (N, TH, PH, TW, PW·K) -> (N, TH, PH, TW·PW·K)
            shape = (-1, size[0], size[1], row_points, column_points * plan.n_out)
            last = self._reshape("products_points_last", last, *shape)
            last = self._add("products_points_first", "Transpose", last, perm=[0, 1, 3, 2, 4])
            n_across = size[1] * column_points * plan.n_out
            last = self._reshape("products_rows", last, -1, size[0], row_points, n_across)
            # (MH, PH) @ … -> (N, TH, MH, TW·PW·K)
            last = self._from_points("rows", last, rows)
            size[0] *= len(rows.output_transform)
        if columns:
            # -> (N, TH·MH, TW, PW, K); (MW, PW) @ … -> (N, TH·MH, TW, MW, K)
            last = self._reshape("products_columns", last, -1, *size, column_points, plan.n_out)
            last = self._from_points("columns", last, columns)
            size[1] *= len(columns.output_transform)
        # -> (N, TH·MH, TW·MW, K), of which the last tiles may exceed the output
        last = self._reshape("untiled", last, -1, *size, plan.n_out)
        if size == plan.output_size:
            return last
        ends = [
            self._graph.constant(f"{_PREFIX}/cut/{self._node.output[0]}/{which}", np.array(value))
            for which, value in (("first", [0, 0]), ("end", plan.output_size), ("axes", [1, 2]))
        ]
        return self._add("cut", "Slice", last, *ends)

    def _from_points(self, part: str, last: str, algorithm: Algorithm) -> str:
        """Interpolate: (M, P) @ (…, P, n)."""
        name = f"{_PREFIX}/{algorithm.name}/output_transform"
        transform = self._graph.constant(name, as_float32(algorithm.output_transform))
        return self._add(f"{part}_output_transform", "MatMul", transform, last)

    def _add(self, part: str, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"{_PREFIX}/{part}/{self._node.output[0]}"
        self._nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def _reshape(self, part: str, source: str, *shape: int) -> str:
        name = f"{_PREFIX}/{part}/{self._node.output[0]}/shape"
        constant = self._graph.constant(name, np.array(shape, np.int64))
        return self._add(part, "Reshape", source, constant)
