"""Results of `train`, `evaluate`, `curve` and `experiment`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cnncodes.models.description import fitted_text, unknown_text, weights_text
from cnncodes.printing.emit import caution
from cnncodes.printing.images import print_source
from cnncodes.printing.labels import print_label_metrics, print_label_training
from cnncodes.text import counted, shown

if TYPE_CHECKING:
    from cnncodes.evaluate.curve import Curve
    from cnncodes.evaluate.evaluation import Evaluation
    from cnncodes.evaluate.metrics import ClassMetrics
    from cnncodes.evaluate.unknown import UnknownMetrics
    from cnncodes.experiment.experiment import Planned
    from cnncodes.experiment.result import Experiment, NetworkResult
    from cnncodes.head.earlier import Growth
    from cnncodes.head.recipe import Score
    from cnncodes.head.sgd.softmax import Epoch
    from cnncodes.head.train import Training
    from cnncodes.progress import Progress

CLASSES_SHOWN = 10
WORST_SHOWN = 5
CONFUSIONS_SHOWN = 3
FEW_TESTED = 30  # images; the interval of the accuracy is then 15 points to either side, or more


def print_epoch(epoch: Epoch, progress: Progress) -> None:
    """Print on standard error, where the progress is shown, how an epoch of SGD ended."""
    line = f"  epoch {epoch.number:3}  train loss {epoch.train_loss:.4f}"
    if epoch.validation_loss is not None:
        line += (
            f"  validation loss {epoch.validation_loss:.4f}  accuracy "
            f"{epoch.validation_accuracy:.1%}"
        )
    progress.print_line(line)


def print_training(training: Training) -> None:
    """Print the scores of a head and how it was fitted."""
    if "thresholds" in training.fitted:
        print_label_training(training)
        return
    click.echo(
        f"{shown(str(training.path))}: {len(training.labels)} classes, {training.estimator}"
        f"{caution(training.weights)}"
    )
    width = len(str(max(training.train.n_images, training.test.n_images)))
    _print_score("train", training.train, width)
    _print_score("test", training.test, width)
    if training.majority is not None:
        _print_majority(training.majority)
    if training.test.accuracy is not None:
        _print_doubts(training.test.accuracy, training.test.n_images, training.majority)
    if training.growth is not None:
        _print_growth(training.growth)
    if training.unknown is not None:
        click.echo(f"  none of these: {shown(unknown_text(training.unknown))}")
    fitted = fitted_text(training.fitted)
    click.echo(f"  fitted in {training.seconds:.1f} s{f': {fitted}' if fitted else ''}")
    for note in training.notes:
        click.echo(f"  note: {shown(note)}")


def training_to_json(training: Training) -> dict[str, Any]:
    """Return a training as JSON types, without entries for what it has not."""
    described = asdict(training)
    for name in ("unknown", "growth"):
        if described[name] is None:
            del described[name]
    return described


def print_evaluation(evaluation: Evaluation, report: Path | None, predictions: Path | None) -> None:
    """Print the metrics, the worst classes, the commonest confusions and the files written."""
    from cnncodes.evaluate.multilabel import LabelEvaluation

    if isinstance(evaluation, LabelEvaluation):
        print_label_metrics(evaluation)
    else:
        _print_metrics(evaluation)
    for note in evaluation.notes:
        click.echo(f"  note: {shown(note)}")
    if report is not None:
        click.echo(f"{shown(str(report / 'index.html'))}: the report, for a browser")
    if predictions is not None:
        click.echo(f"{shown(str(predictions))}: the prediction for each image")


def _print_metrics(evaluation: Evaluation) -> None:
    figures, model = evaluation.metrics, evaluation.model
    click.echo(
        f"{shown(model.path)}: evaluated on {counted(figures.n_images, 'image')} of "
        f"{shown(evaluation.data.path)}, {len(figures.classes)} classes"
        f"{caution(model.backbone.weights)}"
    )
    if evaluation.data.augment != "none":
        click.echo(f"  averaged over {evaluation.data.views_text}")
    click.echo(f"  accuracy           {figures.accuracy:.1%}")
    if figures.top5_accuracy is not None:
        click.echo(f"  top-5 accuracy     {figures.top5_accuracy:.1%}")
    click.echo(f"  balanced accuracy  {figures.balanced_accuracy:.1%}")
    click.echo(f"  log loss           {figures.log_loss:.4f}")
    click.echo(f"  calibration error  {figures.calibration_error:.1%}")
    click.echo(
        f"  for comparison     {figures.majority:.1%} is the accuracy of always predicting "
        f"{shown(figures.majority_label)}"
    )
    _print_doubts(figures.accuracy, figures.n_images, figures.majority)
    if evaluation.unknown is not None:
        _print_unknown(evaluation.unknown)
    _print_classes(figures.worst_classes())
    confusions = figures.confusions(CONFUSIONS_SHOWN)
    for each in confusions:
        images = counted(each.n_images, "image")
        click.echo(f"  {shown(each.label)} predicted as {shown(each.predicted)}: {images}")
    n_wrong = figures.n_images - round(figures.accuracy * figures.n_images)
    if n_others := n_wrong - sum(each.n_images for each in confusions):
        click.echo(f"  and {counted(n_others, 'more mistake')}, {n_wrong} in all")


def print_curves(curves: Sequence[Curve], path: Path, plot: Path | None) -> None:
    """Print a table per codes file, accuracy by number of training images, and what was written."""
    for curve in curves:
        click.echo(
            f"{shown(curve.codes)}: {shown(curve.network)}, "
            f"{weights_text(curve.weights, curve.weights_file)}, {curve.n_classes} classes; "
            f"tested on {counted(curve.n_test, 'image')}"
        )
        if curve.majority is not None:
            _print_majority(curve.majority)
        click.echo("  images per class  in all       C  test accuracy")
        for point in curve.points:
            spread = f" ± {point.deviation:.1%}" if len(point.accuracies) > 1 else ""
            click.echo(
                f"  {point.per_class:16}  {point.n_train:7}  {point.C:6g}  {point.mean:.1%}{spread}"
            )
        n_draws = [len(point.accuracies) for point in curve.points]
        if max(n_draws) > 1:
            once = "; with all of them there is one fit" if min(n_draws) == 1 else ""
            click.echo(
                f"  mean ± standard deviation over {max(n_draws)} draws of the training images"
                f"{once}"
            )
        click.echo(f"  {shown(curve.summary)}")
        for note in curve.notes:
            click.echo(f"  note: {shown(note)}")
    click.echo(f"{shown(str(path))}: the numbers")
    if plot is not None:
        click.echo(f"{shown(str(plot))}: the chart")


def print_plan(path: Path, planned: Planned) -> None:
    """Print on standard error what an experiment will do, before it begins."""
    print_source(path, planned.source)
    sizes = ", ".join(map(str, planned.per_class))
    click.echo(f"Into {shown(str(planned.folder))}, for each network:", err=True)
    codes = [
        f"{shown(name)} ({'there' if is_there else 'to be computed'})"
        for name, is_there in planned.codes.items()
    ]
    click.echo(f"  the codes: {', '.join(codes)}", err=True)
    click.echo(
        f"  with at most {sizes} and with all training images per class: a softmax layer, tested\n"
        f"  after {' and '.join(map(str, planned.epochs))} epochs, and a logistic head",
        err=True,
    )
    click.echo("When it is interrupted, the same command goes on.", err=True)


def print_experiment(experiment: Experiment, folder: Path) -> None:
    """Print the accuracies of each network and where the page is."""
    click.echo(
        f"{shown(experiment.source)}: {experiment.n_classes} classes, {experiment.n_train:,} "
        f"training and {experiment.n_test:,} test images"
    )
    _print_majority(experiment.majority)
    for network in experiment.networks:
        _print_network(network, is_compared=experiment.is_caltech101)
    for note in experiment.notes:
        click.echo(f"  note: {shown(note)}")
    click.echo(f"{shown(str(folder / 'index.html'))}: the page, for a browser")


def _print_network(network: NetworkResult, *, is_compared: bool) -> None:
    weights = weights_text(network.weights, network.weights_file)
    click.echo(f"{shown(network.name)}: {shown(network.backbone)}, {weights}")
    published = network.published if is_compared else None
    epochs = list(network.points[0].softmax)
    heading = "".join(f"  {f'{each} epochs':>9}" for each in epochs)
    known = "  published" if published else ""
    click.echo(f"  images per class  in all{heading}  logistic{known}")
    for point in network.points:
        size = "all" if point.per_class is None else f"{point.per_class:,}"
        line = f"  {size:>16}  {point.n_train:6}"
        line += "".join(f"  {point.softmax[each]:9.1%}" for each in epochs)
        line += f"  {point.logistic:8.1%}"
        if published:
            accuracy = (
                published.accuracy
                if point.per_class is None
                else published.accuracy_of(point.per_class)
            )
            line += f"  {'–' if accuracy is None else f'{accuracy:.1%}':>9}"
        click.echo(line)


def _print_classes(classes: list[ClassMetrics]) -> None:
    some = classes if len(classes) <= CLASSES_SHOWN else classes[:WORST_SHOWN]
    heading = "worst first" if len(some) == len(classes) else f"the worst {len(some)}"
    width = max(len(shown(each.label)) for each in some)
    click.echo(f"  classes, {heading}:")
    for each in some:
        precision = "–" if each.precision is None else f"{each.precision:.1%}"
        click.echo(
            f"    {shown(each.label):{width}}  F1 {each.f1:6.1%}  precision {precision:>6}  "
            f"recall {each.recall:6.1%}  images {each.n_images}"
        )


def _print_unknown(metrics: UnknownMetrics) -> None:
    click.echo(f"  none of these      {metrics.refused_known:.1%} of these images are refused")
    if metrics.path is None:
        return
    rows = [("all", metrics.n_images, metrics.auroc, metrics.refused)]
    rows += [(each.label, each.n_images, each.auroc, each.refused) for each in metrics.classes]
    width = max(len(shown(label)) for label, *_ in rows)
    click.echo(f"  images of no class, of {shown(metrics.path)}:")
    for label, n_images, auroc, refused in rows:
        click.echo(
            f"    {shown(label):{width}}  AUROC {auroc:.3f}  refused {refused:6.1%}  "
            f"images {n_images}"
        )


def _print_growth(growth: Growth) -> None:
    """Print the accuracies of the earlier and the new head, class by class."""
    if not growth.classes:
        return
    click.echo(f"  accuracy before, of {shown(growth.head)}, and after, on the same test images:")
    rows = [(each.label, each.before, each.after, each.n_images) for each in growth.classes]
    if growth.after is not None:
        rows.append(("the classes of both", growth.before, growth.after, growth.n_images))
    width = max(len(shown(label)) for label, *_ in rows)
    for label, before, after, n_images in rows:
        was = "-" if before is None else f"{before:.1%}"
        click.echo(f"    {shown(label):{width}}  {was:>6}  {after:6.1%}  images {n_images}")


def _print_score(part: str, score: Score, width: int) -> None:
    """Print the metrics of a part; `width` is that of the column of numbers of images."""
    if score.accuracy is None:
        click.echo(f"  {part:5}  no images: nothing is tested")
        return
    images = "image " if score.n_images == 1 else "images"
    click.echo(
        f"  {part:5}  {score.n_images:{width}} {images}  loss {score.loss:.4f}  "
        f"accuracy {score.accuracy:.1%}"
    )


def _print_majority(majority: float) -> None:
    """Print the test accuracy of always predicting the most common training class."""
    click.echo(
        f"  for comparison, always predicting the most common class is right for {majority:.1%} of "
        "the test images"
    )


def _print_doubts(accuracy: float, n_images: int, majority: float | None) -> None:
    """Print why an accuracy may mean little: few images, or no better than guessing."""
    from cnncodes.evaluate.metrics import accuracy_interval

    if n_images < FEW_TESTED:
        low, high = accuracy_interval(accuracy, n_images)
        images = counted(n_images, "test image")
        click.echo(
            f"  {images} can say little: on others the accuracy may be {low:.0%} to {high:.0%}"
        )
    if majority is not None and accuracy <= majority:
        click.echo("  that is no better than always predicting the most common class")
