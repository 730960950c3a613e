"""Results of `train` and `evaluate` for several labels per image."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from cnncodes.models.description import fitted_text, label_score_text
from cnncodes.printing.emit import caution
from cnncodes.text import counted, shown

if TYPE_CHECKING:
    from cnncodes.evaluate.multilabel import LabelEvaluation
    from cnncodes.head.multilabel.scores import LabelMetrics
    from cnncodes.head.recipe import Score
    from cnncodes.head.train import Training

LABELS_SHOWN = 20
WORST_SHOWN = 10


def print_label_training(training: Training) -> None:
    """Print the scores of a head of several labels, its thresholds, and how it was fitted."""
    click.echo(
        f"{shown(str(training.path))}: {counted(len(training.labels), 'label')}, of which an image "
        f"may have several, {training.estimator}{caution(training.weights)}"
    )
    width = len(str(max(training.train.n_images, training.test.n_images)))
    for part, score in (("train", training.train), ("test", training.test)):
        _print_score(part, score, width)
    guessing = asdict(training.test).get("guessing")
    if guessing is not None:
        click.echo(f"  for comparison, guessing has a mean average precision of {guessing:.1%}")
    thresholds = training.fitted["thresholds"]
    if len(thresholds) <= LABELS_SHOWN:
        texts = [
            f"{shown(label)} {threshold:.1%}"
            for label, threshold in zip(training.labels, thresholds, strict=True)
        ]
        click.echo(f"  an image has a label from a probability of: {', '.join(texts)}")
    else:
        click.echo(
            f"  an image has a label from a probability of {min(thresholds):.1%} to "
            f"{max(thresholds):.1%} on, one for each label (cnncodes info lists them)"
        )
    click.echo(f"  fitted in {training.seconds:.1f} s: {fitted_text(training.fitted)}")
    for note in training.notes:
        click.echo(f"  note: {shown(note)}")


def print_label_metrics(evaluation: LabelEvaluation) -> None:
    """Print the metrics of several labels, and those of the worst."""
    figures, model = evaluation.metrics, evaluation.model
    click.echo(
        f"{shown(model.path)}: evaluated on {counted(figures.n_images, 'image')} of "
        f"{shown(evaluation.data.path)}, {counted(len(figures.labels), 'label')}, of which an "
        f"image may have several{caution(model.backbone.weights)}"
    )
    if evaluation.data.augment != "none":
        click.echo(f"  averaged over {evaluation.data.views_text}")
    for name, value in (
        ("mean average precision", figures.mean_average_precision),
        ("micro F1", figures.micro_f1),
        ("macro F1", figures.macro_f1),
        ("all labels right", figures.exact),
    ):
        click.echo(f"  {name:22}  {_percent(value)}")
    click.echo(f"  {'log loss of a label':22}  {figures.log_loss:.4f}")
    _print_labels(figures.worst_labels())
    absent = [shown(each.label) for each in figures.labels if not each.n_with]
    if absent:
        click.echo(f"  no image has: {', '.join(absent)}")


def _print_labels(labels: list[LabelMetrics]) -> None:
    if not labels:
        return
    some = labels if len(labels) <= LABELS_SHOWN else labels[:WORST_SHOWN]
    heading = "worst first" if len(some) == len(labels) else f"the worst {len(some)}"
    width = max(len(shown(each.label)) for each in some)
    click.echo(f"  labels, {heading}:")
    for each in some:
        click.echo(
            f"    {shown(each.label):{width}}  average precision {_percent(each.average_precision)}"
            f"  F1 {_percent(each.f1)}  precision {_percent(each.precision)}  recall "
            f"{_percent(each.recall)}  {each.n_with} of {counted(each.n_images, 'image')}"
        )


def _print_score(part: str, score: Score, width: int) -> None:
    if score.accuracy is None:
        click.echo(f"  {part:5}  no images: nothing is tested")
        return
    images = "image " if score.n_images == 1 else "images"
    described = asdict(score)
    text = (
        "no image has a label"
        if described["mean_average_precision"] is None
        else label_score_text(described)
    )
    click.echo(f"  {part:5}  {score.n_images:{width}} {images}  loss {score.loss:.4f}  {text}")


def _percent(value: float | None) -> str:
    return f"{'–':>6}" if value is None else f"{value:6.1%}"
