"""A head or an app in onnxruntime, run on codes or on images.

The model file itself runs, block by block, so that the codes are never in memory all at once.
Images go through workers, as in `extract`.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Generator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncodes.errors import FileFormatError, ParameterError
from cnncodes.evaluate.evaluation import EvaluatedModel
from cnncodes.extract.backbone import Backbone
from cnncodes.extract.store import CodeStore
from cnncodes.extract.workers import (
    default_batch_size,
    extract_views,
    n_fitting_workers,
    run_batches,
)
from cnncodes.files import sha256_of
from cnncodes.head.rows import CodeRows
from cnncodes.head.views import average_probabilities, average_sigmoids
from cnncodes.images.decoding import LoadedImage
from cnncodes.machine import available_threads
from cnncodes.models.matching import match_networks
from cnncodes.models.metadata import PREFIX, UNKNOWN, HeadInfo, with_article
from cnncodes.models.session import open_session, run_session, warn_of_saturation
from cnncodes.models.tensors import read_tensors
from cnncodes.parameters import VIEWS
from cnncodes.progress import Progress


class ModelSession:
    """A head or an app in a session."""

    def __init__(
        self, path: Path, provider: str, allow_mixed: bool, *, threads: int | None
    ) -> None:
        self.path = path
        self.provider = provider
        self.allow_mixed = allow_mixed
        self._session, metadata = open_session(
            path, "head", "app", threads=threads, provider=provider
        )
        self.info = HeadInfo.from_metadata(metadata, path)
        self.kind = metadata[PREFIX + "kind"]
        if self.kind == "app":
            for network in self.info.networks:
                warn_of_saturation(path, network)
        self._input = "codes" if self.kind == "head" else "images"
        inputs = [each.name for each in self._session.get_inputs()]
        output = self._session.get_outputs()[0]
        n_classes = len(self.info.labels)
        is_ours = (inputs, output.name, output.shape[1:]) == (
            [self._input],
            "probabilities",
            [n_classes],
        )
        if not is_ours or (n_classes < 2 and not self.info.has_several_labels):
            raise FileFormatError(
                f"{path}: its input or output is not that of {with_article(self.kind)}; "
                "make it again"
            )
        self.input_shape = tuple(self._session.get_inputs()[0].shape[1:])
        self.has_unknown = any(
            (each.name, each.shape[1:]) == (UNKNOWN, []) for each in self._session.get_outputs()
        )

    def answers(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Run a batch; refuse an output that is not of probabilities.

        Returns
        -------
        ndarray of float32, shape (n_images, n_classes), or (n_images, n_classes + 1)
            The probabilities, and where the model has the output ``unknown`` that behind them.
        """
        names = ["probabilities", *[UNKNOWN] * self.has_unknown]
        output, *scores = run_session(self._session, self.path, names, self._input, batch)
        if self.info.has_several_labels:
            are_probabilities = bool(((output >= 0) & (output <= 1)).all())
        else:
            adds_up = (np.abs(output.sum(axis=1) - 1) < 1e-3).all()
            are_probabilities = bool(adds_up and output.min(initial=0) >= 0)
        if not are_probabilities:
            raise FileFormatError(f"{self.path}: gives no probabilities; train it again")
        answers: NDArray[np.float32] = np.column_stack([output, *scores])
        return answers

    def check_store(self, file: Path, store: CodeStore) -> None:
        """Refuse codes of another shape, or with another white, than those of the training."""
        self.check_shape(file, store.codes.shape[1:])
        if store.white != self.info.white:
            raise FileFormatError(
                f"{file}: was extracted with white {_shown_white(store.white)}, {self.path} was "
                f"trained with {_shown_white(self.info.white)}; extract it again with the same"
            )

    def check_one_network(self, parameter: str) -> None:
        """Refuse a parameter that is of one network, for a head of several."""
        if n_networks := len(self.info.parts):
            raise ParameterError(
                f"{self.path}: takes the codes of {n_networks} networks, and {parameter} is of "
                "one; join them with cnncodes bundle, and evaluate the app on images"
            )

    def check_takes_codes(self, file: Path) -> None:
        """Refuse codes for an app."""
        if self.kind == "app":
            raise ParameterError(
                f"{self.path}: is an app, which takes images; give it the folder or CSV file of "
                f"the images, or evaluate its head on {file}"
            )

    def averaged(self, answers: NDArray[np.float32], augment: str) -> NDArray[np.float32]:
        """Average the logits of the views of each image; `unknown` is that of the image itself."""
        n_views = VIEWS[augment]
        if n_views == 1:
            return answers
        if self.info.has_several_labels:
            return average_sigmoids(answers, n_views)
        least = np.finfo(np.float32).tiny if self._is_linear else np.finfo(np.float32).eps
        n_classes = len(self.info.labels)
        probabilities = answers[:, :n_classes]
        averaged = average_probabilities(probabilities, n_views, least=float(least))
        return np.column_stack([averaged, answers[::n_views, n_classes:]])

    @cached_property
    def _is_linear(self) -> bool:
        return len(read_tensors(self.path, ("weights", "bias"))) == 2

    def check_shape(self, file: Path, shape: Sequence[int]) -> None:
        """Refuse codes of another shape than the head takes."""
        if tuple(shape) != self.input_shape:
            raise FileFormatError(
                f"{self.path}: takes codes of another shape than {file} has; train it again"
            )

    def describe(self) -> EvaluatedModel:
        """Return what the results tell of the model."""
        return EvaluatedModel(
            path=str(self.path),
            kind=self.kind,
            sha256=sha256_of(self.path),
            training=self.info.training,
            created_with=self.info.created_with,
            n_training_images=len(self.info.training_images),
            backbone=self.info.backbone,
            backbone_sha256=self.info.backbone_sha256,
        )


def classifier_of(
    model: ModelSession, backbone: str | Path | None, augment: str
) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Return the function from pixels to probabilities: an app, or backbone and head."""
    if model.kind == "app":
        if backbone is not None:
            raise ParameterError(f"{model.path}: an app has its backbone; leave backbone out")
        size = model.info.backbone.input_size
        if model.input_shape != (size, size, 3):
            raise FileFormatError(f"{model.path}: its input is not that of an app; bundle it again")
        return model.answers
    if backbone is None:
        raise ParameterError(
            f"{model.path}: is a head, which takes codes; give it a codes file, or pass "
            "backbone='FILE' with the file of its network"
        )
    model.check_one_network(f"{backbone}, its backbone,")
    network = Backbone(backbone, threads=1, provider=model.provider)
    networks = [(network.path, network.info, network.sha256)]
    match_networks(model.path, model.info, networks, allow_mixed=model.allow_mixed)
    model.check_shape(network.path, network.code_shape)
    return lambda pixels: model.averaged(
        model.answers(extract_views(network, pixels, augment)), augment
    )


def run_codes(
    model: ModelSession, rows: CodeRows, augment: str, progress: Progress
) -> NDArray[np.float32]:
    """Return the model's `answers` to images of a codes file, averaged over their rows."""
    blocks = []
    progress.begin(len(rows) // VIEWS[augment])
    for _, block in rows.blocks():
        # (n, n_features) → (n, height, width, channels), or (n, channels)
        answers = model.answers(block.reshape(len(block), *model.input_shape))
        blocks.append(model.averaged(answers, augment))
        progress.advance(len(blocks[-1]))
    return np.concatenate(blocks)


def run_images(
    model: ModelSession,
    files: list[Path],
    classify: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    max_pixels: int,
    known: Container[str],
) -> Generator[tuple[list[LoadedImage], NDArray[np.float32] | None], None, None]:
    """Run image files in workers, but for those whose digest is `known`, as `run_batches`."""
    size, precision = model.info.backbone.input_size, model.info.backbone.precision
    n_workers = max(1, min(available_threads(), len(files)))
    batch_size = default_batch_size(precision, len(files), n_workers)
    return run_batches(
        files,
        size,
        classify,
        n_workers=min(n_workers, n_fitting_workers(size, batch_size * model.info.n_views)),
        batch_size=batch_size,
        max_pixels=max_pixels,
        white=model.info.white,
        known=known,
    )


def _shown_white(white: int | None) -> str:
    return "guessed from each image" if white is None else f"{white}"
