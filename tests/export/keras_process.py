"""What needs Keras, in processes that fork from one in which TensorFlow is loaded already.

Loading it takes longer than building most networks, and the tests need it dozens of times.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import h5py
import numpy as np

_LOADED = multiprocessing.get_context("forkserver")
_LOADED.set_forkserver_preload(["keras", "tensorflow", "tf2onnx"])


class KerasProcess:
    """A function that runs in a process of its own; what it prints goes to two files."""

    def __init__(self, function: Callable[..., object], *arguments: object, log: Path) -> None:
        self._logs = [log.with_name(f"{log.name}.{stream}") for stream in ("stdout", "stderr")]
        self._process = _LOADED.Process(target=_run, args=(self._logs, function, arguments))
        self._process.start()

    def result(self) -> CompletedProcess[str]:
        """Wait for the end of it."""
        self._process.join()
        texts = [log.read_text("utf-8") for log in self._logs]
        return CompletedProcess([], self._process.exitcode or 0, *texts)


def run_with_keras(function: Callable[..., object], *arguments: object) -> CompletedProcess[str]:
    """Run a function in such a process, and wait."""
    with tempfile.TemporaryDirectory() as folder:
        return KerasProcess(function, *arguments, log=Path(folder) / "log").result()


def command(*arguments: str) -> None:
    """Run a command of cnncodes."""
    from cnncodes.cli import main

    main(arguments, prog_name="cnncodes")


def save_codes(name: str, images: np.ndarray, path: Path, trained: bool) -> None:
    """Build a network by Keras's public functions, with our random weights; save its codes.

    Its weights are saved beside them. With `trained` it has statistics like those of training.
    """
    import keras

    from cnncodes.export.architectures import layers_of
    from cnncodes.export.backbones import BACKBONES
    from cnncodes.export.weights import random_weights

    spec = BACKBONES[name]
    network = getattr(keras.applications, spec.keras_class)(
        include_top=False, weights=None, input_shape=images.shape[1:]
    )
    weights = random_weights(layers_of(name, images.shape[1]), 0)
    network.set_weights([each for arrays in weights.values() for each in arrays])
    for layer in network.layers:
        if trained and isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([np.random.uniform(0.5, 1.5, each.shape) for each in layer.weights])
    prepare = getattr(keras.applications, spec.keras_module).preprocess_input
    prepared = prepare(images.astype("float32"))
    np.save(path, network.predict(prepared, verbose=0))
    network.save_weights(f"{path}.weights.h5")


def save_layers(networks: list[tuple[str, str, int]], path: Path) -> None:
    """Save what Keras says of each layer of networks: name, Keras class and input size of each."""
    import keras

    found = []
    for _, keras_class, size in networks:
        keras.backend.clear_session()
        network = getattr(keras.applications, keras_class)(
            include_top=False, weights=None, input_shape=(size, size, 3)
        )
        found.append([_described(layer) for layer in network.layers])
    path.write_text(json.dumps(found))


def _described(layer: Any) -> dict[str, Any]:
    """Describe a layer of Keras by its configuration, as far as it matters for codes."""
    config = layer.get_config()
    wanted = ("kernel_size", "pool_size", "strides", "padding", "activation", "epsilon", "axis")
    wanted += ("dilation_rate", "groups", "depth_multiplier", "max_value", "negative_slope")
    wanted += ("threshold", "scale", "offset", "mean", "variance")
    inputs = layer.input if isinstance(layer.input, list) else [layer.input]
    initializer = config.get("depthwise_initializer") or config.get("kernel_initializer") or {}
    return {
        "name": layer.name,
        "kind": type(layer).__name__,
        "inputs": [each._keras_history[0].name for each in inputs],
        "shape": list(layer.output.shape[1:]),
        "weights": [list(each.shape) for each in layer.weights],
        "initializer": initializer.get("class_name"),
        **{key: np.asarray(config[key]).tolist() for key in wanted if config.get(key) is not None},
    }


def well_conditioned(name: str, size: int) -> dict[str, list[np.ndarray]]:
    """Return random weights with which float32 computes codes as well as with trained ones.

    With those that Keras draws for EfficientNet it does not: without training it is chaotic.
    """
    from cnncodes.export.architectures import layers_of
    from cnncodes.export.weights import random_weights

    layers = [replace(layer, initializer="glorot") for layer in layers_of(name, size)]
    return random_weights(layers, 0)


def save_reference(name: str, images: np.ndarray, folder: Path) -> None:
    """Save the codes of a network in double and single precision, and its weights.

    Twice: with `well_conditioned` weights, and with statistics in the batch normalization too.
    These weights are saved in Keras 3's layout and, as Keras publishes them, in that of Keras 1,
    of a network that is not the first of the process.
    """
    import keras
    from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

    from cnncodes.export.backbones import BACKBONES

    def build() -> Any:
        construct = getattr(keras.applications, spec.keras_class)
        return construct(include_top=False, weights=None, input_shape=images.shape[1:])

    spec = BACKBONES[name]
    prepare = getattr(keras.applications, spec.keras_module).preprocess_input
    build()
    single = build()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    double = build()
    weights = well_conditioned(name, images.shape[1])
    single.set_weights([each for arrays in weights.values() for each in arrays])
    random = np.random.default_rng(0)
    for label in ("random", "trained"):
        if label == "trained":
            for layer in single.layers:
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.set_weights([random.uniform(0.5, 1.5, w.shape) for w in layer.weights])
        double.set_weights(single.get_weights())
        for network, dtype in ((single, "float32"), (double, "float64")):
            codes = network.predict(prepare(images.astype(dtype)), verbose=0)
            np.save(folder / f"{label}.{dtype}.npy", codes)
    single.save_weights(folder / "keras3.weights.h5")
    with h5py.File(folder / "notop.h5", "w") as file:
        save_weights_to_hdf5_group(file, single)


def try_weight_files(name: str, size: int, folder: Path) -> None:
    """Save a network in all the ways of Keras, and load each file into another network.

    Prints, for each file, the largest difference of the codes, or why it was refused.
    """
    import keras

    from cnncodes.errors import WeightsError
    from cnncodes.export.architectures import layers_of
    from cnncodes.export.backbones import BACKBONES
    from cnncodes.export.keras_weights import read_weights

    spec = BACKBONES[name]
    construct = getattr(keras.applications, spec.keras_class)
    images = np.random.default_rng(0).uniform(-1, 1, (2, size, size, 3)).astype(np.float32)

    def network(**options: object) -> keras.Model:
        arguments = {
            "include_top": False,
            "weights": None,
            "input_shape": (size, size, 3),
            **options,
        }
        return construct(**arguments)

    loaded, results = network(), {}
    for label, model, inner in _models_around(network, size):
        _randomize(inner, seed=len(results))
        expected = keras.Model(inner.inputs, _codes_of(inner))(images).numpy()
        for ending in (".weights.h5", ".keras", ".h5"):
            path = folder / f"{label}{ending}"
            (model.save_weights if ending == ".weights.h5" else model.save)(path)
            try:
                weights = read_weights(layers_of(name, size), path, name)
                loaded.set_weights([each for layer in weights.values() for each in layer])
                codes = loaded(images).numpy()
                results[path.name] = float(np.abs(codes - expected).max() / np.abs(expected).max())
            except WeightsError as error:
                results[path.name] = str(error)
            path.unlink()
    sys.stdout.write(json.dumps(results))


def _models_around(network: Callable[..., Any], size: int) -> Iterator[tuple[str, Any, Any]]:
    """Yield models that people make of a network, each with its name and the network."""
    from keras import Input, Model, Sequential, layers

    shape = (size, size, 3)
    alone = network()
    yield "alone", alone, alone
    with_top = network(include_top=True)
    yield "with-top", with_top, with_top
    continued = layers.Dense(3)(layers.GlobalAveragePooling2D()(alone.output))
    yield "continued", Model(alone.input, continued), alone
    nested = Sequential([Input(shape), alone, layers.GlobalAveragePooling2D(), layers.Dense(3)])
    yield "nested", nested, alone
    prepared = [Input(shape), layers.Rescaling(1 / 255), layers.RandomFlip()]
    yield "nested-twice", Sequential([*prepared, nested]), alone
    images = Input(shape)
    statistics = layers.Normalization()
    statistics.adapt(np.random.default_rng(0).uniform(size=(2, *shape)).astype(np.float32))
    before = layers.BatchNormalization()(layers.Conv2D(3, 1)(statistics(images)))
    later = network()  # whose layers are counted on from the first
    yield "behind-others", Model(images, layers.Flatten()(later(before))), later
    for layer in alone.layers[: len(alone.layers) // 2]:
        layer.trainable = False
    yield "half-frozen", nested, alone
    for layer in alone.layers:
        layer.trainable = not isinstance(layer, layers.BatchNormalization)
    yield "normalization-frozen", nested, alone
    both = layers.Concatenate()([later(images), network(name="again")(images)])
    yield "two", Model(images, both), later


def _codes_of(model: Any) -> Any:
    """Return the output of a network before its top, if it has one."""
    last = [layer for layer in model.layers if len(layer.output.shape) == 4][-1]
    return last.output


def _randomize(model: Any, seed: int) -> None:
    """Set distinct weights, scaled so that codes stay moderate."""
    random = np.random.default_rng(seed)
    model.set_weights(
        [
            random.uniform(0.5, 1.5, each.shape)
            if len(each.shape) == 1
            else random.normal(0, np.prod(each.shape[:-1]) ** -0.5, each.shape)
            for each in model.weights
        ]
    )


def export_as_a_program(path: Path) -> None:
    """Export in a program with settings of its own, and print these afterwards."""
    import random

    import keras

    from cnncodes.export.export import export_backbone

    keras.config.set_floatx("float16")
    keras.config.set_image_data_format("channels_first")
    keras.config.set_dtype_policy("mixed_bfloat16")
    random.seed(1)
    np.random.seed(1)
    export_backbone("vgg16", path, weights="random", input_size=32)
    drawn = [random.random(), np.random.random()]
    random.seed(1)
    np.random.seed(1)
    results = {
        "floatx": keras.config.floatx(),
        "image_data_format": keras.config.image_data_format(),
        "dtype_policy": keras.config.dtype_policy().name,
        "logging": keras.config.is_interactive_logging_enabled(),
        "random": drawn == [random.random(), np.random.random()],
    }
    sys.stdout.write(json.dumps(results))


def export_without_download(path: Path, home: Path) -> None:
    """Export with the weights in Keras's cache, which are not ImageNet's but pass as such."""
    from cnncodes.export.backbones import BACKBONES

    spec = BACKBONES["vgg16"]
    cached = home / "models" / spec.weights_file
    BACKBONES["vgg16"] = replace(spec, weights_bytes=cached.stat().st_size, weights_checksum="")
    os.environ["KERAS_HOME"] = str(home)
    command("export", "vgg16", "--input-size", "32", "-o", str(path))


def print_refused(sizes: list[list[object]]) -> None:
    """Print the Keras classes, and input sizes, that Keras refuses."""
    import keras

    refused = []
    for keras_class, size in sizes:
        try:
            getattr(keras.applications, keras_class)(
                include_top=False, weights=None, input_shape=(size, size, 3)
            )
        except ValueError:
            refused.append([keras_class, size])
    sys.stdout.write(json.dumps(refused))


def _run(logs: list[Path], function: Callable[..., object], arguments: tuple[object, ...]) -> None:
    for descriptor, log in enumerate(logs, start=1):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), descriptor)
    function(*arguments)
