"""A network of Keras, by way of Keras, TensorFlow and tf2onnx: the reference for `direct`.

1. ``keras.applications`` builds the network, which gets the weights.
2. It is cut after the wanted layer and pooled if asked for; Keras's own ``preprocess_input`` is
   put in front, so that the file takes plain 8-bit RGB.
3. tf2onnx converts it with its kernels as inputs, which become constants afterwards.
4. `simplify` removes operators and `use_winograd` makes convolutions quicker; input and output are
   named, the size of the batch stays free.

TensorFlow copies constants several times to freeze a graph, and tf2onnx copies all of them before
each of its optimizers; with the kernels among them InceptionV3, of 87 MB, took 6 GB.

This module and `keras_settings` alone import TensorFlow, Keras or tf2onnx, inside functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncodes._version import __version__
from cnncodes.export.architectures import Layer
from cnncodes.export.backbones import OPSET, BackboneSpec
from cnncodes.export.keras_weights import Weights


def keras_network(
    keras: Any,
    spec: BackboneSpec,
    layers: Sequence[Layer],
    weights: Weights,
    outputs: Sequence[str],
    pool: str,
) -> Any:
    """Build a network with Keras, cut after some layers and pooled.

    Parameters
    ----------
    keras : module
        From `own_keras`.
    spec : BackboneSpec
        Its row in the table.
    layers : sequence of Layer
        All its layers, in the order of Keras.
    weights : dict of str to list of ndarray of float32
        Their weights, in Keras's order.
    outputs : sequence of str
        The layers whose outputs become the codes, side by side.
    pool : {"none", "avg", "max", "avg+max", "grid2"}
        Pooling of the codes over height and width, as `pool_codes`.

    Returns
    -------
    keras.Model
        From preprocessed pixels to codes.
    """
    construct = getattr(keras.applications, spec.keras_class)
    network = construct(include_top=False, weights=None, input_shape=layers[0].shape)
    tensors = {}
    for ours, theirs in zip(layers, network.layers, strict=True):
        if ours.weights:
            theirs.set_weights(weights[ours.name])
        tensors[ours.name] = theirs.output
    pooled = [_pooled(keras, tensors[name], each) for name in outputs for each in pool.split("+")]
    codes = keras.layers.Concatenate()(pooled) if len(pooled) > 1 else pooled[0]
    return keras.Model(network.input, codes)


def _pooled(keras: Any, codes: Any, pool: str) -> Any:
    """Pool a tensor of Keras in one way."""
    if pool == "avg":
        return keras.layers.GlobalAveragePooling2D()(codes)
    if pool == "max":
        return keras.layers.GlobalMaxPooling2D()(codes)
    if pool == "grid2":
        _, height, width, _ = codes.shape
        windows = keras.layers.AveragePooling2D(
            ((height + 1) // 2, (width + 1) // 2), (height // 2, width // 2)
        )
        return keras.layers.Flatten()(windows(codes))
    return codes


def _preprocess(spec: BackboneSpec) -> Any:
    import keras

    return getattr(keras.applications, spec.keras_module).preprocess_input


def to_onnx(network: Any, spec: BackboneSpec, input_size: int, winograd: bool) -> Any:
    """Convert a network, with its preprocessing, to an ``onnx.ModelProto``.

    Parameters
    ----------
    network : keras.Model
        From `keras_network`.
    spec : BackboneSpec
        Its row in the table.
    input_size : int
        Height and width of the input, in pixels.
    winograd : bool
        Whether to use `use_winograd`.
    """
    from cnncodes.export.graph import Graph, rename_output
    from cnncodes.export.simplify import simplify
    from cnncodes.export.winograd import use_winograd

    model = _convert(network, spec, input_size)
    model = simplify(model)
    rename_output(model, "codes")
    if winograd:
        graph = Graph(model)
        use_winograd(graph)
        model = graph.model()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    unused = [each for each in model.opset_import if each.domain != ""]
    for each in unused:  # small runtimes refuse domains they do not know
        model.opset_import.remove(each)
    del model.graph.value_info[:]  # names the batch as the converter does
    model.graph.name = model.producer_name = "cnncodes"
    model.producer_version = __version__
    return model


def _convert(network: Any, spec: BackboneSpec, input_size: int) -> Any:
    """Convert a network by tf2onnx, of which kernels are inputs until the end.

    What it would compute on them is left to `simplify`: transposes, and the scales of batch
    normalization.
    """
    import keras
    import tensorflow
    import tf2onnx
    from onnx import numpy_helper

    kernels = {
        f"kernel_{number}": variable
        for number, variable in enumerate(network.weights)
        if len(variable.shape) == 4
    }
    signature = [
        tensorflow.TensorSpec((None, input_size, input_size, 3), "uint8", name="images"),
        *(tensorflow.TensorSpec(each.shape, "float32", name) for name, each in kernels.items()),
    ]

    def compute(images: Any, *values: Any) -> Any:
        pixels = _preprocess(spec)(keras.ops.cast(images, "float32"))
        with keras.StatelessScope(list(zip(kernels.values(), values, strict=True))):
            return network(pixels, training=False)

    function = tensorflow.function(compute, input_signature=signature, autograph=False)
    traced = function.get_concrete_function()
    # tf2onnx turns variables into constants, but tensors that the function refers to into inputs.
    captured = zip(traced.inputs[len(signature) :], traced.captured_inputs, strict=True)
    tensors = {each.name: value for each, value in captured if value.dtype != tensorflow.resource}
    model, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=OPSET)
    constants = {**kernels, **tensors}
    inputs = list(model.graph.input)
    del model.graph.input[:]
    for each in inputs:
        if each.name in constants:
            value = numpy_helper.from_array(np.asarray(constants[each.name]), each.name)
            model.graph.initializer.append(value)
        else:
            model.graph.input.append(each)
    return model


def keras_codes(network: Any, spec: BackboneSpec, images: NDArray[Any]) -> NDArray[np.float32]:
    """Compute codes with Keras, preprocessed in numpy rather than in the graph.

    Parameters
    ----------
    network : keras.Model
        From `keras_network`.
    spec : BackboneSpec
        Its row in the table.
    images : ndarray of uint8 or float32, shape (n, size, size, 3)
        The images, in the size of the network, with values from 0 to 255.

    Returns
    -------
    ndarray of float32, shape (n, h, w, c) or (n, c)
        Their codes.
    """
    prepared = _preprocess(spec)(images.astype(np.float32))
    codes: NDArray[np.float32] = network.predict(prepared, verbose=0)
    return codes
