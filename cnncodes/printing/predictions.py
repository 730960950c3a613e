"""Results of `predict`, `serve` and `page`."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cnncodes.models.metadata import unknown_entries
from cnncodes.printing.emit import print_json
from cnncodes.streams import write_as_utf8
from cnncodes.text import class_nouns, counted, csv_cell, shown

if TYPE_CHECKING:
    from cnncodes.app.classifier import Classifier
    from cnncodes.app.prediction import FilePrediction
    from cnncodes.page.folder import PageFolder

MAX_WIDTH = 50  # of an aligned column of names


def print_top(top: int, classifier: Classifier) -> None:
    """Print a line on standard error if `top` exceeds the number of classes."""
    n_classes = len(classifier.labels)
    if top > n_classes:
        click.echo(
            f"{shown(str(classifier.path))}: has {n_classes} classes; all are printed, not {top}",
            err=True,
        )


def print_table(
    predictions: Iterable[FilePrediction], files: Sequence[Path | None], labels: Iterable[str]
) -> int:
    """Print a line per image as results arrive; return the number of unusable images.

    Parameters
    ----------
    predictions : iterable of FilePrediction
        The results.
    files : sequence of Path or None
        Their files, known in advance; of several, the columns are aligned.
    labels : iterable of str
        The classes.
    """
    path_width = label_width = percent_width = 0
    if len(files) > 1:
        path_width = min(MAX_WIDTH, max(len(shown(str(file or "-"))) for file in files))
        label_width = min(MAX_WIDTH, max(len(shown(label)) for label in labels))
        percent_width = len("100.0%")
    n_unusable = 0
    for image in predictions:
        n_unusable += bool(image.problem)
        named = "  ".join(
            f"{shown(each.label):{label_width}} {each.probability:{percent_width}.1%}"
            for each in image.predictions
        )
        if any(hasattr(each, "is_present") for each in image.predictions):
            named = _present_text(image)
        if not image.is_known:
            nearest = ", ".join(
                f"{shown(each.label)} {each.probability:.1%}" for each in image.predictions
            )
            named = f"none of these (nearest: {nearest})"
        click.echo(f"{shown(str(image.path)):{path_width}}  {named or shown(image.problem)}")
    return n_unusable


def _present_text(image: FilePrediction) -> str:
    """Return the labels that an image has, or the likeliest that it has not."""
    present = [each for each in image.predictions if each.label in image.labels]
    if present:
        return ", ".join(f"{shown(each.label)} {each.probability:.1%}" for each in present)
    nearest = image.predictions[0]
    return f"no label (nearest: {shown(nearest.label)} {nearest.probability:.1%})"


def print_csv(
    predictions: Iterable[FilePrediction], *, has_unknown: bool = False, has_several: bool = False
) -> int:
    """Print a row per image and class as results arrive; return the number of unusable images.

    Parameters
    ----------
    predictions : iterable of FilePrediction
        The results.
    has_unknown : bool
        Whether they have a score of "none of these", for a column of it.
    has_several : bool
        Whether an image may have several labels, for a column with 1 for those it has.
    """
    n_unusable = 0
    write_as_utf8()
    writer = csv.writer(sys.stdout, lineterminator="\n")
    header = ["path", "rank", "label", "probability", "problem"]
    writer.writerow([*header, *["unknown"] * has_unknown, *["present"] * has_several])
    for image in predictions:
        path = csv_cell(str(image.path))
        score = [] if not has_unknown else [f"{image.unknown:.6f}" if image.predictions else ""]
        if image.problem:
            n_unusable += 1
            writer.writerow(
                [path, "", "", "", csv_cell(image.problem), *score, *[""] * has_several]
            )
        for rank, each in enumerate(image.predictions, start=1):
            cells = [path, rank, csv_cell(each.label), f"{each.probability:.6f}", ""]
            present = [int(each.is_present)] if hasattr(each, "is_present") else []
            writer.writerow([*cells, *score, *map(str, present)])
        sys.stdout.flush()
    return n_unusable


def print_list(predictions: Iterable[FilePrediction]) -> int:
    """Print one JSON list of all images; return the number of unusable images."""
    images = [_as_json(image) for image in predictions]
    print_json(images)
    return sum(bool(image["problem"]) for image in images)


def _as_json(image: FilePrediction) -> dict[str, Any]:
    described = asdict(replace(image, explanation=None))
    del described["explanation"]
    for each, prediction in zip(described["predictions"], image.predictions, strict=True):
        del each["unknown"]
        if hasattr(prediction, "is_present"):
            each["present"] = prediction.is_present
    described |= unknown_entries(image.unknown)
    if image.explanation is not None:
        contributions = image.explanation.contributions.tolist()
        described["explanation"] = asdict(image.explanation) | {"contributions": contributions}
    return described


def print_address(url: str) -> None:
    """Print where the page is, at once also where standard output is a pipe."""
    click.echo(f"{url}  (Ctrl-C stops the server)")
    sys.stdout.flush()


def print_page(page: PageFolder) -> None:
    """Print where a page was written."""
    classes = counted(len(page.labels), *class_nouns(several=page.has_several_labels))
    click.echo(
        f"{page.path}: {classes}, {page.n_bytes / 1e6:.0f} MB; open {page.path / 'index.html'}"
    )
