"""Convolutions with fewer multiplications, in standard operators.

1. Rows, columns or both are brought to points, where a convolution is a product (`bilinear`).
   The sums over channels happen at each point by itself: a convolution with a group of channels
   for each point. (Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks";
   Mathieu, Henaff and LeCun 2014, "Fast Training of Convolutional Networks through FFTs".)
2. All is done in NHWC, where bringing a row to the points is a matrix product with all of its
   channels at once, and the points come to lie as groups of channels without being moved.
3. The file keeps the weights of the convolution; onnxruntime brings them to the points when it
   loads the file, and then needs more memory for them: 2 to 8 times as much.
4. Transforming costs more than it saves where there are few channels, and so does reading more
   weights where each serves few places. `_cost` expects what a way takes; the plain convolution
   stays unless another is clearly quicker.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import onnx
from onnx import helper

from cnncodes.export.bilinear import POINTS, TAPS_OF_TILES, Way, in_tiles, whole_row
from cnncodes.export.graph import TO_NCHW, TO_NHWC, Graph, as_float32, attribute, pads_of

# As timed, in multiplications: to read a weight; to make or unmake a number at a point, of a span
# of so many; and how much more that is where these numbers do not fit the cache, in bytes.
_READ_COST = 8
_POINT_COST, _SPAN_COST = 40, 4.5
_CACHE, _BEYOND_CACHE = 8 * 2**20, 2
_WORTHWHILE = 0.85
# Weights of so many bytes must serve so many tiles to be worth the memory they take.
_LARGE, _FEWEST_TILES = 16 * 2**20, 30
_MARK = "winograd"


@dataclass(frozen=True)
class _Convolution:
    """A convolution of stride 1, and how rows and columns are brought to points, if they are."""

    n_in: int
    n_out: int
    kernel: tuple[int, int]
    size: tuple[int, int]
    pads: tuple[int, int]
    ways: tuple[Way | None, Way | None] = (None, None)

    @property
    def new_size(self) -> list[int]:
        """Height and width of the result."""
        each = zip(self.size, self.pads, self.kernel, strict=True)
        return [length + 2 * pad - taps + 1 for length, pad, taps in each]

    @property
    def points(self) -> list[int]:
        """Points of a tile in each direction; 1 where there are none."""
        return [way.n_points if way else 1 for way in self.ways]

    @property
    def places(self) -> list[int]:
        """Tiles in each direction; places of the image where there are none."""
        return [
            way.n_tiles if way else length for way, length in zip(self.ways, self.size, strict=True)
        ]

    @property
    def window(self) -> list[int]:
        """The window that is left."""
        return [1 if way else taps for way, taps in zip(self.ways, self.kernel, strict=True)]

    @property
    def n_weights(self) -> int:
        """Number of weights at all points together."""
        return self.n_in * self.n_out * int(np.prod(self.points) * np.prod(self.window))

    @property
    def window_pads(self) -> list[int]:
        """The padding that is left."""
        return [0 if way else pad for way, pad in zip(self.ways, self.pads, strict=True)]


def use_winograd(graph: Graph) -> int:
    """Rewrite the convolutions of a float graph that become quicker by it, in place.

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
        if _is_usual(graph, node) and (found := _quickest(graph, node, shapes[node.input[0]])):
            nodes += _Writer(graph, node, found).write()
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
        elif node.name.startswith(f"{_MARK}/nhwc/"):
            result = node.name.split("/", 2)[2]
            nodes.append(_restored(graph, node.input[0], result, parts[result], shapes))
    graph.nodes = nodes
    return len(parts)


def _restored(
    graph: Graph,
    source: str,
    result: str,
    parts: dict[str, onnx.NodeProto],
    shapes: dict[str, list[int]],
) -> onnx.NodeProto:
    stored = graph.constants[parts["weights"].input[1]]
    n_points, *taps = graph.constants[parts["taps"].input[0]].shape
    n_filters, n_in, *window = graph.constants[parts["filters"].input[1]].tolist()
    n_out = n_filters // n_points
    kernel = [there * left for there, left in zip(taps, window, strict=True)]
    split = stored.reshape(*taps, n_out, n_in, *window).transpose(2, 3, 0, 4, 1, 5)
    weights = as_float32(split.reshape(n_out, n_in, *kernel))
    lengths = zip(shapes[source][2:], shapes[result][2:], kernel, strict=True)
    pads = [(new + size - 1 - old) // 2 for old, new, size in lengths]
    inputs = [source, graph.constant(f"{result}/weights", weights)]
    if "bias" in parts:
        inputs.append(parts["bias"].input[1])
    return helper.make_node(
        "Conv", inputs, [result], name=result, kernel_shape=kernel, pads=2 * pads
    )


def _is_usual(graph: Graph, node: onnx.NodeProto) -> bool:
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


def _quickest(graph: Graph, node: onnx.NodeProto, shape: list[int]) -> _Convolution | None:
    """Return the quickest way of a convolution; None if that is the plain one."""
    n_out, n_in, *kernel = graph.constants[node.input[1]].shape
    height, width = shape[2:]
    pads = pads_of(node)
    if not (height and width) or any(pad >= taps for pad, taps in zip(pads, kernel, strict=False)):
        return None
    plain = _Convolution(n_in, n_out, (kernel[0], kernel[1]), (height, width), (pads[0], pads[1]))
    found = min(filter(_is_compact, _ways(plain)), key=_cost, default=plain)
    return found if _cost(found) < _WORTHWHILE * _cost(plain) else None


def _ways(plain: _Convolution) -> Iterator[_Convolution]:
    """Give all ways of a convolution that are considered, the plain one included."""
    each_way: list[list[Way | None]] = []
    for length, pad, taps in zip(plain.size, plain.pads, plain.kernel, strict=True):
        ways: list[Way | None] = [None]
        if taps == TAPS_OF_TILES:
            ways += [in_tiles(length, pad, tile) for tile in POINTS]
        elif taps > TAPS_OF_TILES:
            ways.append(whole_row(length, pad, taps))
        each_way.append(ways)
    for rows, columns in product(*each_way):
        yield replace(plain, ways=(rows, columns))


def _is_compact(how: _Convolution) -> bool:
    """Whether the weights are worth the memory they take."""
    n_tiles = int(np.prod([way.n_tiles for way in how.ways if way]))
    return 4 * how.n_weights <= _LARGE or n_tiles >= _FEWEST_TILES


def _cost(how: _Convolution) -> float:
    """Expect how long a way takes, in multiplications of a plain convolution."""
    sizes = zip(how.places, how.ways, how.new_size, strict=True)
    n_places = int(np.prod([there if way else new for there, way, new in sizes]))
    n_numbers = int(np.prod(how.points)) * n_places
    spans = [way.span for way in how.ways if way]
    transforms = len(spans) and (_POINT_COST + _SPAN_COST * max(spans)) * n_numbers
    if 4 * n_numbers * max(how.n_in, how.n_out) > _CACHE:
        transforms *= _BEYOND_CACHE
    return how.n_weights * (n_places + _READ_COST) + transforms * (how.n_in + how.n_out)


class _Writer:
    """Writes one convolution as matrix products and a convolution with groups.

    Parameters
    ----------
    graph : Graph
        Gets the constants.
    node : onnx.NodeProto
        The convolution.
    how : _Convolution
        The way to write it.
    """

    def __init__(self, graph: Graph, node: onnx.NodeProto, how: _Convolution) -> None:
        self._graph = graph
        self._node = node
        self._how = how
        self._nodes: list[onnx.NodeProto] = []

    def write(self) -> list[onnx.NodeProto]:
        """Return the nodes; the last makes what the convolution made."""
        node = self._node
        last = self._add("nhwc", "Transpose", node.input[0], perm=TO_NHWC)
        last = self._to_points(last)
        last = self._sum_over_channels(last)
        last = self._from_points(last)
        if len(node.input) > 2:
            last = self._add("bias", "Add", last, node.input[2])
        self._add("nchw", "Transpose", last, perm=TO_NCHW)
        self._nodes[-1].output[0] = node.output[0]
        return self._nodes

    def _to_points(self, last: str) -> str:
        """From places and channels to tiles of rows, tiles of columns, and points and channels."""
        how, (rows, columns) = self._how, self._how.ways
        n_rows, n_columns = how.places
        row_points, column_points = how.points
        if columns:
            last = self._tiles("columns", last, columns, axis=2)
        if rows:
            last = self._reshape(
                "rows", last, -1, how.size[0], n_columns * column_points * how.n_in
            )
            last = self._tiles("by_row", last, rows, axis=1)
            shape = (-1, n_rows, row_points, n_columns, column_points * how.n_in)
            last = self._reshape("apart", last, *shape)
            last = self._add("together", "Transpose", last, perm=[0, 1, 3, 2, 4])
        n_channels = row_points * column_points * how.n_in
        return self._reshape("grouped", last, -1, n_rows, n_columns, n_channels)

    def _tiles(self, part: str, last: str, way: Way, axis: int) -> str:
        if way.places is not None:
            places = self._graph.constant(f"{_MARK}/{way.name}/places", way.places)
            last = self._add(f"{part}_in_tiles", "Gather", last, places, axis=axis)
        matrix = way.to_points if way.places is not None else way.to_points[0]
        to_points = self._graph.constant(f"{_MARK}/{way.name}/to_points", as_float32(matrix))
        return self._add(f"{part}_to_points", "MatMul", to_points, last)

    def _sum_over_channels(self, last: str) -> str:
        """Convolve at each point, with weights brought there: (taps, n_out × n_in × window)."""
        how = self._how
        n_points = int(np.prod(how.points))
        by_axis = [way.of_weights if way else np.ones((1, 1)) for way in how.ways]
        taps = [each.shape[1] for each in by_axis]
        ways = "/".join(way.name if way else "" for way in how.ways)
        of_weights = self._graph.constant(
            f"{_MARK}/{ways}/of_weights", as_float32(np.kron(*by_axis).reshape(n_points, *taps))
        )
        of_weights = self._reshape("taps", of_weights, n_points, -1)
        weights = self._graph.constants[self._node.input[1]]
        split = (how.n_out, how.n_in, taps[0], how.window[0], taps[1], how.window[1])
        stored = weights.reshape(split).transpose(2, 4, 0, 1, 3, 5)
        name = self._graph.constant(
            f"{_MARK}/weights/{self._node.output[0]}/stored",
            as_float32(stored.reshape(taps[0] * taps[1], -1)),
        )
        filters = self._add("weights", "MatMul", of_weights, name)
        filters = self._reshape("filters", filters, n_points * how.n_out, how.n_in, *how.window)
        last = self._add("groups", "Transpose", last, perm=TO_NCHW)
        last = self._add(
            "products",
            "Conv",
            *(last, filters),
            group=n_points,
            kernel_shape=how.window,
            pads=2 * how.window_pads,
        )
        return self._add("products_nhwc", "Transpose", last, perm=TO_NHWC)

    def _from_points(self, last: str) -> str:
        """From tiles and points back to places; what the last tiles have too much is cut off."""
        how, (rows, columns) = self._how, self._how.ways
        made = [
            way.n_tiles if way else new for way, new in zip(how.ways, how.new_size, strict=True)
        ]
        row_points, column_points = how.points
        if rows:
            shape = (-1, made[0], made[1], row_points, column_points * how.n_out)
            last = self._reshape("results", last, *shape)
            last = self._add("results_apart", "Transpose", last, perm=[0, 1, 3, 2, 4])
            last = self._reshape(
                "results_by_row", last, -1, made[0], row_points, made[1] * column_points * how.n_out
            )
            last = self._results("rows", last, rows)
            made[0] *= len(rows.from_points)
        if columns:
            last = self._reshape("results_by_column", last, -1, *made, column_points, how.n_out)
            last = self._results("columns", last, columns)
            made[1] *= len(columns.from_points)
        last = self._reshape("results_in_place", last, -1, *made, how.n_out)
        if made == how.new_size:
            return last
        ends = [
            self._graph.constant(f"{_MARK}/cut/{self._node.output[0]}/{which}", np.array(value))
            for which, value in (("first", [0, 0]), ("end", how.new_size), ("axes", [1, 2]))
        ]
        return self._add("cut", "Slice", last, *ends)

    def _results(self, part: str, last: str, way: Way) -> str:
        name = f"{_MARK}/{way.name}/from_points"
        from_points = self._graph.constant(name, as_float32(way.from_points))
        return self._add(f"{part}_from_points", "MatMul", from_points, last)

    def _add(self, part: str, kind: str, *inputs: str, **attributes: Any) -> str:
        made = f"{_MARK}/{part}/{self._node.output[0]}"
        self._nodes.append(helper.make_node(kind, inputs, [made], name=made, **attributes))
        return made

    def _reshape(self, part: str, source: str, *shape: int) -> str:
        name = f"{_MARK}/{part}/{self._node.output[0]}/shape"
        return self._add(
            part, "Reshape", source, self._graph.constant(name, np.array(shape, np.int64))
        )
