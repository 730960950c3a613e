"""From trained weights to files: backbone, head and app, in float32 and int8, and their check."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path, PureWindowsPath

import numpy as np
from numpy.typing import NDArray

from cnncodes.app.bundle import bundle
from cnncodes.errors import ParityError
from cnncodes.evaluate.evaluate import evaluate
from cnncodes.evaluate.evaluation import Evaluation
from cnncodes.evaluate.metrics import Metrics
from cnncodes.export.export import Export, export_backbone
from cnncodes.export.keras_onnx import keras_codes, keras_network
from cnncodes.export.keras_settings import own_keras
from cnncodes.export.weights import load_weights
from cnncodes.files import sha256_of
from cnncodes.finetune.checkpoint import Epoch, best_of
from cnncodes.finetune.data import Data
from cnncodes.finetune.request import Request
from cnncodes.finetune.result import Parity
from cnncodes.head.linear import LinearHead, log_softmax
from cnncodes.head.views import average_views
from cnncodes.images.decoding import digest_images, load_image
from cnncodes.images.limits import DEFAULT_MAX_PIXELS
from cnncodes.images.sources import root_of
from cnncodes.images.views import make_views
from cnncodes.models.checksum import save_checked
from cnncodes.models.metadata import HeadInfo, image_key
from cnncodes.output import replacing
from cnncodes.progress import Progress
from cnncodes.quantize.quantize import quantize_backbone

PARITY_SHARE = 0.999  # of the test images: fewer equal labels are an error


@dataclass(frozen=True)
class Trained:
    """What training leaves.

    Attributes
    ----------
    folder : Path
        Where its files are.
    weights : Path
        Weights of the whole network, a file of Keras.
    head : LinearHead
        On codes as they are.
    epochs : list of Epoch
        From number 0 on, the linear classifier.
    before : Metrics
        Of the linear classifier on the test images.
    tested : ndarray of float32, shape (n_test, n_classes)
        Keras's probabilities of the test images.
    created_with : str
        Versions of the packages.
    """

    folder: Path
    weights: Path
    head: LinearHead
    epochs: list[Epoch]
    before: Metrics
    tested: NDArray[np.float32]
    created_with: str


class Parts:
    """The files of a trained network.

    Parameters
    ----------
    request : Request
        The parameters.
    trained : Trained
        The weights.
    data : Data
        The images.
    white : int or None
        The value of white in 16-bit grey.
    note : callable
        Receives a line before what takes long.
    progress : Progress
        Counts images.
    """

    def __init__(
        self,
        request: Request,
        trained: Trained,
        data: Data,
        white: int | None,
        note: Callable[[str], None],
        progress: Progress,
    ) -> None:
        self._request = request
        self._trained = trained
        self._data = data
        self._white = white
        self._note = note
        self._progress = progress
        self._backbone = trained.folder / "network.onnx"
        self._head = trained.folder / "head.onnx"

    def write(self) -> None:
        """Write backbone, head and app."""
        request, trained, data = self._request, self._trained, self._data
        exported = export_backbone(
            request.network,
            self._backbone,
            weights=str(trained.weights),
            input_size=request.input_size,
            pool=request.codes.pool,
            layer=request.codes.layers,
            finetuned=json.dumps(
                {
                    "from": request.origin,
                    "from_layer": request.from_layer,
                    "images_sha256": digest_images(data.digests[row] for row in data.fitted),
                }
            ),
            compare=False,  # its labels are, by `compare`
            overwrite=True,
            on_note=self._note,
        )
        with replacing(self._head, overwrite=True) as temporary:
            model = trained.head.to_onnx(exported.code_shape, self._describe(exported))
            save_checked(model, temporary)
        bundle(
            self._backbone,
            self._head,
            request.output,
            tta=request.tta,
            overwrite=request.overwrite,
        )

    def _describe(self, exported: Export) -> HeadInfo:
        request, data, best = self._request, self._data, self._best
        keys = frozenset(image_key(data.digests[row]) for row in data.fitted)
        recipe = {name: value for name, value in asdict(request.recipe).items() if value}
        logarithms = log_softmax(np.log(np.maximum(self._trained.tested, 1e-30)))
        y = data.y[data.test]
        return HeadInfo(
            labels=tuple(data.labels),
            training={
                "data": PureWindowsPath(request.source).name,
                "estimator": "fine-tuning",
                **({"augment": request.augment, "tta": True} if request.tta else {}),
                "fitted": {
                    "from_layer": request.from_layer,
                    "augment": request.augment,
                    "class_weight": request.class_weight,
                    "best_epoch": best.number,
                    "validation_loss": best.validation_loss,
                    **recipe,
                },
                "split": {
                    "method": request.split,
                    "train_fraction": request.train_fraction,
                    "per_class": None,
                    "seed": request.seed,
                },
                "validation": {
                    "n_images": len(data.validation),
                    "accuracy": best.validation_accuracy,
                },
                "test": {
                    "n_images": len(y),
                    "loss": -float(logarithms[np.arange(len(y)), y].mean()),
                    "accuracy": float((logarithms.argmax(axis=1) == y).mean()),
                },
            },
            backbone=exported.info,
            backbone_sha256=sha256_of(self._backbone),
            training_images=keys,
            created_with=self._trained.created_with,
            white=self._white,
        )

    @property
    def _best(self) -> Epoch:
        return best_of(self._trained.epochs)

    def compare(self) -> tuple[Evaluation, Parity]:
        """Evaluate the app on the test images, and compare its labels with Keras's.

        Raises
        ------
        ParityError
            Too many differ.
        """
        after = self._evaluate(self._request.output)
        digests, labels = after.predictions.digests, after.predictions.predicted
        data, expected = self._data, self._trained.tested.argmax(axis=1)
        index = {data.digests[row]: number for number, row in enumerate(data.test)}
        # An image that was added or changed in the meantime has no label of Keras.
        known = np.array([number for number, each in enumerate(digests) if each in index], np.intp)
        keras = expected[[index[digests[number]] for number in known]]
        differing = known[keras != labels[known]]
        if len(differing):
            # The activations are float16, so from pixels Keras itself may give another label.
            again = self._predict([int(data.test[index[digests[int(each)]]]) for each in differing])
            differing = differing[again != labels[differing]]
        n_images = len(known)
        parity = Parity(n_images, n_images - len(differing))
        if parity.share < PARITY_SHARE:
            raise ParityError(
                f"{self._request.output}: gives {len(differing)} of {n_images} test images another "
                "label than Keras does; report it, with the versions that cnncodes info shows"
            )
        return after, parity

    def _predict(self, rows: list[int]) -> NDArray[np.intp]:
        """Compute the labels of some images with Keras, from their pixels."""
        request, data = self._request, self._data
        root, size = root_of(request.source), request.input_size
        images = [
            load_image(0, root / data.paths[row], size, DEFAULT_MAX_PIXELS, white=self._white)
            for row in rows
        ]
        pixels = np.stack([each.pixels for each in images if each.pixels is not None])
        weights = load_weights(
            request.spec,
            request.layers,
            str(self._trained.weights),
            input_size=request.input_size,
            seed=request.seed,
        )
        with own_keras() as keras:
            network = keras_network(
                *(keras, request.spec, request.layers, weights),
                *(request.codes.layers, request.codes.pool),
            )
            views = make_views(pixels, request.augment if request.tta else "none")
            codes = keras_codes(network, request.spec, views)
        by_view = self._trained.head.log_probabilities(codes)
        labels: NDArray[np.intp] = average_views(by_view, len(views) // len(pixels)).argmax(axis=1)
        return labels

    def quantize(self) -> Evaluation:
        """Write the int8 app, calibrated on training images, and evaluate it."""
        request, data = self._request, self._data
        others = set(data.paths) - {data.paths[row] for row in data.fitted}
        left_out = self._trained.folder / "not-training.txt"
        with replacing(left_out, overwrite=True) as temporary:
            temporary.write_text("\n".join(sorted(others)) + "\n", "utf-8")
        int8 = self._trained.folder / "network.int8.onnx"
        quantize_backbone(
            self._backbone,
            request.source,
            int8,
            exclude=left_out,
            seed=request.seed,
            overwrite=True,
            progress=self._progress,
        )
        bundle(
            int8,
            self._head,
            request.int8_output,
            tta=request.tta,
            allow_mixed=True,
            overwrite=request.overwrite,
        )
        return self._evaluate(request.int8_output)

    def _evaluate(self, app: Path) -> Evaluation:
        request = self._request
        return evaluate(
            app,
            request.source,
            group_by=request.group_by,
            exclude=request.exclude,
            progress=self._progress,
        )
