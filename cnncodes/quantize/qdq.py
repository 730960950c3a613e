"""A float graph becomes one of 8-bit integers, written as QuantizeLinear and DequantizeLinear.

1. Weights are int8, symmetric, with a scale for each output channel; biases int32; activations
   uint8 with one scale for the tensor, as onnxruntime's kernels take them.
2. A channel may be divided by any positive number if the weights that read it are multiplied by
   it: Relu, pooling and concatenation do not mind. So each tensor is normalised to the range
   0 to 1, all have the scale 1/255, and pooling and concatenating copy bytes. How far channels
   of one tensor are brought to one range too is `Settings.equalization` (Nagel et al. 2019,
   "Data-Free Quantization Through Weight Equalization and Bias Correction").
3. Rounding a weight by e changes an output by e times the mean input: the bias takes that back
   (same paper, section 4.2).
4. A Relu is the lower end of the range, the Clip of a convolution both ends: neither is left.
5. An average pool becomes a convolution channel by channel with equal weights, for which there
   are integer kernels, and a multiplication that makes up for the padding at the edges.
6. What has no integer form here stays float, and so do the convolutions in `Settings.floats`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from cnncodes.export.graph import Graph, as_float32, attribute, is_plain_pool, node_like, pads_of
from cnncodes.quantize.calibration import Range

PASSING = ("MaxPool", "AveragePool")
LEVELS = 255
TINY = 1e-30  # least scale: products of two of the usual size still are normal float32 numbers
_EDGE_UNITS = 100  # with a window of 3, what makes up for the padding is 1, 1.5 or 2.25
_DEPTHWISE_MULTIPLE = 16  # onnxruntime's kernel takes whole groups of channels


@dataclass(frozen=True)
class Settings:
    """How a network is quantized.

    Attributes
    ----------
    method : str
        How the range of a channel is found, as for `Range.limit`.
    equalization : float
        From 0, one range for all channels of a tensor, to 1, a range for each.
    bias_correction : bool
        Whether biases take back what rounding the weights changes on average.
    weight_limit : int
        Largest magnitude of a weight: 127, or 63 for processors that saturate.
    floats : frozenset of str
        Convolutions, by the tensor they make, that stay float.
    """

    method: str
    equalization: float
    bias_correction: bool
    weight_limit: int
    floats: frozenset[str] = frozenset()


def observed_tensors(graph: Graph) -> list[str]:
    """Return the tensors whose ranges `quantize_graph` needs."""
    absorbed = _absorbed_activations(graph)
    wanted: dict[str, None] = {}
    for node in graph.nodes:
        if node.op_type in ("Conv", "Add", *PASSING):
            wanted[absorbed.get(node.output[0], node.output[0])] = None
        if node.op_type == "Conv":
            wanted[node.input[0]] = None
        if node.op_type in PASSING:
            wanted[node.output[0]] = None
    made = {name for node in graph.nodes for name in node.output}
    return [name for name in wanted if name in made]


def convolutions(graph: Graph) -> list[str]:
    """Return the tensors that convolutions make, in order."""
    return [node.output[0] for node in graph.nodes if node.op_type == "Conv"]


def quantize_graph(graph: Graph, ranges: Mapping[str, Range], settings: Settings) -> Graph:
    """Write a network in integers.

    Parameters
    ----------
    graph : Graph
        A float network.
    ranges : mapping of str to Range
        The ranges of `observed_tensors`.
    settings : Settings
        How.

    Returns
    -------
    Graph
        The same network with QuantizeLinear and DequantizeLinear.
    """
    return _Writer(graph, ranges, settings).write()


def _absorbed_activations(graph: Graph) -> dict[str, str]:
    """Map what a Conv, Add or average pool makes to the output of the Relu behind it, or Clip."""
    consumers, absorbed = graph.consumers(), {}
    for node in graph.nodes:
        if node.op_type not in ("Conv", "Add", "AveragePool"):
            continue
        readers = consumers[node.output[0]]
        # Sums and pools share ranges with what they read, which need not end where a Clip does.
        if (
            len(readers) == 1
            and node.output[0] != graph.output
            and (
                readers[0].op_type == "Relu"
                or (node.op_type == "Conv" and _clips_at_zero(graph, readers[0]))
            )
        ):
            absorbed[node.output[0]] = readers[0].output[0]
    return absorbed


def _clips_at_zero(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a node is a Clip from zero; where it ends is in the range of its output."""
    if node.op_type != "Clip" or len(node.input) < 2:
        return False
    lower = graph.constants.get(node.input[1])
    return lower is not None and float(lower) == 0


@dataclass(frozen=True)
class _Quantized:
    """A tensor in 8 bits: value = (stored − zero) · scale · channels."""

    name: str
    scale: float
    zero: int
    channels: NDArray[np.float64]


class _Writer:
    def __init__(self, graph: Graph, ranges: Mapping[str, Range], settings: Settings) -> None:
        self._graph = graph
        self._ranges = ranges
        self._settings = settings
        self._out = graph.with_nodes([])
        self._absorbed = _absorbed_activations(graph)
        self._behind = set(self._absorbed.values())
        self._divisors = _channel_divisors(graph, ranges, settings, self._absorbed)
        self._integers: dict[str, _Quantized] = {}
        self._bytes = {graph.input}
        self._floats: dict[str, str] = {}

    def write(self) -> Graph:
        for node in self._graph.nodes:
            name = node.output[0]
            if name in self._behind:
                continue
            if self._moves_bytes(node):
                self._bytes.add(name)
                self._emit(node)
            elif node.op_type == "DequantizeLinear" and node.input[0] in self._bytes:
                self._take_pixels(node)
            elif node.op_type == "Transpose" and node.input[0] in self._integers:
                self._write_transpose(node)
            elif self._absorbed.get(name, name) == self._graph.output:  # the output is of numbers
                self._write_float(node)
            elif node.op_type == "Conv" and self._has_integer_form(node):
                self._write_convolution(node)
            elif node.op_type == "Add" and self._adds_integers(node):
                self._write_sum(node)
            elif node.op_type in PASSING and node.input[0] in self._integers:
                self._write_pool(node)
            elif node.op_type == "Concat" and self._joins_integers(node):
                self._write_concatenation(node)
            else:
                self._write_float(node)
        return self._out

    # What each kind of node becomes

    def _moves_bytes(self, node: onnx.NodeProto) -> bool:
        return node.op_type in ("Pad", "Transpose") and node.input[0] in self._bytes

    def _take_pixels(self, node: onnx.NodeProto) -> None:
        """Take the image as it is, in 8 bits already."""
        scale, zero = (self._graph.constants[name] for name in node.input[1:])
        self._add_integer(node.output[0], node.input[0], float(scale), int(zero), np.ones(1))

    def _has_integer_form(self, node: onnx.NodeProto) -> bool:
        name = node.input[0]
        known = name in self._integers or name in self._ranges
        return (
            known
            and node.output[0] not in self._settings.floats
            and all(each in self._graph.constants for each in node.input[1:])
        )

    def _write_convolution(self, node: onnx.NodeProto) -> None:
        name = node.output[0]
        source = self._as_integer(node.input[0])
        divisor = self._divisors[name]
        weights = self._graph.constants[node.input[1]].astype(np.float64)
        n_out, n_in = weights.shape[:2]
        groups = attribute(node, "group", 1)
        reads = np.arange(n_out)[:, None] // (n_out // groups) * n_in + np.arange(n_in)
        channels = np.broadcast_to(source.channels, n_in * groups)
        weights *= (channels[reads] / divisor[:, None])[:, :, None, None]
        bias = np.zeros(n_out)
        if len(node.input) > 2:
            bias = self._graph.constants[node.input[2]] / divisor
        steps = np.abs(weights).max(axis=(1, 2, 3)) / self._settings.weight_limit
        # A scale of zero is not allowed, and one too small makes the bias overflow.
        steps = np.maximum(steps, np.abs(bias) / source.scale / 2**30)
        steps = steps.clip(max(TINY, TINY / source.scale))
        steps = steps.astype(np.float32).astype(np.float64)
        stored = np.rint(weights / steps[:, None, None, None]).astype(np.int8)
        if self._settings.bias_correction and node.input[0] in self._ranges:
            lost = weights - stored * steps[:, None, None, None]
            mean = self._ranges[node.input[0]].mean / channels
            bias = bias + np.einsum("oijk,oi->o", lost, mean[reads])
        bias_steps = as_float32(steps) * np.float32(source.scale)
        inputs = [
            self._dequantize(source),
            self._dequantized_constant(f"{name}/weights", stored, as_float32(steps)),
            self._dequantized_constant(
                f"{name}/bias", np.rint(bias / bias_steps).astype(np.int32), bias_steps
            ),
        ]
        self._emit(node_like(node, inputs, [name]))
        self._add_result(name, divisor)

    def _adds_integers(self, node: onnx.NodeProto) -> bool:
        divisor = self._divisors.get(node.output[0])
        sources = [self._integers.get(name) for name in node.input]
        return divisor is not None and all(
            source is not None and np.array_equal(source.channels, divisor) for source in sources
        )

    def _write_sum(self, node: onnx.NodeProto) -> None:
        inputs = [self._dequantize(self._integers[name]) for name in node.input]
        self._emit(node_like(node, inputs, node.output))
        self._add_result(node.output[0], self._divisors[node.output[0]])

    def _write_pool(self, node: onnx.NodeProto) -> None:
        source, name = self._integers[node.input[0]], node.output[0]
        edges = self._edge_factors(node) if node.op_type == "AveragePool" else None
        if edges is not None:
            self._write_average(node, source, edges)
            return
        self._emit(node_like(node, [self._dequantize(source)], [name]))
        if name in self._absorbed:  # the smallest byte stands for zero: quantizing is the Relu
            self._quantize(self._absorbed[name], name, 1 / LEVELS, 0, source.channels)
        else:
            self._quantize(name, name, source.scale, source.zero, source.channels)

    def _edge_factors(self, node: onnx.NodeProto) -> NDArray[np.float64] | None:
        """Return size of the window by places inside the image; None if there is no such form."""
        name = node.output[0]
        source = self._integers[node.input[0]]
        kernel = attribute(node, "kernel_shape", [0, 0])
        nonnegative = name in self._absorbed or source.zero == 0
        n_channels = len(self._ranges[name].mean)
        if (
            attribute(node, "count_include_pad", 0)
            or not is_plain_pool(node)
            or any(step != 1 for step in attribute(node, "strides", [1, 1]))
            or n_channels % _DEPTHWISE_MULTIPLE
            or not nonnegative
        ):
            return None
        shape = self._ranges[name].shape
        pads = pads_of(node)
        inside = []
        for axis in range(2):
            first = np.arange(shape[axis]) - pads[axis]
            size = shape[axis] + kernel[axis] - 1 - pads[axis] - pads[axis + 2]
            inside.append(np.minimum(first + kernel[axis], size) - np.maximum(first, 0))
        factors = kernel[0] * kernel[1] / (inside[0][:, None] * inside[1])
        units = factors * _EDGE_UNITS
        return factors if units.max() <= LEVELS and np.allclose(units, np.rint(units)) else None

    def _write_average(
        self, node: onnx.NodeProto, source: _Quantized, edges: NDArray[np.float64]
    ) -> None:
        name = node.output[0]
        result = self._absorbed.get(name, name)
        kernel = attribute(node, "kernel_shape", [0, 0])
        n_channels = len(self._ranges[name].mean)
        limit = self._settings.weight_limit
        weights = self._dequantized_constant(
            f"{name}/weights",
            np.full((n_channels, 1, *kernel), limit, np.int8),
            np.full(n_channels, 1 / (limit * kernel[0] * kernel[1]), np.float32),
        )
        self._emit(
            helper.make_node(
                "Conv",
                [self._dequantize(source), weights],
                [f"{name}/sum"],
                name=node.name,
                group=n_channels,
                kernel_shape=kernel,
                pads=pads_of(node),
            )
        )
        scale = 1 / LEVELS if name in self._absorbed else source.scale
        if (edges == 1).all():
            self._quantize(result, f"{name}/sum", scale, 0, source.channels)
            return
        self._quantize(f"{name}/part", f"{name}/sum", scale, 0, source.channels)
        self._out.constants[f"{name}/edges"] = np.rint(edges * _EDGE_UNITS).astype(np.uint8)[
            None, None
        ]
        factor = self._dequantize(
            _Quantized(f"{name}/edges", 1 / _EDGE_UNITS, 0, np.ones(n_channels))
        )
        part = self._dequantize(self._integers[f"{name}/part"])
        self._emit(helper.make_node("Mul", [part, factor], [f"{name}/whole"]))
        self._quantize(result, f"{name}/whole", scale, 0, source.channels)

    def _joins_integers(self, node: onnx.NodeProto) -> bool:
        sources = [self._integers.get(name) for name in node.input]
        return attribute(node, "axis", 0) == 1 and all(
            source is not None and source.zero == 0 for source in sources
        )

    def _write_concatenation(self, node: onnx.NodeProto) -> None:
        sources = [self._integers[name] for name in node.input]
        self._emit(node_like(node, [self._dequantize(each) for each in sources], node.output))
        channels = np.concatenate([source.channels for source in sources])
        scale = max(source.scale for source in sources)
        self._quantize(node.output[0], node.output[0], scale, 0, channels)

    def _write_transpose(self, node: onnx.NodeProto) -> None:
        """Transpose bytes, then make them numbers: the output of most networks."""
        source, name = self._integers[node.input[0]], node.output[0]
        turned = f"{name}/bytes"
        self._emit(node_like(node, [source.name], [turned]))
        axis = list(attribute(node, "perm", [])).index(1)
        moved = _Quantized(turned, source.scale, source.zero, source.channels)
        self._write_values(moved, name, axis)

    def _write_float(self, node: onnx.NodeProto) -> None:
        inputs = [self._as_float(name) for name in node.input]
        self._emit(node_like(node, inputs, node.output))
        if node.output[0] in self._absorbed:  # the activation was to vanish, and is needed now
            result = self._absorbed[node.output[0]]
            activation = next(each for each in self._graph.nodes if each.output[0] == result)
            self._emit(activation)

    # Tensors in one form and the other

    def _as_integer(self, name: str) -> _Quantized:
        if name not in self._integers:
            values = self._ranges[name]
            limit = values.limit(self._settings.method)
            divisor = _divisor(limit, equalization=0)
            scale, zero = _grid(values, limit, divisor)
            self._quantize(name, name, scale * divisor[0], zero, np.ones(1))
            self._add_integer(name, self._integers[name].name, scale, zero, divisor)
        return self._integers[name]

    def _as_float(self, name: str) -> str:
        if name not in self._integers:
            return name
        if name not in self._floats:
            self._floats[name] = f"{name}/float"
            self._write_values(self._integers[name], self._floats[name], axis=1)
        return self._floats[name]

    def _write_values(self, source: _Quantized, name: str, axis: int) -> None:
        """Make bytes numbers again, each channel in its own measure."""
        channels = source.channels
        if np.ptp(channels) == 0:
            self._dequantize(
                _Quantized(source.name, source.scale * channels[0], source.zero, channels), name
            )
            return
        even = self._dequantize(
            _Quantized(source.name, source.scale, source.zero, channels), f"{name}/even"
        )
        shape = [1, 1, 1, 1]
        shape[axis] = -1
        self._out.constants[f"{name}/channels"] = as_float32(channels).reshape(shape)
        self._emit(helper.make_node("Mul", [even, f"{name}/channels"], [name]))

    def _add_result(self, name: str, divisor: NDArray[np.float64]) -> None:
        """Quantize what a Conv or Add made, after the activation behind it."""
        result = self._absorbed.get(name, name)
        values = self._ranges[result]
        scale, zero = _grid(values, values.limit(self._settings.method), divisor)
        self._quantize(result, name, scale, zero, divisor)

    def _quantize(
        self, name: str, source: str, scale: float, zero: int, channels: NDArray[np.float64]
    ) -> None:
        scale_name, zero_name = self._grid_constants(f"{name}/bytes", scale, zero)
        self._emit(
            helper.make_node("QuantizeLinear", [source, scale_name, zero_name], [f"{name}/bytes"])
        )
        self._add_integer(name, f"{name}/bytes", scale, zero, channels)

    def _add_integer(
        self, name: str, stored: str, scale: float, zero: int, channels: NDArray[np.float64]
    ) -> None:
        self._integers[name] = _Quantized(stored, scale, zero, channels)

    def _dequantize(self, source: _Quantized, name: str | None = None) -> str:
        name = name or f"{source.name}/value{len(self._out.nodes)}"
        scale_name, zero_name = self._grid_constants(name, source.scale, source.zero)
        self._emit(
            helper.make_node("DequantizeLinear", [source.name, scale_name, zero_name], [name])
        )
        return name

    def _dequantized_constant(
        self, name: str, stored: NDArray[np.int8] | NDArray[np.int32], steps: NDArray[np.float32]
    ) -> str:
        self._out.constants[name] = stored
        self._out.constants[f"{name}/scale"] = steps
        self._out.constants[f"{name}/zero"] = np.zeros(len(steps), stored.dtype)
        self._emit(
            helper.make_node(
                "DequantizeLinear",
                [name, f"{name}/scale", f"{name}/zero"],
                [f"{name}/value"],
                axis=0,
            )
        )
        return f"{name}/value"

    def _grid_constants(self, name: str, scale: float, zero: int) -> tuple[str, str]:
        self._out.constants[f"{name}/scale"] = np.array(scale, np.float32)
        self._out.constants[f"{name}/zero"] = np.array(zero, np.uint8)
        return f"{name}/scale", f"{name}/zero"

    def _emit(self, node: onnx.NodeProto) -> None:
        self._out.nodes.append(node)


def _grid(
    values: Range, limit: NDArray[np.float64], divisor: NDArray[np.float64]
) -> tuple[float, int]:
    """Return scale and zero point of a tensor after division of its channels."""
    high = max(float((np.minimum(values.high, limit) / divisor).max()), 0.0)
    low = min(float((np.maximum(values.low, -limit) / divisor).min()), 0.0)
    if abs(high - 1) < 1e-6 and low == 0:
        high = 1.0  # the usual case, equal to the last bit so that concatenating copies
    scale = max((high - low) / LEVELS, TINY)
    return scale, int(np.clip(round(-low / scale), 0, LEVELS))


def _channel_divisors(
    graph: Graph,
    ranges: Mapping[str, Range],
    settings: Settings,
    absorbed: Mapping[str, str],
) -> dict[str, NDArray[np.float64]]:
    """Return by what the channels of each Conv and Add are divided.

    What is added has to be divided alike, so tensors that meet in an Add share their divisors.
    """
    leader: dict[str, str] = {}  # of each tensor, if all its channels come from one group
    members: dict[str, list[str]] = {}
    for node in graph.nodes:
        name = node.output[0]
        if node.op_type == "Conv" and name not in settings.floats:
            leader[name], members[name] = name, [name]
        elif node.op_type in (*PASSING, "Relu") and node.input[0] in leader:
            leader[name] = leader[node.input[0]]
        elif node.op_type == "Add" and all(each in leader for each in node.input):
            first, second = (leader[each] for each in node.input)
            shapes = {len(ranges[absorbed.get(each, each)].mean) for each in (first, second)}
            if len(shapes) > 1:
                continue
            if first != second:
                members[first] += members.pop(second)
                leader.update({each: first for each, of in leader.items() if of == second})
            leader[name] = first
            members[first].append(name)
    divisors = {}
    for group in members.values():
        limits = [ranges[absorbed.get(name, name)].limit(settings.method) for name in group]
        divisor = _divisor(np.max(limits, axis=0), settings.equalization)
        divisors.update(dict.fromkeys(group, divisor))
    return divisors


def _divisor(limit: NDArray[np.float64], equalization: float) -> NDArray[np.float64]:
    """Return divisors that lie between one for all channels and each channel's own limit."""
    largest = limit.max(initial=0)
    if largest < TINY:
        return np.ones(len(limit))
    divisor: NDArray[np.float64] = largest * (limit / largest) ** equalization
    return np.where(limit > 0, divisor, largest)
