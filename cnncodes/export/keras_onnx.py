"""Keras to ONNX: a network without its top becomes one self-describing file.

1. The network is built by ``keras.applications`` and given its weights.
2. It is cut after the wanted layer and pooled if asked for; Keras's own ``preprocess_input`` is
   put in front, so that the file takes plain 8-bit RGB.
3. tf2onnx converts it, `simplify` makes it plain and `use_winograd` quicker; input and output
   get their names, the batch stays free.
4. onnx checks the structure, and onnxruntime's codes are compared with Keras's on photographs
   and noise. Only then does the file get its name.

This is the only module that imports TensorFlow, Keras or tf2onnx, and only inside functions.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncodes import __version__
from cnncodes.errors import MissingDependencyError, ParameterError, ParityError, WeightsError
from cnncodes.export.backbones import BACKBONES, DEFAULT_INPUT_SIZE, BackboneSpec
from cnncodes.model_file import BackboneInfo, open_session
from cnncodes.output import check_output, replacing

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
        What the file says of itself, parity included.
    code_shape : tuple of int
        Shape of one image's codes.
    """

    path: Path
    info: BackboneInfo
    code_shape: tuple[int, ...]


def export_backbone(
    name: str,
    output: Path,
    *,
    weights: str = "imagenet",
    input_size: int = DEFAULT_INPUT_SIZE,
    pool: str = "none",
    layer: str | None = None,
    seed: int = 0,
    winograd: bool = True,
    overwrite: bool = False,
) -> Export:
    """Export one Keras network, without its top, to ONNX.

    Parameters
    ----------
    name : str
        A name in `BACKBONES`.
    output : Path
        The file to write.
    weights : str
        ``imagenet`` (Keras downloads and verifies its own file), ``random``, or the path of a
        Keras ``.weights.h5`` file or of Keras's published ``…notop.h5``.
    input_size : int
        Height and width of the input, in pixels.
    pool : {"none", "avg", "max"}
        Pooling of the codes over height and width.
    layer : str, optional
        The Keras layer whose output becomes the codes, by default the last.
    seed : int
        Seed of random weights.
    winograd : bool
        Whether convolutions are written with fewer multiplications where that is quicker on a
        processor; other runtimes may rather see the convolutions.
    overwrite : bool
        Whether a file at `output` may be replaced.

    Returns
    -------
    Export
        The file's path, description and code shape.

    Raises
    ------
    MissingDependencyError
        TensorFlow or tf2onnx is not installed.
    ParameterError
        The name, size, pooling or layer is unknown to the network.
    WeightsError
        The weights are absent, damaged or of another network.
    ParityError
        onnxruntime's codes differ from Keras's by more than `PARITY_LIMIT`.
    OutputError
        The file cannot be written.
    """
    spec = _check_request(name, input_size, pool)
    check_output(output, overwrite=overwrite)
    origin = _describe_weights(spec, weights, seed)
    with _quiet():
        import keras

        keras.utils.set_random_seed(seed)
        base = _build(spec, weights, input_size)
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
            created_with=_versions(),
        )
        _save(model, info, temporary)
        info = replace(info, parity=_measure_parity(temporary, output, images, expected))
        _save(model, info, temporary)
    return Export(path=output, info=info, code_shape=expected.shape[1:])


def fetch_imagenet_weights(name: str) -> None:
    """Bring the ImageNet weights of a backbone into Keras's cache, if they are not there yet.

    Raises
    ------
    MissingDependencyError
        TensorFlow or tf2onnx is not installed.
    WeightsError
        They cannot be had.
    """
    spec = _check_request(name, BACKBONES[name].min_input_size, "none")
    with _quiet():
        _build(spec, "imagenet", spec.min_input_size)


def _check_request(name: str, input_size: int, pool: str) -> BackboneSpec:
    missing = [package for package in ("tensorflow", "tf2onnx") if find_spec(package) is None]
    if missing:
        raise MissingDependencyError(
            f"export needs {' and '.join(missing)}; install the extra: "
            "pip install 'cnncodes[export]'"
        )
    if name not in BACKBONES:
        raise ParameterError(f"no backbone {name!r}; there are {', '.join(BACKBONES)}")
    spec = BACKBONES[name]
    if input_size < spec.min_input_size:
        raise ParameterError(f"{name} needs an input size of {spec.min_input_size} pixels or more")
    if pool not in ("none", "avg", "max"):
        raise ParameterError(f"no pooling {pool!r}; there are none, avg and max")
    return spec


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep TensorFlow's, Keras's and tf2onnx's chatter off the terminal.

    Much of it is written by C++ straight to file descriptors 1 and 2 before any logger can be
    configured, so the descriptors themselves are pointed at a file while the block runs.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [(descriptor, os.dup(descriptor)) for descriptor in (1, 2)]
    try:
        with tempfile.TemporaryFile() as sink:
            for descriptor, _ in kept:
                os.dup2(sink.fileno(), descriptor)
            yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for descriptor, copy in kept:
            os.dup2(copy, descriptor)
            os.close(copy)


def _describe_weights(spec: BackboneSpec, weights: str, seed: int) -> str:
    if weights == "imagenet":
        return weights
    if weights == "random":
        return f"random:{seed}"
    path = Path(weights)
    if not path.is_file():
        raise WeightsError(
            f"{weights}: no such weight file; --weights takes imagenet, random or a file such as "
            f"{spec.weights_file}"
        )
    with path.open("rb") as file:
        digest = hashlib.sha256()
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return f"file:{digest.hexdigest()}"


def _build(spec: BackboneSpec, weights: str, input_size: int) -> Any:
    """Build the Keras network without its top, weights loaded."""
    import keras

    keras.config.disable_interactive_logging()
    keras.backend.clear_session()  # layer names count on from one network to the next
    construct = getattr(keras.applications, spec.keras_class)
    shape = (input_size, input_size, 3)
    if weights != "imagenet":
        network = construct(include_top=False, weights=None, input_shape=shape)
        if weights != "random":
            _load_weights(network, Path(weights), spec)
        return network
    try:
        return construct(include_top=False, weights="imagenet", input_shape=shape)
    except Exception as error:  # keras.utils.get_file raises bare Exception without a network
        cache = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "models"
        raise WeightsError(
            f"{spec.weights_file}: the ImageNet weights cannot be downloaded; either pass "
            f"--weights FILE with that file from another machine (Keras keeps it in {cache}), or "
            f"copy an exported .onnx file from there, or try things out with --weights random"
        ) from error


def _load_weights(network: Any, path: Path, spec: BackboneSpec) -> None:
    """Load a weight file whatever its name, and say which layer does not fit."""
    import h5py

    try:
        with h5py.File(path) as file:
            # Keras tells its two layouts apart by the file's ending; we look inside.
            legacy = "layer_names" in file.attrs or "model_weights" in file
            if not legacy and "layers" not in file:
                raise WeightsError(
                    f"{path}: an HDF5 file, but not Keras weights; {spec.name} takes a "
                    f".weights.h5 file or {spec.weights_file}"
                )
    except OSError as error:
        raise WeightsError(
            f"{path}: not a readable HDF5 file ({_first_line(error)}); download or copy it again"
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        alias = Path(folder) / ("weights.h5" if legacy else "all.weights.h5")
        alias.symlink_to(path.resolve())
        try:
            network.load_weights(str(alias))
        except Exception as error:  # Keras raises ValueError, KeyError, TypeError and OSError here
            misfit = _first_misfit(network, path) or f"Keras says: {_first_line(error)}"
            raise WeightsError(
                f"{path}: does not fit {spec.name} without its top: {misfit}"
            ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _first_misfit(network: Any, path: Path) -> str:
    """Name the first layer whose weights a file lacks or has in another shape; "" if none."""
    import h5py

    layers = [layer for layer in network.layers if layer.weights]
    try:
        with h5py.File(path) as file:
            legacy = "layer_names" in file.attrs
            shapes = _legacy_shapes(file) if legacy else _keras3_shapes(file, layers)
    except (KeyError, OSError) as error:
        return f"the file is damaged ({_first_line(error)})"
    for position, layer in enumerate(layers):
        wanted = [tuple(weight.shape) for weight in layer.weights]
        found = shapes[position] if position < len(shapes) else []
        if wanted != found:
            return f"layer {layer.name} has weights of shape {wanted}, the file {found or 'none'}"
    if len(shapes) > len(layers):
        return f"the file goes on after the last layer, {layers[-1].name}"
    return ""


def _legacy_shapes(file: Any) -> list[list[tuple[int, ...]]]:
    """Shapes of each layer's weights in a Keras 1 or 2 file, layers without weights left out."""
    found = []
    for name in file.attrs["layer_names"]:
        group = file[name]
        shapes = [group[weight].shape for weight in group.attrs["weight_names"]]
        if shapes:
            found.append(shapes)
    return found


def _keras3_shapes(file: Any, layers: list[Any]) -> list[list[tuple[int, ...]]]:
    """Shapes in a ``.weights.h5`` file, where layers are counted by class, not named."""
    counts: dict[str, int] = {}
    found = []
    for layer in layers:
        kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(layer).__name__).lower()
        number = counts.get(kind, 0)
        counts[kind] = number + 1
        key = f"layers/{kind}_{number}/vars" if number else f"layers/{kind}/vars"
        variables = file.get(key, {})
        found.append([variables[index].shape for index in sorted(variables, key=int)])
    return found


def _cut(base: Any, layer: str | None, pool: str, spec: BackboneSpec) -> Any:
    """Cut the network after `layer` and pool its codes."""
    import keras

    names = [each.name for each in base.layers]
    if layer is not None and layer not in names:
        near = get_close_matches(layer, names, n=3, cutoff=0.3)
        raise ParameterError(f"{spec.name} has no layer {layer!r}; near it: {', '.join(near)}")
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
    """Convert the network with its preprocessing; return an ``onnx.ModelProto``."""
    import keras
    import tensorflow
    import tf2onnx

    from cnncodes.export.graph import Graph
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
    _rename_output(model, "codes")
    if winograd:
        graph = Graph(model)
        use_winograd(graph)
        model = graph.model()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    unused = [each for each in model.opset_import if each.domain != ""]
    for each in unused:  # declared, but not used, and small runtimes lack them
        model.opset_import.remove(each)
    del model.graph.value_info[:]  # holds the converter's own names for the batch
    model.graph.name = model.producer_name = "cnncodes"
    model.producer_version = __version__
    return model


def _rename_output(model: Any, name: str) -> None:
    """Rename a model's only output, wherever nodes read or write it."""
    old = model.graph.output[0].name
    model.graph.output[0].name = name
    for node in model.graph.node:
        for values in (node.input, node.output):
            for index, value in enumerate(values):
                if value == old:
                    values[index] = name


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
    noise = np.random.default_rng(0).integers(
        0, 256, (N_NOISE_IMAGES, input_size, input_size, 3), dtype=np.uint8
    )
    images = np.concatenate([np.stack([np.asarray(image) for image in resized]), noise])
    return images, f"{', '.join(names)} and {N_NOISE_IMAGES} of noise"


def _keras_codes(
    network: Any, spec: BackboneSpec, images: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Give Keras's own codes, through its own preprocessing in numpy."""
    prepared = _preprocess(spec)(images.astype(np.float32))
    codes: NDArray[np.float32] = network.predict(prepared, verbose=0)
    return codes


def _save(model: Any, info: BackboneInfo, path: Path) -> None:
    import onnx

    del model.metadata_props[:]
    onnx.helper.set_model_props(model, info.to_metadata())
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def _measure_parity(
    path: Path, output: Path, images: NDArray[np.uint8], expected: NDArray[np.float32]
) -> float:
    """Return the largest difference of the file's codes, relative to the largest code."""
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


def _versions() -> str:
    packages = ("keras", "tensorflow", "tf2onnx", "onnx")
    return ", ".join(
        [f"cnncodes {__version__}", *(f"{package} {version(package)}" for package in packages)]
    )
