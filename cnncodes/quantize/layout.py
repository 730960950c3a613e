"""The integer graph in shapes that onnxruntime's integer kernels are quick with.

Both rewrites take a `Graph` as `integer.quantize_graph` writes it, change it in place, and leave
every byte that is computed as it was. They turn tensors to NHWC and back; onnxruntime computes
integer convolutions in NHWC and removes what cancels, so that reshaping costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from cnncodes.export.graph import TO_NCHW, TO_NHWC, Graph, attribute, node_like, pads_of

# The kernel takes groups of 4 channels: four pixels of three channels are the least that is whole.
PIXELS_IN_GROUP = 4
# With so few places an image, weights are read again for too few of them.
FEW_PLACES = 64


def group_pixels(graph: Graph) -> bool:
    """Let the first convolution take four pixels of a row at once, as one of 12 channels.

    1. onnxruntime's quick kernel wants a multiple of 4 channels, and an image has 3. In NHWC
       four pixels are one of 12 channels without a byte being moved.
    2. A convolution with steps of 2 makes two places of such a group: both become channels of
       one place, with weights that are zero where a place does not look.
    3. The last group may reach beyond the image; what comes of that is cut off.

    Only a convolution of three channels without padding and with steps of 2 is taken.

    Returns
    -------
    bool
        Whether there was such a convolution.
    """
    producers, shapes = graph.producers(), graph.shapes()
    node = next((each for each in graph.nodes if each.op_type == "Conv"), None)
    if node is None or not _can_group(graph, node, shapes):
        return False
    values, rounded = producers[node.input[0]], graph.consumers()[node.output[0]][0]
    turned, result = producers[values.input[0]], rounded.output[0]
    _, n_channels, height, width = shapes[values.input[0]]
    _, n_out, n_rows, n_columns = shapes[node.output[0]]
    n_groups = width // PIXELS_IN_GROUP
    weights = _grouped_weights(graph.constants[producers[node.input[1]].input[0]])
    n_places = len(weights) // n_out
    n_convolved = -(-n_columns // n_places)

    taken, parameters = [f"{values.output[0]}/grouped"], []
    for name in node.input[1:]:
        made = producers[name]
        stored = (graph.constants[each] for each in made.input)
        repeated = [weights if each.ndim > 1 else np.tile(each, n_places) for each in stored]
        names = [
            graph.constant(f"{each}/grouped", value)
            for each, value in zip(made.input, repeated, strict=True)
        ]
        taken.append(f"{name}/grouped")
        parameters.append(node_like(made, names, taken[-1:]))
    convolution = helper.make_node(
        "Conv",
        taken,
        list(node.output),
        name=node.name,
        kernel_shape=weights.shape[2:],
        strides=[2, 1],
        pads=[0, 0, 0, n_convolved - (n_groups - weights.shape[3] + 1)],
    )
    pixels, many = f"{graph.input}/grouped", f"{result}/grouped"
    shape = [-1, height, n_groups, PIXELS_IN_GROUP * n_channels]
    whole = [-1, n_rows, n_convolved * n_places, n_out]
    ends = [
        graph.constant(f"{result}/{name}", np.array([number], np.int64))
        for name, number in (("first", 0), ("end", n_columns), ("axis", 2))
    ]
    _replace(
        graph,
        {
            turned.output[0]: [
                _reshape(graph, graph.input, pixels, shape),
                node_like(turned, [pixels], turned.output),
            ],
            values.output[0]: [node_like(values, values.input, taken[:1])],
            node.output[0]: [*parameters, convolution],
            result: [
                node_like(rounded, rounded.input, [many]),
                helper.make_node("Transpose", [many], [f"{many}/nhwc"], perm=TO_NHWC),
                _reshape(graph, f"{many}/nhwc", f"{result}/whole", whole),
                helper.make_node("Slice", [f"{result}/whole", *ends], [f"{result}/nhwc"]),
                helper.make_node("Transpose", [f"{result}/nhwc"], [result], perm=TO_NCHW),
            ],
        },
    )
    return True


def _can_group(graph: Graph, node: onnx.NodeProto, shapes: dict[str, list[int]]) -> bool:
    producers = graph.producers()
    if not _is_integer(node, producers, graph.consumers()):
        return False
    pixels = producers[node.input[0]].input[0]
    turned = producers.get(pixels)
    return (
        turned is not None
        and turned.op_type == "Transpose"
        and turned.input[0] == graph.input
        and shapes[pixels][1] == 3
        and shapes[pixels][3] % PIXELS_IN_GROUP == 0
        and not any(pads_of(node))
        and attribute(node, "group", 1) == 1
        and list(attribute(node, "strides", [1, 1])) == [2, 2]
        and all(step == 1 for step in attribute(node, "dilations", [1, 1]))
        and attribute(node, "auto_pad", b"NOTSET") == b"NOTSET"
    )


def _grouped_weights(weights: NDArray[np.int8]) -> NDArray[np.int8]:
    """Return the weights of a convolution by groups of pixels, for all places a group makes."""
    n_out, n_channels, height, width = weights.shape
    n_places = PIXELS_IN_GROUP // 2
    n_read = -(-(2 * (n_places - 1) + width) // PIXELS_IN_GROUP)
    # By place, output, pixel in the group, channel, row and group.
    spread = np.zeros((n_places, n_out, PIXELS_IN_GROUP, n_channels, height, n_read), np.int8)
    for place in range(n_places):
        for column in range(width):
            group, pixel = divmod(2 * place + column, PIXELS_IN_GROUP)
            spread[place, :, pixel, :, :, group] = weights[..., column]
    return spread.reshape(n_places * n_out, PIXELS_IN_GROUP * n_channels, height, n_read)


def fold_batch(graph: Graph) -> int:
    """Stack the images of a batch where they are small, for convolutions that look along a row.

    onnxruntime convolves one image after another, and 5 × 5 places are too few to make good use
    of the weights it has read. Where a window is one row high, a batch of images is one high
    image: in NHWC that is a matter of names.

    Returns
    -------
    int
        Number of convolutions that take a batch as one image.
    """
    producers, consumers, shapes = graph.producers(), graph.consumers(), graph.shapes()
    replaced: dict[str, list[onnx.NodeProto]] = {}
    stacked: dict[str, str] = {}  # bytes of a batch, by those of its images
    folded = 0
    for node in graph.nodes:
        if (
            node.op_type != "Conv"
            or not _is_integer(node, producers, consumers)
            or graph.constants[producers[node.input[1]].input[0]].shape[2] != 1
            or not _keeps_rows(node, shapes)
        ):
            continue
        values, rounded = producers[node.input[0]], consumers[node.output[0]][0]
        source, result = values.input[0], rounded.output[0]
        before: list[onnx.NodeProto] = []
        if source not in stacked:
            stacked[source] = f"{source}/stacked"
            _, n_channels, _, width = shapes[source]
            before = _by_way_of_nhwc(graph, source, stacked[source], [1, -1, width, n_channels])
        taken = f"{node.output[0]}/values"
        replaced[node.output[0]] = [
            *before,
            node_like(values, [stacked[source], *values.input[1:]], [taken]),
            node_like(node, [taken, *node.input[1:]], node.output),
        ]
        stacked[result] = f"{result}/stacked"
        _, n_out, height, width = shapes[node.output[0]]
        replaced[result] = [
            node_like(rounded, rounded.input, [stacked[result]]),
            *_by_way_of_nhwc(graph, stacked[result], result, [-1, height, width, n_out]),
        ]
        folded += 1
    _replace(graph, replaced)
    return folded


def _is_integer(
    node: onnx.NodeProto,
    producers: dict[str, onnx.NodeProto],
    consumers: dict[str, list[onnx.NodeProto]],
) -> bool:
    """Whether all that a convolution reads and makes is bytes."""
    readers = consumers[node.output[0]]
    return len(readers) == 1 and [
        *(producers[name].op_type if name in producers else "" for name in node.input),
        readers[0].op_type,
    ] == [*["DequantizeLinear"] * len(node.input), "QuantizeLinear"]


def _keeps_rows(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> bool:
    """Whether a window one row high makes a row of each row, of which there are few."""
    _, _, height, width = shapes[node.output[0]]
    pads = pads_of(node)
    return (
        0 < height * width <= FEW_PLACES
        and attribute(node, "strides", [1, 1])[0] == 1
        and pads[0] == pads[2] == 0
        and attribute(node, "auto_pad", b"NOTSET") == b"NOTSET"
    )


def _reshape(graph: Graph, source: str, result: str, shape: Sequence[int]) -> onnx.NodeProto:
    name = graph.constant(f"{result}/shape", np.array(shape, np.int64))
    return helper.make_node("Reshape", [source, name], [result])


def _by_way_of_nhwc(
    graph: Graph, source: str, result: str, shape: Sequence[int]
) -> list[onnx.NodeProto]:
    """Give a tensor another shape in NHWC."""
    return [
        helper.make_node("Transpose", [source], [f"{result}/from"], perm=TO_NHWC),
        _reshape(graph, f"{result}/from", f"{result}/nhwc", shape),
        helper.make_node("Transpose", [f"{result}/nhwc"], [result], perm=TO_NCHW),
    ]


def _replace(graph: Graph, replaced: dict[str, list[onnx.NodeProto]]) -> None:
    """Put other nodes in the place of those that make some tensors; drop what nobody reads."""
    nodes = [other for node in graph.nodes for other in replaced.get(node.output[0], [node])]
    read, kept = {graph.output}, []
    for node in reversed(nodes):
        if read.intersection(node.output):
            read.update(node.input)
            kept.append(node)
    graph.nodes = kept[::-1]
