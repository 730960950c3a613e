"""One of our float32 graphs in PyTorch: no more operators than the backbones have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F  # noqa: N812 - as all of PyTorch's world calls it

Attributes = dict[str, Any]


def read_graph(path: Path, dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    """Read an ONNX file.

    Parameters
    ----------
    path : Path
        A float32 backbone.
    dtype : torch.dtype
        In which convolutions compute; weights are kept in it, channels last.

    Returns
    -------
    callable
        From images to codes.

    Raises
    ------
    NotImplementedError
        The graph has an operator that is not here.
    """
    graph = onnx.load(str(path)).graph
    unknown = {node.op_type for node in graph.node} - OPERATORS.keys()
    if unknown:
        raise NotImplementedError(f"{path}: {', '.join(sorted(unknown))}")
    constants = {
        each.name: torch.from_numpy(onnx.numpy_helper.to_array(each).copy())
        for each in graph.initializer
    }
    for node in graph.node:
        if node.op_type == "Conv":
            for name in node.input[1:]:
                constants[name] = constants[name].to(dtype)
            weights = constants[node.input[1]]
            constants[node.input[1]] = weights.contiguous(memory_format=torch.channels_last)
    steps = [
        (
            OPERATORS[node.op_type],
            {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute},
            list(node.input),
            node.output[0],
        )
        for node in graph.node
    ]
    last_use = {name: number for number, step in enumerate(steps) for name in step[2]}
    first, last = graph.input[0].name, graph.output[0].name

    def run(images: torch.Tensor) -> torch.Tensor:
        values = {first: images}
        for number, (operator, attributes, inputs, output) in enumerate(steps):
            arguments = [values[name] if name in values else constants[name] for name in inputs]
            values[output] = operator(attributes, *arguments)
            for name in inputs:
                if last_use[name] == number:
                    values.pop(name, None)
        return values[last]

    return run


def _conv(
    attributes: Attributes, x: torch.Tensor, weights: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    x = x.to(weights.dtype)
    return F.conv2d(
        x,
        weights,
        bias,
        stride=attributes["strides"],
        padding=_padding(attributes),
        dilation=attributes["dilations"],
        groups=attributes["group"],
    )


def _average_pool(attributes: Attributes, x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(
        x,
        attributes["kernel_shape"],
        attributes["strides"],
        _padding(attributes),
        count_include_pad=bool(attributes.get("count_include_pad", 0)),
    )


def _max_pool(attributes: Attributes, x: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(x, attributes["kernel_shape"], attributes["strides"], _padding(attributes))


def _padding(attributes: Attributes) -> list[int]:
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    if (top, left) != (bottom, right):
        raise NotImplementedError("padding that differs between the sides")
    return [top, left]


def _slice(attributes: Attributes, x: torch.Tensor, *bounds: torch.Tensor) -> torch.Tensor:
    starts, ends, axes = (np.atleast_1d(each.numpy()) for each in bounds[:3])
    for start, end, axis in zip(starts, ends, axes, strict=True):
        length = x.shape[axis]
        x = x.narrow(int(axis), int(start), min(int(end), length) - int(start))
    return x


# A graph's images are NHWC; permuting their axes leaves the channels last in memory.
OPERATORS: dict[str, Callable[..., torch.Tensor]] = {
    "Add": lambda attributes, a, b: a + b,
    "AveragePool": _average_pool,
    "Cast": lambda attributes, x: x.float(),
    "Concat": lambda attributes, *parts: torch.cat(parts, attributes["axis"]),
    "Conv": _conv,
    "MaxPool": _max_pool,
    "Mul": lambda attributes, a, b: a * b,
    "Relu": lambda attributes, x: F.relu(x, inplace=True),
    "Slice": _slice,
    "Sub": lambda attributes, a, b: a - b,
    "Transpose": lambda attributes, x: x.permute(attributes["perm"]),
}
