"""Keras with the settings that the export needs, whatever the user's are.

Keras reads ``keras.json`` and ``KERAS_BACKEND`` when it is imported, and a program may change its
settings later. None of them is changed for good.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np

from cnncodes.errors import MissingDependencyError
from cnncodes.text import first_line


@contextmanager
def own_keras(*, silent: bool = True) -> Iterator[Any]:
    """Yield Keras with the settings for which its networks are published.

    The user's ``keras.json``, ``KERAS_BACKEND`` or program may have others: another backend or
    precision, channels first. They are restored at the end, as are the states of the random
    generators.

    Parameters
    ----------
    silent : bool
        Whether nothing inside the block reaches standard output and standard error; else only the
        import is silenced.
    """
    with quiet():
        keras = _import_keras()
    with quiet() if silent else nullcontext():
        config = keras.config
        states = random.getstate(), np.random.get_state()
        settings: list[tuple[Callable[[Any], None], Any]] = [
            (config.set_floatx, config.floatx()),
            (config.set_image_data_format, config.image_data_format()),
            (config.set_dtype_policy, config.dtype_policy()),
        ]
        was_interactive = config.is_interactive_logging_enabled()
        log = logging.getLogger("tensorflow")
        level = log.level
        try:
            log.setLevel(logging.ERROR)  # it warns of batches of several sizes
            keras.backend.clear_session()  # layer names count on from one network to the next
            config.disable_interactive_logging()
            ours = ("float32", "channels_last", "float32")
            for (change, _), value in zip(settings, ours, strict=True):
                change(value)
            yield keras
        finally:
            log.setLevel(level)
            for change, value in settings:
                change(value)
            if was_interactive:
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
            f"{keras.config.backend()}; export in another process"
        )
    return keras


def keras_home() -> Path:
    """Return where Keras keeps its settings and downloads."""
    if "KERAS_HOME" in os.environ:
        return Path(os.environ["KERAS_HOME"]).expanduser()
    home = Path("~").expanduser()
    return (home if os.access(home, os.W_OK) else Path("/tmp")) / ".keras"


@contextmanager
def quiet() -> Iterator[None]:
    """Silence TensorFlow, Keras and tf2onnx.

    Much of it is written by C++ straight to file descriptors 1 and 2 before any logger can be
    configured, so the descriptors themselves are pointed at a file while the block runs.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    _flush()
    copies = []
    for descriptor in (1, 2):
        with suppress(OSError):  # closed
            copies.append((descriptor, os.dup(descriptor)))
    try:
        with tempfile.TemporaryFile() as sink:
            for descriptor, _ in copies:
                os.dup2(sink.fileno(), descriptor)
            yield
    finally:
        _flush()
        for descriptor, copy in copies:
            os.dup2(copy, descriptor)
            os.close(copy)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # None under pythonw
            stream.flush()
