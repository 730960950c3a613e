"""The weights to export a network with: Keras's for ImageNet, random ones, or those of a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path

import numpy as np

from cnncodes.download import download, fault_of
from cnncodes.errors import WeightsError
from cnncodes.export.architectures import Layer
from cnncodes.export.backbones import BackboneSpec
from cnncodes.export.keras_settings import keras_home
from cnncodes.export.keras_weights import Weights, check_weights_kind, read_weights
from cnncodes.files import is_file, sha256_of
from cnncodes.parameters import as_path
from cnncodes.progress import Progress


def describe_weights(spec: BackboneSpec, weights: str, seed: int) -> str:
    """Return the origin of weights, as the metadata name it.

    Parameters
    ----------
    spec : BackboneSpec
        The network.
    weights : str
        ``imagenet``, ``random`` or the path of a file.
    seed : int
        Seed of random weights.

    Returns
    -------
    str
        ``imagenet``, ``random:SEED`` or ``file:SHA256``.

    Raises
    ------
    WeightsError
        The file is absent or cannot be read.
    """
    if weights == "imagenet":
        return weights
    if weights == "random":
        return f"random:{seed}"
    path = as_path(weights, "weights")
    check_weights_kind(
        path, f"weights must be imagenet, random or a file such as {spec.weights_file}"
    )
    try:
        return f"file:{sha256_of(path)}"
    except OSError as error:
        raise WeightsError(f"{weights}: cannot be read ({error.strerror})") from error


def load_weights(
    spec: BackboneSpec,
    layers: Sequence[Layer],
    weights: str,
    *,
    input_size: int,
    seed: int,
    progress: Progress | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Weights:
    """Load the weights of a network.

    Parameters
    ----------
    spec : BackboneSpec
        The network.
    layers : sequence of Layer
        All its layers, in the order of Keras.
    weights : str
        ``imagenet``, ``random`` or the path of a file.
    input_size : int
        Height and width of the input, for which Keras may have weights of its own.
    seed : int
        Seed of random weights.
    progress, on_note
        As for `fetch_weights`.

    Returns
    -------
    dict of str to list of ndarray of float32
        The weights of each layer that has some, by its name, in Keras's order.

    Raises
    ------
    WeightsError
        They cannot be downloaded or read, or are of another network.
    """
    if weights == "random":
        return random_weights(layers, seed)
    if weights == "imagenet":
        path = fetch_weights(spec, input_size, progress=progress, on_note=on_note)
    else:
        path = as_path(weights, "weights")
    return read_weights(layers, path, spec.name)


def fetch_weights(
    spec: BackboneSpec,
    input_size: int,
    *,
    progress: Progress | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Path:
    """Download Keras's ImageNet weights into Keras's cache, unless they are in it.

    Parameters
    ----------
    spec : BackboneSpec
        The network.
    input_size : int
        Height and width of the input, for which Keras may have weights of its own.
    progress : Progress, optional
        Counts megabytes.
    on_note : callable, optional
        Receives a line before a download.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    WeightsError
        They cannot be downloaded.
    OutputError
        Their path in the cache is in use.
    """
    name = spec.weights_file_for(input_size)
    address = f"{spec.weights_address}/{name}"
    size = spec.weights_bytes if name == spec.weights_file else None  # of that one it is known
    path = keras_home() / "models" / name
    again = ""
    if is_file(path):
        try:
            fault = fault_of(path, size, spec.weights_checksum)
        except OSError as error:
            raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
        if not fault:
            return path
        again = f"{path} is not the file that Keras publishes ({fault}); "
    if on_note:
        on_note(f"{again}downloading {address}, {spec.weights_bytes / 1e6:.0f} MB, to {path}")
    download(
        address,
        path,
        size=size,
        checksum=spec.weights_checksum,
        remedy="fetch it with a browser and pass weights='FILE'",
        disk_remedy="set KERAS_HOME to a folder that can be written to, or fetch the file with a "
        "browser and pass weights='FILE'",
        error=WeightsError,
        progress=progress,
    )
    return path


def random_weights(layers: Sequence[Layer], seed: int) -> Weights:
    """Draw weights as Keras initializes them, the same for a seed with every version of Keras.

    Kernels are uniform, with the variance that Keras gives them; biases are 0, and a batch
    normalization does nothing but for its epsilon.

    Parameters
    ----------
    layers : sequence of Layer
        The network.
    seed : int
        Seed of the draws.

    Returns
    -------
    dict of str to list of ndarray of float32
        As `load_weights`.
    """
    random = np.random.default_rng(seed)
    weights: Weights = {}
    for layer in layers:
        if layer.kind == "batch_normalization":
            values = (1, 0, 0, 1)[-len(layer.weights) :]  # gamma, which may be absent, beta, …
            weights[layer.name] = [
                np.full(shape, value, np.float32)
                for shape, value in zip(layer.weights, values, strict=True)
            ]
        elif layer.weights:
            kernel, *biases = layer.weights
            *window, n_in, n_out = kernel
            fan = prod(window) * (n_out + (n_in if layer.initializer == "glorot" else 0))
            limit = np.float32((6 / fan) ** 0.5)  # the variance is a third of its square
            drawn = limit * (2 * random.random(kernel, np.float32) - 1)
            weights[layer.name] = [drawn, *(np.zeros(each, np.float32) for each in biases)]
    return weights
