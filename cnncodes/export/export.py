"""A network of Keras, without its top, becomes one self-describing ONNX file.

1. The request is checked, and the weights are read or downloaded.
2. `direct` builds the graph from the network's layers. Or else Keras builds the network and
   tf2onnx converts it, for which `keras_onnx` needs TensorFlow.
3. `use_winograd` makes convolutions quicker; input and output are named, the size of the batch
   stays free.
4. onnx checks the structure. Where TensorFlow is installed, onnxruntime's codes are compared with
   Keras's on photographs and noise. Only then is the file renamed to `output`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cnncodes._version import created_with
from cnncodes.errors import (
    MissingDependencyError,
    OutputError,
    ParameterError,
    ParityError,
    WeightsError,
)
from cnncodes.export.architectures import Layer, layers_before, layers_of
from cnncodes.export.backbones import BACKBONES, CONVERTERS, DEFAULT_INPUT_SIZE, BackboneSpec
from cnncodes.export.keras_onnx import keras_codes, keras_network, to_onnx
from cnncodes.export.keras_settings import own_keras
from cnncodes.export.keras_weights import Weights
from cnncodes.export.weights import describe_weights, load_weights
from cnncodes.models.checksum import save_checked
from cnncodes.models.metadata import BackboneInfo
from cnncodes.models.session import noise_images, open_session
from cnncodes.output import MODEL, check_output, replacing
from cnncodes.parameters import CODE_POOLS, INPUT_SIZE, SEED, as_path, check_choice
from cnncodes.progress import Progress
from cnncodes.text import shown, similar

if TYPE_CHECKING:
    import onnx

# Of codes without and with Winograd's convolutions, to Keras's in double precision: what
# tests/export/test_direct.py asserts for every network on the images of `PARITY_IMAGES`.
DIRECT_PARITY = {False: 1e-6, True: 2e-6}
PARITY_LIMIT = 1e-4
N_NOISE_IMAGES = 2
PARITY_IMAGES = f"2 photographs of scikit-learn and {N_NOISE_IMAGES} images of noise"
Codes = NDArray[np.float32]
Images = NDArray[np.uint8]


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
    network_size: int | None = None,
    pool: str = "none",
    layer: str | Sequence[str] | None = None,
    seed: int = 0,
    winograd: bool = True,
    converter: str = "direct",
    finetuned: str = "",
    compare: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
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
        ``imagenet`` (Keras's own file, downloaded into Keras's cache and verified), ``random``,
        or the path of a ``.weights.h5``, ``.h5`` or ``.keras`` file that Keras saved, of the
        network, with or without its top, or of a model around it.
    input_size : int
        Height and width of the input, in pixels.
    network_size : int, optional
        Height and width to which the graph resizes images for the network, by default
        `input_size`. So networks that see an image at several sizes take it in one: see
        `cnncodes.bundle`.
    pool : {"none", "avg", "max", "avg+max", "grid2"}
        Pooling of the codes over height and width: ``avg+max`` is the means and then the maxima,
        ``grid2`` the means of the four quarters, as `cnncodes.models.pooling` describes.
    layer : str or sequence of str, optional
        The Keras layer whose output becomes the codes, by default the last. Of several, also as
        one string with commas, the pooled outputs become the codes side by side, in this order.
    seed : int
        Seed of random weights.
    winograd : bool
        Whether convolutions are written with fewer multiplications where onnxruntime is quicker
        with them on a CPU; other runtimes may have algorithms of their own.
    converter : {"direct", "tf2onnx"}
        Whether the graph is built from the layers in `architectures`, in seconds, or by Keras and
        tf2onnx, which needs TensorFlow and up to 2 GB of memory. The codes are the same.
    finetuned : str
        `BackboneInfo.finetuned` of the file; by default the weights are not fine-tuned.
    compare : bool
        Whether codes of the direct converter are compared with Keras's, where that is installed.
    overwrite : bool
        Whether a file at `output` may be replaced.
    progress : Progress, optional
        Counts the megabytes of a download.
    on_note : callable, optional
        Receives a line before what takes long.

    Returns
    -------
    Export
        The file's path, description and code shape.

    Raises
    ------
    MissingDependencyError
        tf2onnx is the converter, and it or TensorFlow is not installed, or Keras runs on another
        backend.
    ParameterError
        The name, pooling, layer or converter is unknown, or a number out of range.
    WeightsError
        The weights are absent, damaged, of another network or of several.
    ParityError
        onnxruntime's codes differ from Keras's by more than `PARITY_LIMIT`.
    OutputError
        The file cannot be written.
    """
    from cnncodes.export.direct import build_graph, code_shape
    from cnncodes.export.winograd import use_winograd

    size = input_size if network_size is None else network_size
    spec = _check_request(name, input_size, size, pool, converter)
    whole = layers_of(name, size)
    outputs = named_layers(layer, whole, spec, pool)
    layers = layers_before(whole, *outputs)
    output = as_path(output, "output")
    seed = SEED.check(seed, "seed")
    inputs = [] if weights in ("imagenet", "random") else [as_path(weights, "weights")]
    check_output(output, overwrite=overwrite, inputs=inputs, endings=MODEL)
    origin = describe_weights(spec, weights, seed)
    _check_temporary_folder()
    values = load_weights(
        spec, whole, weights, input_size=size, seed=seed, progress=progress, on_note=on_note
    )
    if converter == "tf2onnx":
        _note(on_note, f"converting {name} with TensorFlow, half a minute or so and up to 2 GB")
        with own_keras() as keras:
            network = keras_network(keras, spec, whole, values, outputs, pool)
            model = to_onnx(network, spec, input_size, winograd)
            expected: Codes | None = keras_codes(network, spec, parity_images(input_size))
            del network
    else:
        expected = None
        if compare:
            expected = _expected_codes(spec, whole, values, outputs, pool, input_size, on_note)
        try:
            graph = build_graph(layers, values, spec.preprocessing, pool, outputs, input_size)
        except WeightsError as error:  # it knows layers, not files
            raise WeightsError(f"{weights}: {error}") from error
        if winograd:
            use_winograd(graph)
        model = graph.model()
        del graph
    packages = ["onnx"]
    if expected is not None:
        packages = ["keras", "tensorflow", *(["tf2onnx"] * (converter == "tf2onnx")), "onnx"]

    with replacing(output, overwrite=overwrite) as temporary:
        info = BackboneInfo(
            backbone=spec.name,
            weights=origin,
            input_size=input_size,
            network_size=0 if size == input_size else size,
            layer=",".join(outputs),
            pool=pool,
            precision="float32",
            parity=DIRECT_PARITY[winograd],
            parity_images=f"{PARITY_IMAGES}, in the tests of this release, not with this file",
            created_with=created_with(*packages),
            converter=converter,
            weights_file=shown(inputs[0].name) if inputs else "",
            finetuned=finetuned,
        )
        _save(model, info, temporary)
        if expected is not None:
            parity = _measure_parity(temporary, output, input_size, expected)
            info = replace(info, parity=parity, parity_images=PARITY_IMAGES)
            _save(model, info, temporary)
    return Export(path=output, info=info, code_shape=code_shape(layers, outputs, pool))


def _check_request(
    name: str, input_size: int, network_size: int, pool: str, converter: str
) -> BackboneSpec:
    spec = BACKBONES[check_choice(name, list(BACKBONES), "name")]
    INPUT_SIZE.check(input_size, "input_size")
    if INPUT_SIZE.check(network_size, "network_size") < spec.min_input_size:
        which = "an input_size" if network_size == input_size else "a network_size"
        raise ParameterError(f"{name} needs {which} of {spec.min_input_size} pixels or more")
    if network_size != input_size and converter == "tf2onnx":
        raise ParameterError("network_size needs converter='direct'")
    check_choice(pool, CODE_POOLS, "pool")
    if check_choice(converter, CONVERTERS, "converter") == "tf2onnx":
        missing = [package for package in ("tensorflow", "tf2onnx") if find_spec(package) is None]
        if missing:
            raise MissingDependencyError(
                f"converter='tf2onnx' needs {' and '.join(missing)}; install the extra: "
                "pip install 'cnncodes[export]', or use converter='direct'"
            )
    return spec


def named_layers(
    named: str | Sequence[str] | None, layers: Sequence[Layer], spec: BackboneSpec, pool: str
) -> list[str]:
    """Return the names of the layers whose outputs become the codes.

    Raises
    ------
    ParameterError
        There is no such layer, or it gives no codes that can be pooled so.
    """
    if named is None:
        names = [layers[-1].name]
    else:
        names = named.split(",") if isinstance(named, str) else list(named)
    known = {layer.name: layer for layer in layers}
    for name in names:
        if name not in known:
            near = similar(name, known) or [layer.name for layer in layers[-3:]]
            raise ParameterError(
                f"{spec.name} has no layer {name!r}; name one such as {', '.join(near)}"
            )
        layer = known[name]
        is_several_pixels = len(names) > 1 and layer.kind in ("rescaling", "normalization")
        if len(layer.shape) != 3 or layer.kind == "input_layer" or is_several_pixels:
            raise ParameterError(
                f"layer {name!r} of {spec.name} gives no codes; choose a later one"
            )
        if pool == "grid2" and min(layer.shape[:2]) < 2:
            raise ParameterError(
                f"layer {name!r} of {spec.name} gives {layer.shape[0]} x {layer.shape[1]} codes, "
                "and pool 'grid2' needs 2 x 2; raise input_size or choose an earlier one"
            )
    if len(set(names)) < max(len(names), 1):
        raise ParameterError("layer must name one layer or more, each of them once")
    if len(names) > 1 and pool == "none":
        raise ParameterError(
            "codes of several layers go side by side only if pooled; pass pool='avg' or another"
        )
    return names


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


def _note(on_note: Callable[[str], None] | None, line: str) -> None:
    if on_note:
        on_note(line)


def parity_images(input_size: int) -> Images:
    """Return the images of `PARITY_IMAGES`, of shape (n_images, input_size, input_size, 3)."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images()
    resized = [
        Image.fromarray(pixels).resize((input_size, input_size), Image.Resampling.BILINEAR)
        for pixels in photographs.images
    ]
    noise = noise_images(N_NOISE_IMAGES, input_size)
    return np.concatenate([np.stack([np.asarray(image) for image in resized]), noise])


def _resized(images: Images, size: int) -> NDArray[Any]:
    """Return images as the graph resizes them to another size."""
    from cnncodes.export.direct import resampling_matrix

    before = images.shape[1]
    if size == before:
        return images
    matrix = resampling_matrix(before, size)
    resized: NDArray[Any] = np.einsum("ph,qw,nhwc->npqc", matrix, matrix, images, optimize=True)
    return resized


def _expected_codes(
    spec: BackboneSpec,
    layers: Sequence[Layer],
    weights: Weights,
    outputs: Sequence[str],
    pool: str,
    input_size: int,
    on_note: Callable[[str], None] | None,
) -> Codes | None:
    """Compute the codes with Keras; None where it is not installed or cannot be used."""
    if find_spec("keras") is None or find_spec("tensorflow") is None:
        return None
    _note(on_note, "comparing with Keras, since TensorFlow is installed; some ten seconds")
    try:
        with own_keras() as keras:
            network = keras_network(keras, spec, layers, weights, outputs, pool)
            images = _resized(parity_images(input_size), layers[0].shape[0])
            return keras_codes(network, spec, images)
    except MissingDependencyError as error:
        _note(on_note, f"not compared with Keras: {error}")
        return None


def _save(model: onnx.ModelProto, info: BackboneInfo, path: Path) -> None:
    import onnx

    del model.metadata_props[:]
    onnx.helper.set_model_props(model, info.to_metadata())
    save_checked(model, path)


def _measure_parity(path: Path, output: Path, input_size: int, expected: Codes) -> float:
    """Return the largest difference to Keras's codes, relative to the largest of them."""
    session, _ = open_session(path, "backbone")
    codes = session.run(["codes"], {"images": parity_images(input_size)})[0]
    if not (np.isfinite(codes).all() and np.isfinite(expected).all()):
        raise ParityError(
            f"{output}: not written, since its codes or Keras's are not finite; look at the weights"
        )
    largest = float(np.abs(expected).max())
    difference = float(np.abs(codes - expected).max()) / largest if largest > 0 else float("nan")
    if not difference <= PARITY_LIMIT:  # written so that NaN fails too
        raise ParityError(
            f"{output}: not written, since its codes differ from Keras's by {difference:.1e} of "
            f"the largest code (at most {PARITY_LIMIT:.0e} is accepted); look at the weights"
        )
    return difference
