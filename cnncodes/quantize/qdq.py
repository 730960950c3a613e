"""The plan of an integer graph, written with QuantizeLinear and DequantizeLinear (QDQ).

An operator in 8 bits is written as DequantizeLinear for each input, the float operator, and
QuantizeLinear for its result; onnxruntime makes one integer kernel of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from cnncodes.export.graph import Graph, as_float32, attribute, node_like, pads_of
from cnncodes.quantize.calibration import Observer
from cnncodes.quantize.plan import Settings, plan_graph
from cnncodes.quantize.steps import (
    EDGE_UNITS,
    Average,
    ByteTensor,
    Convolve,
    Copy,
    KeepFloat,
    Quantize,
    Requantize,
    TransposeBytes,
)


def quantize_graph(graph: Graph, observers: Mapping[str, Observer], settings: Settings) -> Graph:
    """Write a network in integers.

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
    Graph
        The same network with QuantizeLinear and DequantizeLinear.
    """
    emitter = _Emitter(graph)
    for step in plan_graph(graph, observers, settings):
        EMITTERS[type(step)](emitter, step)
    return emitter.graph


class _Emitter:
    """Adds nodes and constants to a graph without nodes."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph.with_nodes([])
        self._floats: dict[str, str] = {}  # float forms of tensors that are stored in 8 bits

    def node(self, node: onnx.NodeProto) -> None:
        self.graph.nodes.append(node)

    def quantize(self, name: str, result: ByteTensor) -> None:
        grid = self._grid(result.stored, result)
        self.node(helper.make_node("QuantizeLinear", [name, *grid], [result.stored]))

    def dequantize(self, source: ByteTensor, name: str | None = None) -> str:
        """Return the name of the float tensor, channels still divided."""
        name = name or f"{source.stored}/value{len(self.graph.nodes)}"
        grid = self._grid(name, source)
        self.node(helper.make_node("DequantizeLinear", [source.stored, *grid], [name]))
        return name

    def dequantize_constant(
        self, name: str, stored: NDArray[np.int8] | NDArray[np.int32], scales: NDArray[np.float32]
    ) -> str:
        """Return the name of the float tensor; `scales` has one number per output channel."""
        inputs = [
            self.graph.constant(name, stored),
            self.graph.constant(f"{name}/scale", scales),
            self.graph.constant(f"{name}/zero", np.zeros(len(scales), stored.dtype)),
        ]
        self.node(helper.make_node("DequantizeLinear", inputs, [f"{name}/value"], axis=0))
        return f"{name}/value"

    def values(self, source: ByteTensor, name: str, axis: int) -> None:
        """Write the float tensor with its channels, along `axis`, multiplied again."""
        channels = source.channels
        if np.ptp(channels) == 0:
            self.dequantize(_undivided(source), name)
            return
        divided = self.dequantize(source, f"{name}/even")
        shape = [1, 1, 1, 1]
        shape[axis] = -1
        factors = self.graph.constant(f"{name}/channels", as_float32(channels).reshape(shape))
        self.node(helper.make_node("Mul", [divided, factors], [name]))

    def as_float(self, name: str, source: ByteTensor | None) -> str:
        """Return the name of a tensor as float, which is written once."""
        if source is None:
            return name
        if name not in self._floats:
            self._floats[name] = f"{name}/float"
            self.values(source, self._floats[name], axis=1)
        return self._floats[name]

    def _grid(self, name: str, tensor: ByteTensor) -> list[str]:
        return [
            self.graph.constant(f"{name}/scale", np.array(tensor.scale, np.float32)),
            self.graph.constant(f"{name}/zero", np.array(tensor.zero, np.uint8)),
        ]


def _undivided(tensor: ByteTensor) -> ByteTensor:
    """Return a tensor whose channels are divided by one number with that in its scale."""
    return replace(tensor, scale=tensor.scale * tensor.channels[0])


def _emit_copy(emitter: _Emitter, step: Copy) -> None:
    emitter.node(step.node)


def _emit_quantize(emitter: _Emitter, step: Quantize) -> None:
    emitter.quantize(step.name, _undivided(step.result))


def _emit_convolution(emitter: _Emitter, step: Convolve) -> None:
    name = step.node.output[0]
    inputs = [
        emitter.dequantize(step.source),
        emitter.dequantize_constant(f"{name}/weights", step.weights, step.weight_scales),
        emitter.dequantize_constant(f"{name}/bias", step.bias, step.bias_scales),
    ]
    emitter.node(node_like(step.node, inputs, [name]))
    emitter.quantize(name, step.result)


def _emit_requantize(emitter: _Emitter, step: Requantize) -> None:
    inputs = [emitter.dequantize(source) for source in step.sources]
    emitter.node(node_like(step.node, inputs, step.node.output))
    emitter.quantize(step.node.output[0], step.result)


def _emit_average(emitter: _Emitter, step: Average) -> None:
    name = step.node.output[0]
    weights = emitter.dequantize_constant(f"{name}/weights", step.weights, step.weight_scales)
    emitter.node(
        helper.make_node(
            "Conv",
            [emitter.dequantize(step.source), weights],
            [f"{name}/sum"],
            name=step.node.name,
            group=len(step.weights),
            kernel_shape=step.weights.shape[2:],
            pads=pads_of(step.node),
        )
    )
    if (step.edges == 1).all():
        emitter.quantize(f"{name}/sum", step.result)
        return
    part = replace(step.result, stored=f"{name}/part/bytes")
    emitter.quantize(f"{name}/sum", part)
    # (1, 1, height, width): the same for all images and channels
    edges = np.rint(step.edges * EDGE_UNITS).astype(np.uint8)[None, None]
    stored = emitter.graph.constant(f"{name}/edges", edges)
    factor = emitter.dequantize(ByteTensor(stored, 1 / EDGE_UNITS, 0, np.ones(1)))
    inputs = [emitter.dequantize(part), factor]
    emitter.node(helper.make_node("Mul", inputs, [f"{name}/whole"]))
    emitter.quantize(f"{name}/whole", step.result)


def _emit_transpose(emitter: _Emitter, step: TransposeBytes) -> None:
    name = step.node.output[0]
    moved = replace(step.source, stored=f"{name}/bytes")
    emitter.node(node_like(step.node, [step.source.stored], [moved.stored]))
    emitter.values(moved, name, axis=list(attribute(step.node, "perm", [])).index(1))


def _emit_float(emitter: _Emitter, step: KeepFloat) -> None:
    inputs = [emitter.as_float(name, step.sources.get(name)) for name in step.node.input]
    emitter.node(node_like(step.node, inputs, step.node.output))
    if step.activation is not None:
        emitter.node(step.activation)


EMITTERS: dict[type, Callable[[_Emitter, Any], None]] = {
    Copy: _emit_copy,
    Quantize: _emit_quantize,
    Convolve: _emit_convolution,
    Requantize: _emit_requantize,
    Average: _emit_average,
    TransposeBytes: _emit_transpose,
    KeepFloat: _emit_float,
}
