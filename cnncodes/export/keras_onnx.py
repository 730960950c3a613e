"""Keras to ONNX: a network without its top becomes one self-describing file.

1. ``keras.applications`` builds the network, and the weights are loaded.
2. It is cut after the wanted layer and pooled if asked for; Keras's own ``preprocess_input`` is
   put in front, so that the file takes plain 8-bit RGB.
3. tf2onnx converts it, `simplify` removes operators and `use_winograd` makes convolutions
   quicker; input and output are named, the size of the batch stays free.
4. onnx checks the structure, and onnxruntime's codes are compared with Keras's on photographs
   and noise. Only then is the file renamed to `output`.

This module and `keras_settings` alone import TensorFlow, Keras or tf2onnx, inside functions.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncodes._version import __version__, created_with
from cnncodes.errors import (
    MissingDependencyError,
    OutputError,
    ParameterError,
    ParityError,
    WeightsError,
)
from cnncodes.export.backbones import BACKBONES, DEFAULT_INPUT_SIZE, BackboneSpec
from cnncodes.export.keras_settings import keras_home, own_keras
from cnncodes.export.keras_weights import check_weights_kind, load_weights
from cnncodes.files import exists, sha256_of
from cnncodes.models.checksum import save_checked
from cnncodes.models.metadata import BackboneInfo
from cnncodes.models.session import noise_images, open_session
from cnncodes.output import check_output, replacing
from cnncodes.parameters import INPUT_SIZE, SEED, as_path, check_choice

OPSET = 18  # the highest of tf2onnx 1.17; int8 pooling stays fused up to 21
PARITY_LIMIT = 1e-4
N_NOISE_IMAGES = 2


@dataclass(frozen=True)
class Export:
    """An exported backbone.

    Attributes
    ----------
    path : Path
        The file.
    info : BackboneInfo
        The metadata of the file, parity included.
    code_shape : tuple of int
        Shape of one image's codes.
    """

    path: Path
    info: BackboneInfo
    code_shape: tuple[int, ...]


def export_backbone(
    name: str,
    output: str | Path,
    *,
    weights: str = "imagenet",
    input_size: int = DEFAULT_INPUT_SIZE,
    pool: str = "none",
    layer: str | None = None,
    seed: int = 0,
    winograd: bool = True,
    overwrite: bool = False,
    on_note: Callable[[str], None] | None = None,
) -> Export:
    """Export one Keras network, without its top, to ONNX.

    Parameters
    ----------
    name : str
        A name in `BACKBONES`.
    output : str or Path
        The file to write.
    weights : str
        ``imagenet`` (Keras downloads and verifies its own file), ``random``, or the path of a
        ``.weights.h5``, ``.h5`` or ``.keras`` file that Keras saved, of the network, with or
        without its top, or of a model around it.
    input_size : int
        Height and width of the input, in pixels.
    pool : {"none", "avg", "max"}
        Pooling of the codes over height and width.
    layer : str, optional
        The Keras layer whose output becomes the codes, by default the last.
    seed : int
        Seed of random weights.
    winograd : bool
        Whether convolutions are written with fewer multiplications where onnxruntime is quicker
        with them on a CPU; other runtimes may have algorithms of their own.
    overwrite : bool
        Whether a file at `output` may be replaced.
    on_note : callable, optional
        Receives a line before weights are downloaded, which may take minutes.

    Returns
    -------
    Export
        The file's path, description and code shape.

    Raises
    ------
    MissingDependencyError
        TensorFlow or tf2onnx is not installed, or Keras runs on another backend.
    ParameterError
        The name, pooling or layer is unknown, or a number out of range.
    WeightsError
        The weights are absent, damaged, of another network or of several.
    ParityError
        onnxruntime's codes differ from Keras's by more than `PARITY_LIMIT`.
    OutputError
        The file cannot be written.
    """
    spec = _check_request(name, input_size, pool)
    output = as_path(output, "output")
    seed = SEED.check(seed, "seed")
    inputs = [] if weights in ("imagenet", "random") else [as_path(weights, "weights")]
    check_output(output, overwrite=overwrite, inputs=inputs)
    origin = _describe_weights(spec, weights, seed)
    _check_temporary_folder()
    if weights == "imagenet":
        _note_download(spec, input_size, on_note)
    with own_keras() as keras:
        keras.utils.set_random_seed(seed)
        base = _build(keras, spec, weights, input_size)
        network = _cut(base, layer, pool, spec)
        model = _to_onnx(network, spec, input_size, winograd)
        images, described = _parity_images(input_size)
        expected = _keras_codes(network, spec, images)

    with replacing(output, overwrite=overwrite) as temporary:
        info = BackboneInfo(
            backbone=spec.name,
            weights=origin,
            input_size=input_size,
            layer=layer or base.layers[-1].name,
            pool=pool,
            precision="float32",
            parity=0.0,
            parity_images=described,
            created_with=created_with("keras", "tensorflow", "tf2onnx", "onnx"),
        )
        _save(model, info, temporary)
        info = replace(info, parity=_measure_parity(temporary, output, images, expected))
        _save(model, info, temporary)
    return Export(path=output, info=info, code_shape=expected.shape[1:])


def fetch_imagenet_weights(name: str, *, on_note: Callable[[str], None] | None = None) -> None:
    """Download the ImageNet weights of a backbone into Keras's cache, unless they are in it.

    Parameters
    ----------
    name : str
        A name in `BACKBONES`.
    on_note : callable, optional
        Receives a line before a download.

    Raises
    ------
    MissingDependencyError
        TensorFlow or tf2onnx is not installed, or Keras runs on another backend.
    ParameterError
        The name is unknown.
    WeightsError
        They cannot be downloaded.
    """
    spec = _check_request(name, DEFAULT_INPUT_SIZE, "none")
    _note_download(spec, DEFAULT_INPUT_SIZE, on_note)
    with own_keras() as keras:
        _build(keras, spec, "imagenet", DEFAULT_INPUT_SIZE)


def _check_request(name: str, input_size: int, pool: str) -> BackboneSpec:
    missing = [package for package in ("tensorflow", "tf2onnx") if find_spec(package) is None]
    if missing:
        raise MissingDependencyError(
            f"export needs {' and '.join(missing)}; install the extra: "
            "pip install 'cnncodes[export]'"
        )
    spec = BACKBONES[check_choice(name, list(BACKBONES), "name")]
    if INPUT_SIZE.check(input_size, "input_size") < spec.min_input_size:
        raise ParameterError(f"{name} needs an input_size of {spec.min_input_size} pixels or more")
    check_choice(pool, ("none", "avg", "max"), "pool")
    return spec


def _check_temporary_folder() -> None:
    """Check before the work that there is a folder for temporary files with a UTF-8 name."""
    try:
        folder = tempfile.gettempdir()
        folder.encode()
    except FileNotFoundError as error:
        raise OutputError(
            "no folder for temporary files can be written to; let TMPDIR name one"
        ) from error
    except UnicodeEncodeError as error:
        raise OutputError(
            f"{folder}: the folder for temporary files has a name that is not UTF-8, which "
            "onnxruntime cannot use; let TMPDIR name another"
        ) from error


def _cached_weights(spec: BackboneSpec, input_size: int) -> Path:
    """Return where Keras caches ImageNet's weights."""
    return keras_home() / "models" / spec.weights_file_for(input_size)


def _note_download(
    spec: BackboneSpec, input_size: int, on_note: Callable[[str], None] | None
) -> None:
    """Pass on what is about to be downloaded; Keras's own messages are silenced."""
    path = _cached_weights(spec, input_size)
    if on_note and not exists(path):
        megabytes = 4 * spec.n_parameters / 1e6
        on_note(f"downloading {path.name}, about {megabytes:.0f} MB, to {path.parent}")


def _describe_weights(spec: BackboneSpec, weights: str, seed: int) -> str:
    """Return the origin of the weights, as the metadata name it."""
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


def _build(keras: Any, spec: BackboneSpec, weights: str, input_size: int) -> Any:
    """Build the Keras network without its top, weights loaded."""
    construct = getattr(keras.applications, spec.keras_class)
    shape = (input_size, input_size, 3)
    if weights == "imagenet":
        try:
            return construct(include_top=False, weights="imagenet", input_shape=shape)
        except Exception as error:  # keras.utils.get_file raises bare Exception without a network
            path = _cached_weights(spec, input_size)
            if "unable to lock file" not in str(error):
                raise WeightsError(
                    f"{path.name}: the ImageNet weights cannot be downloaded; pass that file from "
                    f"another machine as weights (Keras keeps it in {path.parent}), or copy an "
                    "exported .onnx file from there, or try things out with random weights"
                ) from error
            weights = str(path)  # downloaded and verified; read without a lock below
    network = construct(include_top=False, weights=None, input_shape=shape)
    if weights != "random":
        load_weights(network, Path(weights), spec.name)
    return network


def _cut(base: Any, layer: str | None, pool: str, spec: BackboneSpec) -> Any:
    """Cut the network after `layer` and pool its codes."""
    import keras

    names = [each.name for each in base.layers]
    if layer is not None and layer not in names:
        near = get_close_matches(layer, names, n=3, cutoff=0.3)
        raise ParameterError(f"{spec.name} has no layer {layer!r}; similar: {', '.join(near)}")
    codes = base.output if layer is None else base.get_layer(layer).output
    if len(codes.shape) != 4 or layer == names[0]:
        raise ParameterError(f"layer {layer!r} of {spec.name} gives no codes; choose a later one")
    if pool == "avg":
        codes = keras.layers.GlobalAveragePooling2D()(codes)
    elif pool == "max":
        codes = keras.layers.GlobalMaxPooling2D()(codes)
    return keras.Model(base.input, codes)


def _preprocess(spec: BackboneSpec) -> Any:
    import keras

    return getattr(keras.applications, spec.keras_module).preprocess_input


def _to_onnx(network: Any, spec: BackboneSpec, input_size: int, winograd: bool) -> Any:
    """Convert the network with its preprocessing to an ``onnx.ModelProto``."""
    import keras
    import tensorflow
    import tf2onnx

    from cnncodes.export.graph import Graph, rename_output
    from cnncodes.export.simplify import simplify
    from cnncodes.export.winograd import use_winograd

    shape = (input_size, input_size, 3)
    images = keras.Input(shape, dtype="uint8", name="images")
    codes = network(_preprocess(spec)(keras.ops.cast(images, "float32")))
    signature = [tensorflow.TensorSpec((None, *shape), tensorflow.uint8, name="images")]
    model, _ = tf2onnx.convert.from_keras(
        keras.Model(images, codes), input_signature=signature, opset=OPSET
    )
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


def _parity_images(input_size: int) -> tuple[NDArray[np.uint8], str]:
    """Return scikit-learn's two photographs and noise, and a description of them."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images()
    names = [Path(name).name for name in photographs.filenames]
    resized = [
        Image.fromarray(pixels).resize((input_size, input_size), Image.Resampling.BILINEAR)
        for pixels in photographs.images
    ]
    noise = noise_images(N_NOISE_IMAGES, input_size)
    images = np.concatenate([np.stack([np.asarray(image) for image in resized]), noise])
    return images, f"{', '.join(names)} and {N_NOISE_IMAGES} of noise"


def _keras_codes(
    network: Any, spec: BackboneSpec, images: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Compute the codes with Keras, preprocessed in numpy rather than in the graph."""
    prepared = _preprocess(spec)(images.astype(np.float32))
    codes: NDArray[np.float32] = network.predict(prepared, verbose=0)
    return codes


def _save(model: Any, info: BackboneInfo, path: Path) -> None:
    import onnx

    del model.metadata_props[:]
    onnx.helper.set_model_props(model, info.to_metadata())
    save_checked(model, path)


def _measure_parity(
    path: Path, output: Path, images: NDArray[np.uint8], expected: NDArray[np.float32]
) -> float:
    """Return the largest difference to Keras's codes, relative to the largest of them."""
    session, _ = open_session(path, "backbone")
    codes = session.run(["codes"], {"images": images})[0]
    largest = float(np.abs(expected).max())
    difference = float(np.abs(codes - expected).max()) / largest if largest > 0 else float("nan")
    if not difference <= PARITY_LIMIT:  # written so that NaN fails too
        raise ParityError(
            f"{output}: not written, since its codes differ from Keras's by {difference:.1e} of "
            f"the largest code (at most {PARITY_LIMIT:.0e} is accepted); look at the weights"
        )
    return difference
