"""The result of an evaluation: model, images, metrics and mistakes; as JSON and as CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cnncodes.evaluate.metrics import Metrics
from cnncodes.models.metadata import BackboneInfo
from cnncodes.output import TABLE, check_ending, replacing
from cnncodes.parameters import VIEWS
from cnncodes.text import csv_cell

if TYPE_CHECKING:
    from cnncodes.evaluate.unknown import UnknownMetrics

FORMAT = "1"
N_MISTAKES = 24


@dataclass(frozen=True)
class EvaluatedModel:
    """The model that was evaluated, from the metadata of its file.

    Attributes
    ----------
    path : str
        Its file.
    kind : {"head", "app"}
        The kind of file.
    sha256 : str
        SHA-256 of its file.
    training : dict
        How it was trained.
    created_with : str
        Versions of the packages that made the file.
    n_training_images : int
        Training images, copies counted once.
    backbone : BackboneInfo
        The network that computes its codes.
    backbone_sha256 : str
        SHA-256 of that network's file.
    """

    path: str
    kind: str
    sha256: str
    training: dict[str, Any]
    created_with: str
    n_training_images: int
    backbone: BackboneInfo
    backbone_sha256: str


@dataclass(frozen=True)
class EvaluatedData:
    """The images on which a model was evaluated.

    Attributes
    ----------
    path : str
        Codes file, folder or CSV file.
    source : str
        Folder or CSV file of the images, as it was typed.
    include_training : bool
        Whether training images of the model are included.
    images_sha256 : str
        SHA-256 of the sorted SHA-256 of the images: equal for evaluations on the same images.
    augment : {"none", "hflip", "hvflip", "d4"}
        Which views of each image the mean of the logits is taken over; in JSON only with views.
    other_sources : tuple of str
        Those beside `source` where several codes files are stacked; in JSON only if there are.
    """

    path: str
    source: str
    include_training: bool
    images_sha256: str
    augment: str = "none"
    other_sources: tuple[str, ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        """All sources."""
        return self.source, *self.other_sources

    @property
    def views_text(self) -> str:
        """What the logits were averaged over, in words."""
        return f"{VIEWS[self.augment]} views of each image ({self.augment})"

    def as_dict(self) -> dict[str, Any]:
        """Return JSON types, with what stands for test-time augmentation only where it was used."""
        described = asdict(self)
        if not described["other_sources"]:
            del described["other_sources"]
        if described.pop("augment") == "none":
            return described
        return {**described, "tta": {"augment": self.augment, "views": VIEWS[self.augment]}}


@dataclass(frozen=True)
class EvaluatedImage:
    """An image with its true and its predicted class.

    Attributes
    ----------
    path : str
        The image, relative to the source.
    digest : str
        SHA-256 of its file, hexadecimal.
    label, predicted : str
        The true and the predicted class.
    probability : float
        Probability of the predicted class.
    """

    path: str
    digest: str
    label: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class Predictions:
    """The predictions for all images of an evaluation, in the order of the data.

    Attributes
    ----------
    paths : sequence of str
        The images, relative to the source.
    digests : sequence of str
        SHA-256 of their files, hexadecimal.
    labels : sequence of str
        The classes that the model knows.
    targets, predicted : ndarray of int, shape (n_images,)
        Index of the true and of the predicted class in `labels`.
    probabilities : ndarray of float32, shape (n_images,)
        Probability of the predicted class.
    unknown : ndarray of float32, shape (n_images,), optional
        How unlike the training images each is, from 0 to 1, where the model has that output.
    """

    paths: Sequence[str]
    digests: Sequence[str]
    labels: Sequence[str]
    targets: NDArray[np.intp]
    predicted: NDArray[np.intp]
    probabilities: NDArray[np.float32]
    unknown: NDArray[np.float32] | None = None

    def __iter__(self) -> Iterator[EvaluatedImage]:
        return (self._image(row) for row in range(len(self.paths)))

    def mistakes(self, most: int) -> list[EvaluatedImage]:
        """Return the mistakes of the highest probabilities, in decreasing order."""
        wrong = np.flatnonzero(self.predicted != self.targets)
        surest = wrong[np.argsort(-self.probabilities[wrong], kind="stable")[:most]]
        return [self._image(row) for row in surest]

    def _image(self, row: int) -> EvaluatedImage:
        return EvaluatedImage(
            path=self.paths[row],
            digest=self.digests[row],
            label=self.labels[self.targets[row]],
            predicted=self.labels[self.predicted[row]],
            probability=float(self.probabilities[row]),
        )


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    Attributes
    ----------
    model : EvaluatedModel
        The model.
    data : EvaluatedData
        The images.
    metrics : Metrics
        The metrics; ``figures`` in JSON.
    notes : list of str
        Remarks on the data.
    predictions : Predictions
        Those of all images; JSON has `mistakes` of them.
    unknown : UnknownMetrics or None
        Metrics of the score of "none of these", where the model has one.
    """

    model: EvaluatedModel
    data: EvaluatedData
    metrics: Metrics
    notes: list[str]
    predictions: Predictions
    unknown: UnknownMetrics | None = None

    @property
    def mistakes(self) -> list[EvaluatedImage]:
        """The `N_MISTAKES` mistakes of the highest probabilities, in decreasing order."""
        return self.predictions.mistakes(N_MISTAKES)


def evaluation_to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return an evaluation as JSON types; a number that is not finite becomes null.

    Only the model's metadata can hold one: Python reads NaN there, other programs do not.
    """
    described = {
        "format": FORMAT,
        "kind": "evaluation",
        "model": asdict(evaluation.model),
        "data": evaluation.data.as_dict(),
        "figures": asdict(evaluation.metrics),  # the key is part of the format
        "mistakes": [asdict(each) for each in evaluation.mistakes],
        "notes": evaluation.notes,
        **({} if evaluation.unknown is None else {"unknown": asdict(evaluation.unknown)}),
    }
    plain: dict[str, Any] = json.loads(json.dumps(described), parse_constant=lambda _: None)
    return plain


def write_predictions(evaluation: Evaluation, path: Path, *, overwrite: bool = False) -> None:
    """Write the prediction for each evaluated image as CSV.

    Parameters
    ----------
    evaluation : Evaluation
        The result.
    path : Path
        The file to write, with the columns path, label, predicted and probability, and unknown
        where the model has that output, in the order of the data. As in all our CSV files, an
        apostrophe precedes what a spreadsheet would compute.
    overwrite : bool
        Whether a file at `path` may be replaced.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    check_ending(path, TABLE)
    from cnncodes.evaluate.multilabel import LabelEvaluation, write_label_predictions

    if isinstance(evaluation, LabelEvaluation):
        write_label_predictions(evaluation, path, overwrite=overwrite)
        return
    with (
        replacing(path, overwrite=overwrite) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        unknown = evaluation.predictions.unknown
        header = ["path", "label", "predicted", "probability"]
        writer.writerow([*header, *["unknown"] * (unknown is not None)])
        for row, each in enumerate(evaluation.predictions):
            names = map(csv_cell, (each.path, each.label, each.predicted))
            score = [] if unknown is None else [f"{unknown[row]:.6f}"]
            writer.writerow([*names, f"{each.probability:.6f}", *score])
