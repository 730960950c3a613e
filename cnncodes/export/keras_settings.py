"""Keras as the export needs it, whatever the user's settings are.

Keras reads ``keras.json`` and ``KERAS_BACKEND`` when it is imported, and a program may change its
settings later. None of that is written or lost.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from cnncodes.errors import MissingDependencyError
from cnncodes.text import first_line


@contextmanager
def own_keras() -> Iterator[Any]:
    """Give Keras, quiet, with the settings that its networks are published for.

    The user's ``keras.json``, ``KERAS_BACKEND`` or program may have others: another backend or
    precision, channels first. They are not written, and stand again when the block ends, as do
    the states of the random generators.
    """
    with _quiet():
        keras = _import_keras()
        config = keras.config
        states = random.getstate(), np.random.get_state()
        kept: list[tuple[Callable[[Any], None], Any]] = [
            (config.set_floatx, config.floatx()),
            (config.set_image_data_format, config.image_data_format()),
            (config.set_dtype_policy, config.dtype_policy()),
        ]
        talks = config.is_interactive_logging_enabled()
        try:
            keras.backend.clear_session()  # layer names count on from one network to the next
            config.disable_interactive_logging()
            for (change, _), value in zip(
                kept, ("float32", "channels_last", "float32"), strict=True
            ):
                change(value)
            yield keras
        finally:
            for change, value in kept:
                change(value)
            if talks:
                config.enable_interactive_logging()
            random.setstate(states[0])
            np.random.set_state(states[1])


def _import_keras() -> Any:
    """Import Keras on TensorFlow, whatever backend the user's settings name."""
    backend = os.environ.get("KERAS_BACKEND")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    try:
        import keras
    except Exception as error:  # it raises errors of many classes for settings it cannot use
        raise MissingDependencyError(
            f"Keras cannot be imported ({first_line(error)}); look at "
            f"{keras_home() / 'keras.json'}, or let KERAS_HOME name another folder"
        ) from error
    finally:
        if backend is None:
            del os.environ["KERAS_BACKEND"]
        else:
            os.environ["KERAS_BACKEND"] = backend
    if keras.config.backend() != "tensorflow":
        raise MissingDependencyError(
            f"export needs Keras on TensorFlow, and this process has imported it on "
            f"{keras.config.backend()}; run cnncodes export in a process of its own"
        )
    return keras


def keras_home() -> Path:
    """Return where Keras keeps its settings and downloads."""
    if "KERAS_HOME" in os.environ:
        return Path(os.environ["KERAS_HOME"]).expanduser()
    home = Path("~").expanduser()
    return (home if os.access(home, os.W_OK) else Path("/tmp")) / ".keras"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep TensorFlow's, Keras's and tf2onnx's chatter off the terminal.

    Much of it is written by C++ straight to file descriptors 1 and 2 before any logger can be
    configured, so the descriptors themselves are pointed at a file while the block runs.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    _flush()
    kept = []
    for descriptor in (1, 2):
        with suppress(OSError):  # it is closed
            kept.append((descriptor, os.dup(descriptor)))
    try:
        with tempfile.TemporaryFile() as sink:
            for descriptor, _ in kept:
                os.dup2(sink.fileno(), descriptor)
            yield
    finally:
        _flush()
        for descriptor, copy in kept:
            os.dup2(copy, descriptor)
            os.close(copy)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # as it is under pythonw
            stream.flush()
