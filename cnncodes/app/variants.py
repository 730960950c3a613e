"""What the graph of an app can be besides the joined one: of half the size, or of a fixed batch.

Each function changes a model in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cnncodes.errors import ParameterError

FLOAT16_MAX = float(np.finfo(np.float16).max)
# Weights of fewer numbers, and scales and biases, which have one axis, take next to no room.
_FEWEST = 1024


def halve_weights(model: onnx.ModelProto) -> int:
    """Store the large float32 weights of a model as float16, each with a Cast to float32 behind it.

    Runtimes compute in float32 as before; most of them run the Cast once, at loading.

    Parameters
    ----------
    model : onnx.ModelProto
        The model.

    Returns
    -------
    int
        Number of tensors that are now float16; 0 where the model has no large ones.

    Raises
    ------
    ParameterError
        A weight exceeds what float16 can hold, or is not finite.
    """
    inputs = {each.name for each in model.graph.input}  # which another value may replace
    casts = []
    for weight in model.graph.initializer:
        is_large = len(weight.dims) > 1 and np.prod(weight.dims) >= _FEWEST
        if weight.data_type != TensorProto.FLOAT or not is_large or weight.name in inputs:
            continue
        values = numpy_helper.to_array(weight)
        largest = float(np.abs(values).max())
        if not largest <= FLOAT16_MAX:  # true for NaN
            raise ParameterError(
                f"half=True: the weight {weight.name!r} reaches {largest:.3g}, and float16 ends at "
                f"{FLOAT16_MAX:,.0f}; bundle it with float32 weights"
            )
        name, stored = weight.name, f"{weight.name}/float16"
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), stored))
        casts.append(helper.make_node("Cast", [stored], [name], name=stored, to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return len(casts)


def fix_batch(model: onnx.ModelProto, n_images: int) -> None:
    """Have a model take and return this number of images, neither more nor fewer.

    Parameters
    ----------
    model : onnx.ModelProto
        The model, whose inputs and outputs have the images on their first axis.
    n_images : int
        The number.
    """
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = n_images


def compare_answers(
    first: onnx.ModelProto,
    second: onnx.ModelProto,
    images: Sequence[NDArray[np.uint8]],
    thresholds: Sequence[float] = (),
) -> dict[str, Any]:
    """Compare the probabilities of two apps.

    Parameters
    ----------
    first, second : onnx.ModelProto
        The apps, both of any number of images.
    images : sequence of ndarray of uint8, shape (input_size, input_size, 3)
        What they are compared on.
    thresholds : sequence of float
        Of apps of several labels per image, the probability from which it has each.

    Returns
    -------
    dict of str to JSON types
        ``n_images``, ``n_same_label`` and ``largest_difference`` of a probability.
    """
    import onnxruntime

    answers = []
    for model in (first, second):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        rows = [session.run(["probabilities"], {"images": each[np.newaxis]})[0] for each in images]
        answers.append(np.concatenate(rows))
    if thresholds:
        labels = [each >= np.array(thresholds, np.float32) for each in answers]
    else:
        labels = [each.argmax(axis=1, keepdims=True) for each in answers]
    return {
        "n_images": len(images),
        "n_same_label": int((labels[0] == labels[1]).all(axis=1).sum()),
        "largest_difference": float(f"{np.abs(answers[0] - answers[1]).max():.3g}"),
    }
