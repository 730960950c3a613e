"""What each node of a float graph becomes in 8-bit integers, and with which numbers.

1. Weights are int8, symmetric, with a scale for each output channel; biases int32; activations
   uint8 with one scale for the tensor, as onnxruntime's kernels require.
2. A channel may be divided by any positive number if the weights that read it are multiplied by
   it: Relu, pooling and concatenation commute with it. So each tensor is normalised to the range
   0 to 1, all have the scale 1/255, and pooling and concatenating copy bytes. How far channels
   of one tensor are brought to one range too is `Settings.equalization` (Nagel et al. 2019,
   "Data-Free Quantization Through Weight Equalization and Bias Correction").
3. Rounding a weight by e changes an output by e times the mean input: the bias corrects that
   (same paper, section 4.2).
4. A Relu is the lower end of the range, the Clip of a convolution both ends: neither is left.
5. An average pool becomes a convolution channel by channel with equal weights, for which there
   are integer kernels, and a multiplication that makes up for the padding at the edges.
6. What has no integer form here stays float, and so do the convolutions in `Settings.floats`.

`plan_graph` decides; `qdq` writes what is decided.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

from cnncodes.export.graph import Graph, as_float32, attribute, is_plain_pool, pads_of
from cnncodes.quantize.calibration import Observer
from cnncodes.quantize.steps import (
    EDGE_UNITS,
    Average,
    ByteTensor,
    Convolve,
    Copy,
    KeepFloat,
    Quantize,
    Requantize,
    Step,
    TransposeBytes,
)

POOLS = ("MaxPool", "AveragePool")
LEVELS = 255
_TINY = 1e-30  # least scale: products of two of the usual size still are normal float32 numbers
_DEPTHWISE_MULTIPLE = 16  # onnxruntime's kernel processes whole groups of channels


@dataclass(frozen=True)
class Settings:
    """How a network is quantized.

    Attributes
    ----------
    method : str
        How the calibration range of a channel is chosen, as for `Observer.limit`.
    equalization : float
        From 0, one range for all channels of a tensor, to 1, a range for each.
    bias_correction : bool
        Whether biases correct the mean error of rounded weights.
    weight_limit : int
        Largest magnitude of a weight: 127, or 63 for processors that saturate.
    floats : frozenset of str
        Convolutions, by the name of their output, that stay float.
    """

    method: str
    equalization: float
    bias_correction: bool
    weight_limit: int
    floats: frozenset[str] = frozenset()


def observed_tensors(graph: Graph) -> list[str]:
    """Return the tensors whose observers `plan_graph` needs."""
    absorbed = _absorbed_activations(graph)
    wanted: dict[str, None] = {}
    for node in graph.nodes:
        if node.op_type in ("Conv", "Add", *POOLS):
            wanted[absorbed.get(node.output[0], node.output[0])] = None
        if node.op_type == "Conv":
            wanted[node.input[0]] = None
        if node.op_type in POOLS:
            wanted[node.output[0]] = None
    produced = graph.producers()
    return [name for name in wanted if name in produced]


def convolutions(graph: Graph) -> list[str]:
    """Return the outputs of all convolutions, in order."""
    return [node.output[0] for node in graph.nodes if node.op_type == "Conv"]


def plan_graph(graph: Graph, observers: Mapping[str, Observer], settings: Settings) -> list[Step]:
    """Decide what each node of a float network becomes.

    Parameters
    ----------
    graph : Graph
        A float network.
    observers : mapping of str to Observer
        Those of `observed_tensors`, after calibration.
    settings : Settings
        How to quantize.

    Returns
    -------
    list of Step
        In the order in which to write them. Activations that are ends of ranges have no step.
    """
    absorbed = _absorbed_activations(graph)
    divisors = _channel_divisors(graph, observers, settings, absorbed)
    plan = _Plan(graph, observers, settings, absorbed, divisors)
    plan.image.add(graph.input)
    activations = set(absorbed.values())
    for node in graph.nodes:
        if node.output[0] not in activations:
            _plan_node(plan, node)
    return plan.steps


@dataclass(frozen=True)
class _Plan:
    """The decisions so far: the steps, and the tensors that are stored in 8 bits."""

    graph: Graph
    observers: Mapping[str, Observer]
    settings: Settings
    absorbed: dict[str, str]
    divisors: dict[str, NDArray[np.float64]]
    steps: list[Step] = field(default_factory=list)
    image: set[str] = field(default_factory=set)  # tensors that hold the image's own bytes
    stored: dict[str, ByteTensor] = field(default_factory=dict)

    def result(
        self, node: onnx.NodeProto, scale: float, zero: int, channels: NDArray[np.float64]
    ) -> ByteTensor:
        """Store the output of a node, its activation included, in 8 bits."""
        name = self.absorbed.get(node.output[0], node.output[0])
        self.stored[name] = ByteTensor(f"{name}/bytes", scale, zero, channels)
        return self.stored[name]

    def observed_result(self, node: onnx.NodeProto) -> ByteTensor:
        """Store the output of a Conv or Add in 8 bits, over its calibration range."""
        name = node.output[0]
        observer = self.observers[self.absorbed.get(name, name)]
        divisor = self.divisors[name]
        scale, zero = _grid(observer, observer.limit(self.settings.method), divisor)
        return self.result(node, scale, zero, divisor)

    def stored_inputs(self, node: onnx.NodeProto) -> list[ByteTensor] | None:
        """Return the inputs of a node, or None where not all are in 8 bits."""
        if any(name not in self.stored for name in node.input):
            return None
        return [self.stored[name] for name in node.input]


def _plan_node(plan: _Plan, node: onnx.NodeProto) -> None:
    name = node.output[0]
    if node.op_type in _MOVERS:
        planned = _MOVERS[node.op_type](plan, node)
    elif node.op_type in _OPERATORS and plan.absorbed.get(name, name) != plan.graph.output:
        planned = _OPERATORS[node.op_type](plan, node)
    else:  # the output of a network is float
        planned = False
    if not planned:
        sources = {each: plan.stored[each] for each in node.input if each in plan.stored}
        activation = plan.graph.producers()[plan.absorbed[name]] if name in plan.absorbed else None
        plan.steps.append(KeepFloat(node, sources, activation))


# Each of these plans a node and returns True, or returns False for one without integer form.


def _plan_pad(plan: _Plan, node: onnx.NodeProto) -> bool:
    if node.input[0] not in plan.image:
        return False
    plan.image.add(node.output[0])
    plan.steps.append(Copy(node))
    return True


def _plan_transpose(plan: _Plan, node: onnx.NodeProto) -> bool:
    if _plan_pad(plan, node):
        return True
    if node.input[0] not in plan.stored:
        return False
    plan.steps.append(TransposeBytes(node, plan.stored[node.input[0]]))
    return True


def _plan_pixels(plan: _Plan, node: onnx.NodeProto) -> bool:
    """Use the image as it is, in 8 bits already."""
    if node.input[0] not in plan.image:
        return False
    scale, zero = (plan.graph.constants[name] for name in node.input[1:])
    plan.stored[node.output[0]] = ByteTensor(node.input[0], float(scale), int(zero), np.ones(1))
    return True


def _plan_convolution(plan: _Plan, node: onnx.NodeProto) -> bool:
    source, name = node.input[0], node.output[0]
    if (
        (source not in plan.stored and source not in plan.observers)
        or name in plan.settings.floats
        or any(each not in plan.graph.constants for each in node.input[1:])
    ):
        return False
    if source not in plan.stored:
        plan.stored[source] = _common_grid(source, plan.observers[source], plan.settings.method)
        plan.steps.append(Quantize(source, plan.stored[source]))
    numbers = _integer_weights(plan, node)
    plan.steps.append(Convolve(node, plan.stored[source], *numbers, plan.observed_result(node)))
    return True


def _plan_sum(plan: _Plan, node: onnx.NodeProto) -> bool:
    divisor, sources = plan.divisors.get(node.output[0]), plan.stored_inputs(node)
    if (
        divisor is None
        or sources is None
        or not all(np.array_equal(source.channels, divisor) for source in sources)
    ):
        return False
    plan.steps.append(Requantize(node, sources, plan.observed_result(node)))
    return True


def _plan_pool(plan: _Plan, node: onnx.NodeProto) -> bool:
    source = plan.stored.get(node.input[0])
    if source is None:
        return False
    edges = _edge_factors(plan, node, source) if node.op_type == "AveragePool" else None
    scale, zero = source.scale, source.zero
    if node.output[0] in plan.absorbed:  # the smallest byte stands for zero: that is the Relu
        scale, zero = 1 / LEVELS, 0
    result = plan.result(node, scale, zero, source.channels)
    if edges is None:
        plan.steps.append(Requantize(node, [source], result))
        return True
    kernel = attribute(node, "kernel_shape", [0, 0])
    n_channels, limit = len(plan.observers[node.output[0]].mean), plan.settings.weight_limit
    weights = np.full((n_channels, 1, *kernel), limit, np.int8)
    scales = np.full(n_channels, 1 / (limit * kernel[0] * kernel[1]), np.float32)
    plan.steps.append(Average(node, source, weights, scales, edges, result))
    return True


def _plan_concatenation(plan: _Plan, node: onnx.NodeProto) -> bool:
    sources = plan.stored_inputs(node)
    if (
        sources is None
        or attribute(node, "axis", 0) != 1
        or any(source.zero != 0 for source in sources)
    ):
        return False
    channels = np.concatenate([source.channels for source in sources])
    result = plan.result(node, max(source.scale for source in sources), 0, channels)
    plan.steps.append(Requantize(node, sources, result))
    return True


_MOVERS: dict[str, Callable[[_Plan, onnx.NodeProto], bool]] = {
    "Pad": _plan_pad,
    "Transpose": _plan_transpose,
    "DequantizeLinear": _plan_pixels,
}
_OPERATORS: dict[str, Callable[[_Plan, onnx.NodeProto], bool]] = {
    "Conv": _plan_convolution,
    "Add": _plan_sum,
    "MaxPool": _plan_pool,
    "AveragePool": _plan_pool,
    "Concat": _plan_concatenation,
}


def _absorbed_activations(graph: Graph) -> dict[str, str]:
    """Map the output of a Conv, Add or average pool to that of the Relu or Clip behind it."""
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


def _integer_weights(
    plan: _Plan, node: onnx.NodeProto
) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]:
    """Return the weights and the bias of a convolution as integers, each with its scales."""
    source, divisor = plan.stored[node.input[0]], plan.divisors[node.output[0]]
    # (n_out, n_in of a group, height, width)
    weights = plan.graph.constants[node.input[1]].astype(np.float64)
    n_out, n_in = weights.shape[:2]
    groups = attribute(node, "group", 1)
    # (n_out, n_in of a group): the channel that each weight reads
    reads = np.arange(n_out)[:, None] // (n_out // groups) * n_in + np.arange(n_in)
    channels = np.broadcast_to(source.channels, n_in * groups)
    weights *= (channels[reads] / divisor[:, None])[:, :, None, None]
    bias = np.zeros(n_out)
    if len(node.input) > 2:
        bias = plan.graph.constants[node.input[2]] / divisor
    steps = np.abs(weights).max(axis=(1, 2, 3)) / plan.settings.weight_limit  # (n_out,)
    # A scale of zero is not allowed, and one too small makes the bias overflow.
    steps = np.maximum(steps, np.abs(bias) / source.scale / 2**30)
    steps = steps.clip(max(_TINY, _TINY / source.scale))
    steps = steps.astype(np.float32).astype(np.float64)
    stored = np.rint(weights / steps[:, None, None, None]).astype(np.int8)
    if plan.settings.bias_correction and node.input[0] in plan.observers:
        lost = weights - stored * steps[:, None, None, None]
        mean = plan.observers[node.input[0]].mean / channels
        # Sum over the window and the channels of the rounding error times the mean input.
        bias = bias + np.einsum("oijk,oi->o", lost, mean[reads])
    bias_steps = as_float32(steps) * np.float32(source.scale)
    return stored, as_float32(steps), np.rint(bias / bias_steps).astype(np.int32), bias_steps


def _edge_factors(
    plan: _Plan, node: onnx.NodeProto, source: ByteTensor
) -> NDArray[np.float64] | None:
    """Return the window's size by its pixels inside the image; None if the pool stays float.

    The shape is the height and width of the result.
    """
    name = node.output[0]
    observer, pads = plan.observers[name], pads_of(node)
    kernel = attribute(node, "kernel_shape", [0, 0])
    if (
        attribute(node, "count_include_pad", 0)
        or not is_plain_pool(node)
        or any(step != 1 for step in attribute(node, "strides", [1, 1]))
        or len(observer.mean) % _DEPTHWISE_MULTIPLE
        or not (name in plan.absorbed or source.zero == 0)  # values below zero would be lost
    ):
        return None
    inside = []  # pixels of each window inside the image, for rows and for columns
    for axis, length in enumerate(observer.shape):
        first = np.arange(length) - pads[axis]
        size = length + kernel[axis] - 1 - pads[axis] - pads[axis + 2]
        inside.append(np.minimum(first + kernel[axis], size) - np.maximum(first, 0))
    factors = kernel[0] * kernel[1] / (inside[0][:, None] * inside[1])
    units = factors * EDGE_UNITS
    return factors if units.max() <= LEVELS and np.allclose(units, np.rint(units)) else None


def _common_grid(name: str, observer: Observer, method: str) -> ByteTensor:
    """Store a float tensor in 8 bits, all channels divided by the largest limit."""
    limit = observer.limit(method)
    divisor = _divisor(limit, equalization=0)
    scale, zero = _grid(observer, limit, divisor)
    return ByteTensor(f"{name}/bytes", scale, zero, divisor)


def _grid(
    observer: Observer, limit: NDArray[np.float64], divisor: NDArray[np.float64]
) -> tuple[float, int]:
    """Return scale and zero point of a tensor after division of its channels."""
    high = max(float((np.minimum(observer.high, limit) / divisor).max()), 0.0)
    low = min(float((np.maximum(observer.low, -limit) / divisor).min()), 0.0)
    if abs(high - 1) < 1e-6 and low == 0:
        high = 1.0  # the usual case, equal to the last bit so that concatenating copies
    scale = max((high - low) / LEVELS, _TINY)
    return scale, int(np.clip(round(-low / scale), 0, LEVELS))


def _channel_divisors(
    graph: Graph,
    observers: Mapping[str, Observer],
    settings: Settings,
    absorbed: Mapping[str, str],
) -> dict[str, NDArray[np.float64]]:
    """Return the divisors of the channels of each Conv and Add, (n_channels,) for each.

    Terms of a sum must be divided alike, so tensors that meet in an Add share their divisors.
    """
    leader: dict[str, str] = {}  # of each tensor, if all its channels come from one group
    members: dict[str, list[str]] = {}
    for node in graph.nodes:
        name = node.output[0]
        if node.op_type == "Conv" and name not in settings.floats:
            leader[name], members[name] = name, [name]
        elif node.op_type in (*POOLS, "Relu") and node.input[0] in leader:
            leader[name] = leader[node.input[0]]
        elif node.op_type == "Add" and all(each in leader for each in node.input):
            first, second = (leader[each] for each in node.input)
            shapes = {len(observers[absorbed.get(each, each)].mean) for each in (first, second)}
            if len(shapes) > 1:
                continue
            if first != second:
                members[first] += members.pop(second)
                leader.update({each: first for each, of in leader.items() if of == second})
            leader[name] = first
            members[first].append(name)
    divisors = {}
    for group in members.values():
        limits = [observers[absorbed.get(name, name)].limit(settings.method) for name in group]
        divisor = _divisor(np.max(limits, axis=0), settings.equalization)
        divisors.update(dict.fromkeys(group, divisor))
    return divisors


def _divisor(limit: NDArray[np.float64], equalization: float) -> NDArray[np.float64]:
    """Return divisors between one for all channels and each channel's own limit."""
    largest = limit.max(initial=0)
    if largest < _TINY:
        return np.ones(len(limit))
    divisor: NDArray[np.float64] = largest * (limit / largest) ** equalization
    return np.where(limit > 0, divisor, largest)
