"""A network's layers and weights as an ONNX model; nothing of Keras or TensorFlow is needed.

Layer by layer, each becomes the operators that tf2onnx and `simplify` leave of it:

1. Keras's ``preprocess_input`` comes first, on 8-bit RGB. All but it is in NCHW, and the codes are
   put into NHWC again.
2. Images of another size than the network's are resized in between, by two products of matrices.
3. Batch normalization is folded into the convolution before it, zero padding into the one after.
4. What does nothing to a trained network, dropout or a reshape to 1 × 1, becomes no operator.

A tensor has the name of the layer it is the output of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from cnncodes._version import __version__
from cnncodes.errors import WeightsError
from cnncodes.export.architectures import Layer
from cnncodes.export.backbones import OPSET
from cnncodes.export.graph import POOLS, TO_NCHW, TO_NHWC, Graph, as_float32
from cnncodes.export.keras_weights import Weights
from cnncodes.models.pooling import pooled_shape

IR_VERSION = 8  # of that opset
CAFFE_MEANS = (103.939, 116.779, 123.68)  # of blue, green and red
_PIXELS = ("input_layer", "rescaling", "normalization")


def build_graph(
    layers: Sequence[Layer],
    weights: Weights,
    preprocessing: str,
    pool: str,
    outputs: Sequence[str] = (),
    input_size: int | None = None,
) -> Graph:
    """Build the graph of a network.

    Parameters
    ----------
    layers : sequence of Layer
        The network.
    weights : dict of str to list of ndarray of float32
        The weights of each layer that has some, in Keras's order. Emptied, to save memory.
    preprocessing : {"scaled", "caffe", "none"}
        Of the pixels: to −1 … 1, to blue, green and red less their means, or none.
    pool : {"none", "avg", "max", "avg+max", "grid2"}
        Pooling of the codes over height and width, as `pool_codes`.
    outputs : sequence of str
        The layers whose outputs are the codes, by default the last of `layers`; of several the
        pooled outputs side by side.
    input_size : int, optional
        Height and width S of the images, by default those of the network's input.

    Returns
    -------
    Graph
        From ``images``, uint8 (N, S, S, 3), to ``codes``, float32 (N, h, w, c) or (N, n_codes).

    Raises
    ------
    WeightsError
        A weight is not a finite number.
    """
    outputs = outputs or [layers[-1].name]
    size, *_ = layers[0].shape
    input_size = input_size or size
    graph = Graph(_template((input_size, input_size, 3), code_shape(layers, outputs, pool)))
    resampling = None if input_size == size else resampling_matrix(input_size, size)
    _GraphWriter(graph, layers, weights, outputs, resampling).write(preprocessing, pool)
    return graph


def resampling_matrix(size_before: int, size_after: int) -> NDArray[np.float32]:
    """Return the matrix that resizes a row of pixels, as Pillow's bilinear filter does.

    Each pixel is a mean weighted by a triangle, as wide as two pixels of the coarser of both rows.

    Parameters
    ----------
    size_before, size_after : int
        Length of the row before and after.

    Returns
    -------
    ndarray of float32, shape (size_after, size_before)
        Its rows add up to 1.
    """
    scale = size_before / size_after
    centres = (np.arange(size_after)[:, np.newaxis] + 0.5) * scale
    distances = np.abs(np.arange(size_before) + 0.5 - centres) / max(scale, 1.0)
    weights = np.maximum(1 - distances, 0)
    return as_float32(weights / weights.sum(axis=1, keepdims=True))


def code_shape(layers: Sequence[Layer], outputs: Sequence[str], pool: str) -> tuple[int, ...]:
    """Return the shape of an image's codes."""
    shapes = {layer.name: pooled_shape(layer.shape, pool) for layer in layers}
    if len(outputs) == 1:
        return shapes[outputs[0]]
    return (sum(shapes[name][0] for name in outputs),)


def _template(input_shape: tuple[int, ...], code_shape: tuple[int, ...]) -> onnx.ModelProto:
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", *input_shape])
    codes = helper.make_tensor_value_info("codes", TensorProto.FLOAT, ["N", *code_shape])
    return helper.make_model(
        helper.make_graph([], "cnncodes", [images], [codes]),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="cnncodes",
        producer_version=__version__,
    )


class _GraphWriter:
    """Writes the layers of a network into a graph.

    Parameters
    ----------
    graph : Graph
        Receives nodes and constants.
    layers : sequence of Layer
        The network.
    weights : dict of str to list of ndarray
        Of its layers.
    outputs : sequence of str
        The layers whose outputs are the codes.
    resampling : ndarray of float32, shape (S', S), optional
        Resizes the images to those of the network.
    """

    def __init__(
        self,
        graph: Graph,
        layers: Sequence[Layer],
        weights: Weights,
        outputs: Sequence[str],
        resampling: NDArray[np.float32] | None,
    ) -> None:
        self._graph = graph
        self._layers = layers
        self._weights = weights
        self._outputs = outputs
        self._resampling = resampling
        readers = Counter([*outputs, *(name for layer in layers for name in layer.inputs)])
        # The layers that are the only one to read another, by the name of that other.
        self._only_reader = {
            name: layer for layer in layers for name in layer.inputs if readers[name] == 1
        }
        self._folded: dict[str, Layer] = {}  # zero padding, by the name of its convolution
        self._tensors: dict[str, str] = {}  # by the name of the layer that they are the output of

    def write(self, preprocessing: str, pool: str) -> None:
        """Write all, from the images to the codes."""
        is_nchw = False
        for layer in self._layers:
            if layer.kind not in _PIXELS and not is_nchw:
                (first,) = layer.inputs
                nchw = self._node("Transpose", f"{first}/nchw", self._tensors[first], perm=TO_NCHW)
                self._tensors[first], is_nchw = nchw, True
            if layer.kind == "input_layer":
                self._tensors[layer.name] = self._preprocess(preprocessing)
            elif layer.name not in self._tensors:  # as a batch normalization that is folded
                inputs = [self._tensors[each] for each in layer.inputs]
                self._tensors[layer.name] = _WRITERS[layer.kind](self, layer, *inputs)
        last, *others = [self._tensors[name] for name in self._outputs]
        if others or pool not in (*POOLS, "none"):
            self._write_side_by_side([last, *others], pool, is_nchw)
        elif pool in POOLS:
            axes = self._graph.constant("codes/axes", np.array([2, 3] if is_nchw else [1, 2]))
            self._node(POOLS[pool], "codes", last, axes, keepdims=0)
        elif is_nchw:
            self._node("Transpose", "codes", last, perm=TO_NHWC)
        else:
            self._node("Identity", "codes", last)

    def _write_side_by_side(self, tensors: Sequence[str], pool: str, is_nchw: bool) -> None:
        """Pool tensors in each way of `pool`, and put all of it side by side."""
        if not is_nchw:  # pixels alone
            nchw = [f"{name}/codes/nchw" for name in tensors]
            for name, output in zip(tensors, nchw, strict=True):
                self._node("Transpose", output, name, perm=TO_NCHW)
            tensors = nchw
        parts = [
            self._quarters(name)
            if each == "grid2"
            else self._node(
                *(POOLS[each], f"{name}/codes/{each}", name),
                self._graph.constant("codes/axes", np.array([2, 3])),
                keepdims=0,
            )
            for name in tensors
            for each in pool.split("+")
        ]
        if len(parts) > 1:
            self._node("Concat", "codes", *parts, axis=1)
        else:
            self._node("Identity", "codes", *parts)

    def _quarters(self, source: str) -> str:
        """Write the means of the quarters of a tensor in NCHW, row by row, as (N, 4 c)."""
        name = f"{source}/codes/grid2"
        *_, height, width = self._graph.shapes()[source]
        means = self._node(
            *("AveragePool", f"{name}/means", source),
            # Windows of ⌈n/2⌉ with a stride of ⌊n/2⌋ begin and end as `halves`.
            kernel_shape=[(height + 1) // 2, (width + 1) // 2],
            strides=[height // 2, width // 2],
            pads=[0, 0, 0, 0],
        )
        nhwc = self._node("Transpose", f"{name}/nhwc", means, perm=TO_NHWC)
        return self._node("Flatten", name, nhwc, axis=1)

    def _node(self, operator: str, output: str, *inputs: str, **attributes: Any) -> str:
        node = helper.make_node(operator, inputs, [output], name=output, **attributes)
        self._graph.nodes.append(node)
        return output

    def _constant(self, name: str, values: Any) -> str:
        return self._graph.constant(name, as_float32(values))

    def _preprocess(self, preprocessing: str) -> str:
        """Compute what Keras's ``preprocess_input`` does, in NHWC."""
        numbers = self._node("Cast", "pixels", "images", to=TensorProto.FLOAT)
        if self._resampling is not None:
            numbers = self._resized(numbers, self._resampling)
        if preprocessing == "scaled":
            return self._scaled("preprocessed", numbers, (1 / 127.5,), (-1.0,))
        if preprocessing == "caffe":
            ends = [self._graph.constant(f"channel/{each}", np.array([each])) for each in range(4)]
            channels = [
                self._node("Slice", f"pixels/{each}", numbers, ends[each], ends[each + 1], ends[3])
                for each in (2, 1, 0)
            ]
            numbers = self._node("Concat", "pixels/reversed", *channels, axis=3)
            return self._scaled("preprocessed", numbers, (1.0,), tuple(-m for m in CAFFE_MEANS))
        return numbers

    def _resized(self, source: str, matrix: NDArray[np.float32]) -> str:
        """Resize images in NHWC, first along columns and then along rows."""
        nchw = self._node("Transpose", "resized/nchw", source, perm=TO_NCHW)
        # (S', S) @ (N, 3, S, S) @ (S, S')
        left, right = self._constant("resized/left", matrix), matrix.T
        columns = self._node("MatMul", "resized/columns", left, nchw)
        both = self._node("MatMul", "resized", columns, self._constant("resized/right", right))
        return self._node("Transpose", "resized/nhwc", both, perm=TO_NHWC)

    def _scaled(
        self, name: str, source: str, scale: tuple[float, ...], shift: tuple[float, ...]
    ) -> str:
        """Compute x · scale + shift, without what changes nothing."""
        if set(scale) != {1.0}:
            source = self._node(
                "Mul", f"{name}/mul", source, self._constant(f"{name}/scale", scale)
            )
        if any(shift):
            source = self._node(
                "Add", f"{name}/add", source, self._constant(f"{name}/shift", shift)
            )
        return source

    def pixels(self, layer: Layer, source: str) -> str:
        """Write a layer that scales pixels."""
        return self._scaled(layer.name, source, layer.scale, layer.shift)

    def convolution(self, layer: Layer, source: str) -> str:
        """Write a convolution, with the batch normalization that alone reads it."""
        kernel, *rest = self._weights.pop(layer.name)
        is_depthwise = layer.kind == "depthwise_conv2d"
        # (kH, kW, C, 1) -> (C, 1, kH, kW), or (kH, kW, C, K) -> (K, C, kH, kW)
        kernel = kernel.transpose((2, 3, 0, 1) if is_depthwise else (3, 2, 0, 1))
        bias = rest[0] if rest else np.zeros(len(kernel), np.float32)
        last, reader = layer, self._only_reader.get(layer.name)
        if reader is not None and reader.kind == "batch_normalization" and not layer.function:
            kernel, bias = _normalized(kernel, bias, self._weights.pop(reader.name), reader.epsilon)
            last = reader
        _check_finite(layer.name, kernel, bias)
        padding = self._folded.get(layer.name)
        output = self._node(
            "Conv",
            f"{last.name}/conv" if layer.function else last.name,
            *(source, self._constant(f"{last.name}/weights", kernel)),
            self._constant(f"{last.name}/biases", bias),
            kernel_shape=layer.kernel,
            strides=layer.strides,
            pads=padding.pads if padding else layer.pads,
            group=len(kernel) if is_depthwise else 1,
        )
        output = self._activated(layer, output)
        self._tensors[last.name] = output
        return output

    def normalization(self, layer: Layer, source: str) -> str:
        """Write a batch normalization whose convolution is read by the codes too."""
        statistics = self._weights.pop(layer.name)
        ones, zeros = np.ones_like(statistics[-1]), np.zeros_like(statistics[-1])
        scale, shift = _normalized(
            ones[:, np.newaxis, np.newaxis, np.newaxis], zeros, statistics, layer.epsilon
        )
        _check_finite(layer.name, scale, shift)
        named = {"scale": scale.ravel(), "shift": shift, "mean": zeros, "variance": ones}
        constants = [self._constant(f"{layer.name}/{key}", each) for key, each in named.items()]
        return self._node("BatchNormalization", layer.name, source, *constants, epsilon=0.0)

    def activation(self, layer: Layer, source: str) -> str:
        """Write an activation."""
        return self._activated(layer, source)

    def _activated(self, layer: Layer, source: str) -> str:
        if layer.function == "relu6":
            ends = [self._constant("relu6/min", 0.0), self._constant("relu6/max", 6.0)]
            return self._node("Clip", layer.name, source, *ends)
        if layer.function == "silu":
            sigmoid = self._node("Sigmoid", f"{layer.name}/sigmoid", source)
            return self._node("Mul", layer.name, source, sigmoid)
        operators = {"relu": "Relu", "sigmoid": "Sigmoid"}
        if layer.function:
            return self._node(operators[layer.function], layer.name, source)
        return source

    def pool(self, layer: Layer, source: str) -> str:
        """Write a pool."""
        operator = "MaxPool" if layer.kind == "max_pooling2d" else "AveragePool"
        options = {"kernel_shape": layer.kernel, "strides": layer.strides, "pads": layer.pads}
        return self._node(operator, layer.name, source, **options)

    def padding(self, layer: Layer, source: str) -> str:
        """Write zero padding, or leave it to the convolution that alone reads it."""
        reader = self._only_reader.get(layer.name)
        if reader is not None and "conv2d" in reader.kind:
            self._folded[reader.name] = layer
            return source
        top, left, bottom, right = layer.pads
        pads = np.array([0, 0, top, left, 0, 0, bottom, right])
        return self._node(
            "Pad", layer.name, source, self._graph.constant(f"{layer.name}/pads", pads)
        )

    def mean(self, layer: Layer, source: str) -> str:
        """Write a mean over height and width, of which both stay, as 1 × 1."""
        return self._node("GlobalAveragePool", layer.name, source)

    def concatenation(self, layer: Layer, *sources: str) -> str:
        """Write a concatenation of channels."""
        return self._node("Concat", layer.name, *sources, axis=1)

    def addition(self, layer: Layer, *sources: str) -> str:
        """Write a sum."""
        return self._node("Add", layer.name, *sources)

    def product(self, layer: Layer, *sources: str) -> str:
        """Write a product."""
        return self._node("Mul", layer.name, *sources)

    def nothing(self, layer: Layer, source: str) -> str:
        """Leave out a layer whose output is its input."""
        return source


_WRITERS: dict[str, Callable[..., str]] = {
    "rescaling": _GraphWriter.pixels,
    "normalization": _GraphWriter.pixels,
    "conv2d": _GraphWriter.convolution,
    "batch_normalization": _GraphWriter.normalization,
    "depthwise_conv2d": _GraphWriter.convolution,
    "activation": _GraphWriter.activation,
    "re_lu": _GraphWriter.activation,
    "max_pooling2d": _GraphWriter.pool,
    "average_pooling2d": _GraphWriter.pool,
    "zero_padding2d": _GraphWriter.padding,
    "global_average_pooling2d": _GraphWriter.mean,
    "concatenate": _GraphWriter.concatenation,
    "add": _GraphWriter.addition,
    "multiply": _GraphWriter.product,
    "dropout": _GraphWriter.nothing,
    "reshape": _GraphWriter.nothing,
}


def _check_finite(name: str, *arrays: NDArray[np.float32]) -> None:
    if not all(np.isfinite(each).all() for each in arrays):
        raise WeightsError(f"the weights of layer {name} are not finite numbers")


def _normalized(
    kernel: NDArray[np.float32],
    bias: NDArray[np.float32],
    statistics: list[NDArray[np.float32]],
    epsilon: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fold a batch normalization into kernel (K, …) and bias (K,) of a convolution."""
    *gamma, beta, mean, variance = (each.astype(np.float64) for each in statistics)
    # A variance below 0 gives NaN and large weights overflow; both are refused afterwards.
    with np.errstate(invalid="ignore", over="ignore"):
        scale = (gamma[0] if gamma else 1.0) / np.sqrt(variance + epsilon)
        return (
            as_float32(kernel * scale[:, None, None, None]),
            as_float32(beta + (bias - mean) * scale),
        )
