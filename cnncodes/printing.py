"""What the commands print: results for people, or as JSON and CSV for programs."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from cnncodes.text import shown

if TYPE_CHECKING:
    from cnncodes.export.keras_onnx import Export
    from cnncodes.extract.pipeline import Extraction
    from cnncodes.head.classifier import Classifier, FilePrediction
    from cnncodes.head.softmax import Epoch
    from cnncodes.head.train import Score, Training

SKIPPED_SHOWN = 5


def print_json(value: Any) -> None:
    """Print a value as JSON; what JSON does not know, such as a path, as text."""
    click.echo(json.dumps(value, default=str, indent=2))


def print_export(exported: Export) -> None:
    """Print what was exported, and how close it is to Keras."""
    info = exported.info
    size = (info.input_size, info.input_size)
    click.echo(f"{shown(str(exported.path))}: {info.backbone}, {info.weights} weights")
    click.echo(f"  codes   {_shape(exported.code_shape)} for an image of {_shape(size)}")
    click.echo(
        f"  parity  differs from Keras by {info.parity:.1e} of the largest code at most "
        f"({info.parity_images})"
    )


def print_extraction(extraction: Extraction) -> None:
    """Print what was extracted, how fast, and what was skipped."""
    n_classes = len(extraction.class_names)
    n_done = extraction.n_images + len(extraction.skipped) - extraction.n_resumed
    click.echo(
        f"{shown(str(extraction.path))}: {extraction.n_images} images, "
        f"{f'{n_classes} classes' if n_classes else 'no labels'}, codes "
        f"{_shape(extraction.code_shape)}; {n_done / extraction.seconds:.1f} images a second"
    )
    if extraction.n_resumed:
        click.echo(f"  went on after {extraction.n_resumed} images of an earlier run")
    if extraction.skipped:
        n_skipped = len(extraction.skipped)
        click.echo(f"  {n_skipped} images skipped, listed in the file; the first:")
        for path, reason in extraction.skipped[:SKIPPED_SHOWN]:
            click.echo(f"    {shown(path)}: {shown(reason)}")


def print_epoch(epoch: Epoch) -> None:
    """Print on standard error how an epoch of SGD ended."""
    line = f"  epoch {epoch.number:3}  train loss {epoch.train_loss:.4f}"
    if epoch.validation_loss is not None:
        line += (
            f"  validation loss {epoch.validation_loss:.4f}  accuracy "
            f"{epoch.validation_accuracy:.1%}"
        )
    click.echo(line, err=True)


def print_training(training: Training) -> None:
    """Print how well a head does, and how it was fitted."""
    click.echo(f"{shown(str(training.path))}: {len(training.labels)} classes, {training.estimator}")
    _print_score("train", training.train, training.weights)
    _print_score("test", training.test, training.weights)
    if training.majority is not None:
        click.echo(f"  always naming the most common class: {training.majority:.1%} of the test")
    long = ("C_scores", "parameters")
    fitted = _pairs({key: value for key, value in training.fitted.items() if key not in long})
    click.echo(f"  fitted in {training.seconds:.1f} s{f': {fitted}' if fitted else ''}")
    if "C_scores" in training.fitted:
        scores = training.fitted["C_scores"]
        tried = ", ".join(f"{C:g} {score:.1%}" for C, score in scores.items())
        click.echo(
            f"  C chosen by accuracy in cross-validation on the training part: {tried}"
            f"{_caution(training.weights)}"
        )
    for note in training.notes:
        click.echo(f"  note: {shown(note)}")


def print_top(top: int, classifier: Classifier) -> None:
    """Say on standard error, once, if more classes are asked for than there are."""
    n_classes = len(classifier.labels)
    if top > n_classes:
        click.echo(
            f"{shown(str(classifier.path))}: has {n_classes} classes; all are told, not {top}",
            err=True,
        )


def print_table(found: Iterable[FilePrediction]) -> int:
    """Print a line an image, as they come; return how many could not be used."""
    n_unusable = 0
    for image in found:
        n_unusable += bool(image.problem)
        named = "  ".join(
            f"{shown(each.label)} {each.probability:.1%}" for each in image.predictions
        )
        click.echo(f"{shown(str(image.path))}  {named or shown(image.problem)}")
    return n_unusable


def print_csv(found: Iterable[FilePrediction]) -> int:
    """Print a row an image and class, as they come; return how many could not be used."""
    n_unusable = 0
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["path", "rank", "label", "probability", "problem"])
    for image in found:
        path = shown(str(image.path))
        if image.problem:
            n_unusable += 1
            writer.writerow([path, "", "", "", shown(image.problem)])
        for rank, each in enumerate(image.predictions, start=1):
            writer.writerow([path, rank, shown(each.label), f"{each.probability:.6f}", ""])
    return n_unusable


def print_list(found: Iterable[FilePrediction]) -> int:
    """Print one JSON list of all images; return how many could not be used."""
    images = [asdict(image) for image in found]
    print_json(images)
    return sum(bool(image["problem"]) for image in images)


def _print_score(part: str, score: Score, weights: str) -> None:
    if score.accuracy is None:
        click.echo(f"  {part:5}  no images")
        return
    click.echo(
        f"  {part:5}  {score.n_images} images  loss {score.loss:.4f}  "
        f"accuracy {score.accuracy:.1%}{_caution(weights)}"
    )


def _caution(weights: str) -> str:
    """Mark a figure that random weights gave: it says nothing about trained ones."""
    return "  (random weights)" if weights.startswith("random") else ""


def _shape(shape: Iterable[int]) -> str:
    return " × ".join(map(str, shape))


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_short(value)}" for key, value in values.items() if value is not None)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
