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
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

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


def save_codes(
    keras_class: str, module: str, images: np.ndarray, path: Path, trained: bool
) -> None:
    """Build a network by Keras's public functions from the seed of `export`; save its codes.

    Its weights are saved beside them. With `trained` it has statistics like those of training.
    """
    import keras

    keras.utils.set_random_seed(0)
    network = getattr(keras.applications, keras_class)(
        include_top=False, weights=None, input_shape=images.shape[1:]
    )
    for layer in network.layers:
        if trained and isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([np.random.uniform(0.5, 1.5, each.shape) for each in layer.weights])
    prepared = getattr(keras.applications, module).preprocess_input(images.astype("float32"))
    np.save(path, network.predict(prepared, verbose=0))
    network.save_weights(f"{path}.weights.h5")


def try_weight_files(name: str, size: int, folder: Path) -> None:
    """Save a network in all the ways of Keras, and load each file into another network.

    Prints, for each file, the largest difference of the codes, or why it was refused.
    """
    import keras

    from cnncodes.errors import WeightsError
    from cnncodes.export.backbones import BACKBONES
    from cnncodes.export.keras_weights import load_weights

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
            loaded.set_weights([np.zeros(each.shape) for each in loaded.weights])
            try:
                load_weights(loaded, path, name)
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

    from cnncodes.export.keras_onnx import export_backbone

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
    """Export with ImageNet's weights, where Keras finds a file of them at once."""
    import keras.src.utils.file_utils as keras_files

    os.environ["KERAS_HOME"] = str(home)
    keras_files.get_file = lambda name, *_, **__: str(home / "models" / name)
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
