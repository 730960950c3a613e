"""Several networks as one graph, whose codes are side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx
from onnx import TensorProto, helper

from cnncodes.errors import ParameterError
from cnncodes.export.graph import rename_tensor
from cnncodes.extract.backbone import Backbone
from cnncodes.models.metadata import PART_CODES


def joined_shape(networks: Sequence[Backbone]) -> tuple[int, ...]:
    """Return the shape of an image's codes by one network, or by several side by side.

    Raises
    ------
    ParameterError
        The networks take images of different sizes.
    """
    if len(networks) == 1:
        return networks[0].code_shape
    sizes = [each.info.input_size for each in networks]
    if len(set(sizes)) > 1:
        named = " and ".join(
            f"{each.path} of {size}" for each, size in zip(networks, sizes, strict=True)
        )
        raise ParameterError(
            f"an app takes images of one size, and {named} pixels take different ones; export "
            "them with one input size, and with a network size where one is to see them in another"
        )
    return (sum(math.prod(each.code_shape) for each in networks),)


def side_by_side(models: Sequence[onnx.ModelProto], code_shape: Sequence[int]) -> onnx.ModelProto:
    """Join the graphs of networks of the same versions.

    Parameters
    ----------
    models : sequence of onnx.ModelProto
        From ``images`` to ``codes``, all of one size of image. The first is changed in place.
    code_shape : sequence of int
        Shape of an image's codes of all.

    Returns
    -------
    onnx.ModelProto
        From ``images`` to ``codes``, flattened and one after the other.
    """
    joined, parts = models[0], []
    graph = joined.graph
    for number, model in enumerate(models, start=1):
        prefix = f"network{number}/"
        if number > 1:
            model = onnx.compose.add_prefix(model, prefix)
            rename_tensor(model, f"{prefix}images", "images")
            graph.node.extend(model.graph.node)
            graph.initializer.extend(model.graph.initializer)
            _add_domains(joined, model)
        else:
            rename_tensor(model, "codes", f"{prefix}codes")
        flat = PART_CODES.format(number)
        graph.node.append(
            helper.make_node("Flatten", [f"{prefix}codes"], [flat], name=flat, axis=1)
        )
        parts.append(flat)
    # The last node of an exported network is named "codes", and names must differ.
    name = "networks/codes"
    graph.node.append(helper.make_node("Concat", parts, ["codes"], name=name, axis=1))
    del graph.output[:], graph.value_info[:]
    codes = helper.make_tensor_value_info("codes", TensorProto.FLOAT, ["N", *code_shape])
    graph.output.append(codes)
    return joined


def _add_domains(joined: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Declare the operator domains of a model that another lacks."""
    declared = {each.domain for each in joined.opset_import}
    joined.opset_import.extend(each for each in model.opset_import if each.domain not in declared)


def describe_parts(app: onnx.ModelProto, widths: Sequence[int]) -> None:
    """Describe the codes of each network in an app, by which its metadata are checked.

    The number of images is left open, since programs take a name for it for a fact.
    """
    app.graph.value_info.extend(
        helper.make_tensor_value_info(PART_CODES.format(number), TensorProto.FLOAT, [None, width])
        for number, width in enumerate(widths, start=1)
    )
