"""What a node of a float graph can become: one class per decision of `plan`, written by `qdq`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

EDGE_UNITS = 100  # with a window of 3, the factor that corrects the padding is 1, 1.5 or 2.25


@dataclass(frozen=True)
class ByteTensor:
    """A tensor in 8 bits: value = (byte − zero) · scale · channels.

    Attributes
    ----------
    stored : str
        Name of the uint8 tensor.
    scale : float
        One for the tensor.
    zero : int
        The zero point.
    channels : ndarray of float64, shape (n_channels,) or (1,)
        Divisor of each channel.
    """

    stored: str
    scale: float
    zero: int
    channels: NDArray[np.float64]


@dataclass(frozen=True)
class Copy:
    """A node that moves bytes of the image stays as it is."""

    node: onnx.NodeProto


@dataclass(frozen=True)
class Quantize:
    """A float tensor is stored in 8 bits, all channels divided by one number."""

    name: str
    result: ByteTensor


@dataclass(frozen=True)
class Convolve:
    """An integer convolution.

    `weights` is int8 of shape (n_out, n_in / groups, height, width), `bias` int32 of shape
    (n_out,); their scales have one number per output channel.
    """

    node: onnx.NodeProto
    source: ByteTensor
    weights: NDArray[np.int8]
    weight_scales: NDArray[np.float32]
    bias: NDArray[np.int32]
    bias_scales: NDArray[np.float32]
    result: ByteTensor


@dataclass(frozen=True)
class Requantize:
    """A sum, pool or concatenation reads and writes 8 bits; the operator is as it was."""

    node: onnx.NodeProto
    sources: list[ByteTensor]
    result: ByteTensor


@dataclass(frozen=True)
class Average:
    """An average pool becomes a convolution channel by channel.

    `weights` is int8 of shape (n_channels, 1, height, width), all equal. `edges`, of the shape
    of the result's height and width, is the window's size by its pixels inside the image.
    """

    node: onnx.NodeProto
    source: ByteTensor
    weights: NDArray[np.int8]
    weight_scales: NDArray[np.float32]
    edges: NDArray[np.float64]
    result: ByteTensor


@dataclass(frozen=True)
class TransposeBytes:
    """Bytes are transposed, then become floats: the output of most networks."""

    node: onnx.NodeProto
    source: ByteTensor


@dataclass(frozen=True)
class KeepFloat:
    """A node stays float; `sources` are its inputs that are stored in 8 bits, by name.

    `activation` was to be absorbed by the node and now follows it.
    """

    node: onnx.NodeProto
    sources: dict[str, ByteTensor]
    activation: onnx.NodeProto | None


Step = Copy | Quantize | Convolve | Requantize | Average | TransposeBytes | KeepFloat
