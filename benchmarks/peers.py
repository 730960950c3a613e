"""Contenders, cnncodes and others, from images in memory to codes, for extract.py.

Each way is a function: from the files of a network and images it prepares everything and returns
a function that computes the codes of these images.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BATCH_SIZE, KERAS_BATCH_SIZE = 8, 32
KERAS_PREDICT, KERAS_ON_BATCH = "Keras predict, batch 32", "Keras predict_on_batch, batch 32"
SESSION = "onnxruntime as it comes, our file, batch 8"
SIZE = 224

Images = NDArray[np.uint8]
Compute = Callable[[], NDArray[np.float32]]


@dataclass(frozen=True)
class Network:
    """A network and its files.

    Attributes
    ----------
    folder : Path
        Where the files are.
    name : str
        Its name at ``cnncodes export``.
    weights : str
        ``random``, or a file of Keras weights.
    """

    folder: Path
    name: str
    weights: str

    @property
    def float32(self) -> Path:
        """What ``cnncodes export`` made."""
        return self.folder / f"{self.name}.onnx"

    @property
    def plain(self) -> Path:
        """The same without Winograd's convolutions, as the converter made it."""
        return self.folder / f"{self.name}.plain.onnx"

    @property
    def int8(self) -> Path:
        """What ``cnncodes quantize`` made."""
        return self.folder / f"{self.name}.int8.onnx"

    @property
    def nncf(self) -> Path:
        """What NNCF, OpenVINO's own tool, made of the plain file."""
        return self.folder / f"{self.name}.nncf.xml"

    @property
    def images(self) -> Path:
        """Images as the network takes them."""
        return self.folder / f"{self.name}.images.npy"

    @property
    def codes(self) -> Path:
        """Their codes in float32."""
        return self.folder / f"{self.name}.codes.npy"


Way = Callable[[Network, Images], Compute]


@dataclass(frozen=True)
class Contender:
    """A way to compute codes.

    Attributes
    ----------
    label : str
        Its name in the tables.
    engine : str
        What computes, such as ``openvino``, however it is configured.
    precision : str
        ``float32``, ``bf16`` or ``int8``.
    many : callable
        The way for many images.
    one : callable, optional
        The way for one image, as soon as can be; none if another contender has the same.
    """

    label: str
    engine: str
    precision: str
    many: Way
    one: Way | None = None


def keras_network(network: Network, images: Images, at_once: bool) -> Compute:
    """Use Keras's network without its top, in batches of 32 images.

    `at_once` is what the reference experiment did: all images, then ``predict``. Otherwise
    batch after batch, ``predict_on_batch``, which has no input pipeline to wait for.
    """
    compute = keras_function(network, at_once)
    if at_once:
        return lambda: compute(images)
    return in_turn(compute, images, KERAS_BATCH_SIZE)


def keras_function(network: Network, at_once: bool) -> Callable[[Images], NDArray[np.float32]]:
    """Return what computes the codes of images, from bytes on as all others do.

    Keras's own ``preprocess_input`` turns these to numbers.
    """
    import importlib

    import keras

    from cnncodes.export.backbones import BACKBONES

    keras.utils.set_random_seed(0)  # the seed of export's random weights
    spec = BACKBONES[network.name]
    weights = None if network.weights == "random" else network.weights
    build = getattr(keras.applications, spec.keras_class)
    model = build(include_top=False, weights=weights, input_shape=(SIZE, SIZE, 3))
    module = importlib.import_module(f"keras.applications.{spec.keras_module}")

    def compute(images: Images) -> NDArray[np.float32]:
        prepared = module.preprocess_input(images.astype(np.float32))
        if at_once:
            return np.asarray(model.predict(prepared, KERAS_BATCH_SIZE, verbose=0))
        return np.asarray(model.predict_on_batch(prepared))

    return compute


def session_as_it_comes(network: Network, images: Images, file: str) -> Compute:
    """Open one of the files in onnxruntime without any option, one batch at a time."""
    import onnxruntime

    session = onnxruntime.InferenceSession(getattr(network, file))
    return in_turn(lambda batch: session.run(["codes"], {"images": batch})[0], images)


def backbone(network: Network, images: Images, precision: str) -> Compute:
    """Use our `Backbone` as a program would for one image: all threads in one call."""
    from cnncodes.extract.backbone import Backbone

    return in_turn(Backbone(getattr(network, precision)).extract, images)


def backbone_in_threads(network: Network, images: Images, precision: str) -> Compute:
    """Let as many threads as there are processors call a session that has one thread."""
    from cnncodes.extract.backbone import Backbone
    from cnncodes.extract.workers import BATCH_SIZES
    from cnncodes.machine import available_threads

    model = Backbone(getattr(network, precision), threads=1)
    pool = ThreadPoolExecutor(available_threads())
    batches = batches_of(images, BATCH_SIZES[precision])
    return lambda: np.concatenate(list(pool.map(model.extract, batches)))


def openvino(
    network: Network, images: Images, file: str, hint: str, batch_size: int, precision: str = "f32"
) -> Compute:
    """Open one of the files in OpenVINO.

    It would compute float32 in bfloat16 where the processor can: the precision is set. Shapes
    are fixed, which is quicker than free ones.
    """
    import openvino as ov

    core = ov.Core()
    model = core.read_model(getattr(network, file))
    model.reshape([batch_size, SIZE, SIZE, 3])
    settings = {"PERFORMANCE_HINT": hint, "INFERENCE_PRECISION_HINT": precision}
    compiled = core.compile_model(model, "CPU", settings)
    if hint == "LATENCY":
        return in_turn(lambda batch: compiled(batch)[0], images, batch_size)
    batches = batches_of(images, batch_size)
    codes = np.empty((len(images), *compiled.output(0).shape[1:]), np.float32)
    queue = ov.AsyncInferQueue(compiled)

    def keep(request: Any, start: int) -> None:
        codes[start : start + batch_size] = request.get_output_tensor().data

    def compute() -> NDArray[np.float32]:
        for number, batch in enumerate(batches):
            queue.start_async({0: batch}, number * batch_size)
        queue.wait_all()
        return codes

    queue.set_callback(keep)
    return compute


def pytorch(network: Network, images: Images, bf16: bool) -> Compute:
    """Run the float32 graph in PyTorch: batch norm is folded, channels come last."""
    import torch
    from torch_graph import read_graph

    run = read_graph(network.plain, torch.bfloat16 if bf16 else torch.float32)

    def codes_of(batch: Images) -> NDArray[np.float32]:
        with torch.inference_mode():
            codes: NDArray[np.float32] = run(torch.from_numpy(batch)).float().numpy()
        return codes

    return in_turn(codes_of, images)


def batches_of(images: Images, batch_size: int) -> list[Images]:
    """Cut images into batches."""
    return [images[start : start + batch_size] for start in range(0, len(images), batch_size)]


def in_turn(
    run: Callable[[Images], NDArray[np.float32]], images: Images, batch_size: int = BATCH_SIZE
) -> Compute:
    """Compute one batch after another."""
    batches = batches_of(images, batch_size)
    return lambda: np.concatenate([run(batch) for batch in batches])


def openvino_contenders(label: str, file: str, precision: str, hint: str) -> list[Contender]:
    """List the configurations of OpenVINO of which the best counts."""

    def way(mode: str, batch_size: int) -> Way:
        return partial(openvino, file=file, hint=mode, batch_size=batch_size, precision=hint)

    simple = Contender(
        f"OpenVINO{label}, one call after another, batch {BATCH_SIZE}",
        *("openvino", precision, way("LATENCY", BATCH_SIZE), way("LATENCY", 1)),
    )
    return [simple] + [
        Contender(
            f"OpenVINO{label}, throughput mode, batch {batch_size}",
            *("openvino", precision, way("THROUGHPUT", batch_size)),
        )
        for batch_size in (1, BATCH_SIZE)
    ]


def our_contenders(precision: str) -> list[Contender]:
    """List onnxruntime by itself and as we use it."""
    session = partial(session_as_it_comes, file=precision)
    return [
        Contender(SESSION, "onnxruntime", precision, session, session),
        Contender(
            "cnncodes",
            *("cnncodes", precision, partial(backbone_in_threads, precision=precision)),
            one=partial(backbone, precision=precision),
        ),
    ]


_ALL = [
    *(
        Contender(label, "keras", "float32", *(partial(keras_network, at_once=at_once),) * 2)
        for label, at_once in ((KERAS_PREDICT, True), (KERAS_ON_BATCH, False))
    ),
    *(
        Contender(
            "PyTorch, channels last, batch 8",
            *("torch", "bf16" if bf16 else "float32"),
            *(partial(pytorch, bf16=bf16),) * 2,
        )
        for bf16 in (False, True)
    ),
    Contender(
        "onnxruntime as it comes, plain file, batch 8",
        *("onnxruntime", "float32"),
        *(partial(session_as_it_comes, file="plain"),) * 2,
    ),
    *our_contenders("float32"),
    *openvino_contenders("", "plain", "float32", "f32"),
    *openvino_contenders("", "plain", "bf16", "bf16"),
    *our_contenders("int8"),
    *openvino_contenders(", our file", "int8", "int8", "f32"),
    *openvino_contenders(", file of NNCF", "nncf", "int8", "f32"),
]
CONTENDERS = {f"{each.label} ({each.precision})": each for each in _ALL}
