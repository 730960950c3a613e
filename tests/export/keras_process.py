"""What needs Keras, in processes that fork from one in which TensorFlow is loaded already.

Loading it takes longer than building most networks, and the tests need it dozens of times.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

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
    """Run a command of ours."""
    from cnncodes.cli import main

    main(arguments, prog_name="cnncodes")


def save_codes(
    keras_class: str, module: str, images: np.ndarray, path: Path, trained: bool
) -> None:
    """Build a network from the same seed as we do, by Keras's public functions; save its codes.

    Beside them go its weights. `trained` gives it statistics such as training leaves.
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
