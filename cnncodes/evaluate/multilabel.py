"""Evaluation of a model of several labels per image."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cnncodes.errors import SourceError
from cnncodes.evaluate.evaluation import EvaluatedImage, Evaluation
from cnncodes.head.multilabel.scores import MultiLabelMetrics, measure_labels
from cnncodes.images.multilabel import UNKNOWN_VALUE, from_matrix, names_in
from cnncodes.models.metadata import HeadInfo
from cnncodes.output import replacing
from cnncodes.text import counted, csv_cell, listed, shown

if TYPE_CHECKING:
    from cnncodes.evaluate.evaluation import EvaluatedData, EvaluatedModel


@dataclass(frozen=True)
class LabelPredictions:
    """The predictions of several labels for all images of an evaluation.

    Attributes
    ----------
    paths, digests : sequence of str
        As in `Predictions`.
    labels : sequence of str
        The labels of the model.
    thresholds : sequence of float
        Probabilities from which an image has a label.
    truth : ndarray of uint8, shape (n_images, n_labels)
        Which images have each label: 1, 0, or 255 where it is unknown.
    probabilities : ndarray of float32, shape (n_images, n_labels)
        Of the labels.
    """

    paths: Sequence[str]
    digests: Sequence[str]
    labels: Sequence[str]
    thresholds: Sequence[float]
    truth: NDArray[np.uint8]
    probabilities: NDArray[np.float32]

    @property
    def predicted(self) -> NDArray[np.bool_]:
        """Which images are predicted to have each label."""
        predicted: NDArray[np.bool_] = self.probabilities >= np.array(self.thresholds, np.float32)
        return predicted

    def __iter__(self) -> Iterator[EvaluatedImage]:
        return (self._image(row) for row in range(len(self.paths)))

    def mistakes(self, most: int) -> list[EvaluatedImage]:
        """Return images with a wrong label, those first whose probability is the most wrong."""
        errors = self._errors()
        surest = np.argsort(-errors, kind="stable")[: min(most, int((errors > 0).sum()))]
        return [self._image(int(row)) for row in surest]

    def _errors(self) -> NDArray[np.float32]:
        """Return for each image the largest error of a probability of a label that is wrong."""
        wrong = (self.predicted != (self.truth == 1)) & (self.truth != UNKNOWN_VALUE)
        errors = np.abs(self.probabilities - (self.truth == 1))
        largest: NDArray[np.float32] = np.where(wrong, errors, 0).max(axis=1)
        return largest

    def _image(self, row: int) -> EvaluatedImage:
        """Return an image; its probability is that of the likeliest label."""
        (truth,) = from_matrix(self.truth[row : row + 1])
        (predicted,) = from_matrix(self.predicted[row : row + 1].astype(np.uint8))
        return EvaluatedImage(
            path=self.paths[row],
            digest=self.digests[row],
            label=names_in(truth, self.labels),
            predicted=names_in(predicted, self.labels),
            probability=float(self.probabilities[row].max()),
        )


@dataclass(frozen=True)
class LabelEvaluation(Evaluation):
    """The result of `evaluate` for a model of several labels.

    Attributes
    ----------
    metrics : MultiLabelMetrics
        The metrics; ``figures`` in JSON.
    predictions : LabelPredictions
        Those of all images.
    """

    metrics: MultiLabelMetrics  # type: ignore[assignment]
    predictions: LabelPredictions  # type: ignore[assignment]


def evaluate_labels(
    model: EvaluatedModel,
    info: HeadInfo,
    data: EvaluatedData,
    images: Sequence[tuple[str, str]],
    truth: NDArray[np.uint8],
    probabilities: NDArray[np.float32],
    notes: list[str],
) -> LabelEvaluation:
    """Return the result for the images of an evaluation, given as paths and digests."""
    targets, known = truth == 1, truth != UNKNOWN_VALUE
    metrics = measure_labels(probabilities, targets, known, info.thresholds, info.labels)
    paths, digests = zip(*images, strict=True)
    predictions = LabelPredictions(
        paths, digests, info.labels, info.thresholds, truth, probabilities
    )
    return LabelEvaluation(model, data, metrics, notes, predictions)


def align_labels(
    data: Path, info: HeadInfo, matrix: NDArray[np.uint8] | None, names: Sequence[str]
) -> tuple[NDArray[np.uint8], list[str]]:
    """Return which images have the labels of a model, (n_images, n_labels), and notes.

    Parameters
    ----------
    data : Path
        The images; named in errors.
    info : HeadInfo
        The metadata of the model.
    matrix : ndarray of uint8, shape (n_images, n_names), or None
        Which images have each label of the data; None where an image has one label.
    names : sequence of str
        The labels of the data.

    Raises
    ------
    SourceError
        The model or the images have one label each and the others several, or they have no label
        in common.
    """
    if info.has_several_labels != (matrix is not None):
        one, several = "one label per image", "several labels per image"
        models, images = (several, one) if info.has_several_labels else (one, several)
        raise SourceError(
            f"{data}: has {images}, and the model is of {models}; use images and a model of the "
            "same kind"
        )
    assert matrix is not None
    columns = {name: column for column, name in enumerate(names)}
    aligned = np.full((len(matrix), len(info.labels)), UNKNOWN_VALUE, np.uint8)
    for index, label in enumerate(info.labels):
        if label in columns:
            aligned[:, index] = matrix[:, columns[label]]
    foreign = [shown(name) for name in names if name not in info.labels]
    absent = [shown(label) for label in info.labels if label not in columns]
    if len(absent) == len(info.labels):
        raise SourceError(
            f"{data}: its labels ({listed(foreign)}) are not those of the model "
            f"({listed(absent)}); use images of these"
        )
    notes = []
    if foreign:
        notes.append(f"{counted(len(foreign), 'label')} the model does not know: {listed(foreign)}")
    if absent:
        notes.append(f"not evaluated, since the images do not have them: {listed(absent)}")
    return aligned, notes


def write_label_predictions(evaluation: LabelEvaluation, path: Path, *, overwrite: bool) -> None:
    """Write the labels of each image, true and predicted, and a probability for each, as CSV."""
    predictions = evaluation.predictions
    with (
        replacing(path, overwrite=overwrite) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        columns = [csv_cell(f"probability:{label}") for label in predictions.labels]
        writer.writerow(["path", "label", "predicted", *columns])
        for each, row in zip(predictions, predictions.probabilities.tolist(), strict=True):
            names = map(csv_cell, (each.path, each.label, each.predicted))
            writer.writerow([*names, *(f"{probability:.6f}" for probability in row)])
