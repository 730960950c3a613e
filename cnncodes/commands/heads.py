"""The commands that train and measure heads: `train`, `evaluate`, `curve` and `experiment`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from cnncodes.cli_options import (
    FIGURE,
    FOLDER,
    INPUT,
    MODEL_OUTPUT,
    RESULT_OUTPUT,
    TABLE_OUTPUT,
    Number,
    Sizes,
    ValueOrNone,
    class_weight_option,
    classes_option,
    command,
    exclude_option,
    group_option,
    json_option,
    max_pixels_option,
    mixed_option,
    overwrite_option,
    penalty_option,
    provider_option,
    seed_option,
    split_option,
    together_option,
    train_fraction_option,
    whole,
    with_option_names,
)
from cnncodes.experiment.published import PER_CLASS
from cnncodes.output import check_output
from cnncodes.parameters import (
    COUNT,
    DESCENT_BATCH,
    DRAWS,
    EPOCHS,
    L2,
    LEARNING_RATE,
    REFUSED_SHARE,
    TRAIN_SHARE,
    WAYS,
)
from cnncodes.printing.emit import emit, print_note
from cnncodes.printing.heads import (
    print_curves,
    print_epoch,
    print_evaluation,
    print_experiment,
    print_plan,
    print_training,
    training_to_json,
)

OPTIONS_OF = {
    "logistic or ridge": ("C", "normalize"),
    "logistic": ("class_weight",),
    "sgd": ("epochs", "batch_size", "learning_rate", "schedule", "optimizer", "l2", "patience"),
}


@command(
    "Train a classifier on codes: head.onnx.",
    "cnncodes train codes.h5 -o head.onnx",
)
@click.argument("codes", nargs=-1, required=True, type=INPUT, metavar="CODES...")
@click.option("-o", "--output", type=MODEL_OUTPUT, required=True, help="Head to write.")
@click.option(
    "--estimator",
    "--method",
    "estimator",
    type=click.Choice(["auto", "logistic", "ridge", "sgd", "svm", "knn"]),
    default="auto",
    show_default=True,
    help="Logistic regression to convergence, least squares (ridge), a softmax by mini-batch SGD, "
    "a support vector machine, or the nearest neighbours. auto is logistic, or ridge where "
    "cross-validation finds it better by more than chance. svm and knn need skl2onnx.",
)
@click.option(
    "--normalize",
    type=click.Choice([*WAYS, "auto"]),
    default="none",
    show_default=True,
    help="logistic, ridge: what the head does to codes first; auto chooses it by cross-validation, "
    "in six times the time.",
)
@click.option(
    "--train-fraction",
    type=Number(TRAIN_SHARE),
    default=0.7,
    show_default=True,
    help="Share of each class for training; the rest is for testing. 1 trains on all, and "
    "measures by cross-validation.",
)
@click.option(
    "--refit",
    is_flag=True,
    help="After measuring, fit the head that is written on all labelled images.",
)
@split_option
@click.option("--per-class", type=whole(COUNT), help="Train on at most N images per class.")
@penalty_option("logistic, ridge: ")
@class_weight_option("logistic: ")
@click.option(
    "--epochs",
    type=whole(EPOCHS),
    default=20,
    show_default=True,
    help="sgd: passes over the training images.",
)
@click.option(
    "--batch-size",
    type=whole(DESCENT_BATCH),
    default=32,
    show_default=True,
    help="sgd: images per gradient step.",
)
@click.option(
    "--learning-rate",
    type=Number(LEARNING_RATE),
    help="sgd: by default 3 with momentum, 0.001 with adam.",
)
@click.option(
    "--optimizer",
    type=click.Choice(["momentum", "adam"]),
    default="momentum",
    show_default=True,
    help="sgd: update rule.",
)
@click.option(
    "--schedule",
    type=click.Choice(["constant", "cosine"]),
    default="cosine",
    show_default=True,
    help="sgd: learning rate over the epochs.",
)
@click.option(
    "--l2",
    type=Number(L2),
    default=1e-5,
    show_default=True,
    help="sgd: weight of the penalty.",
)
@click.option(
    "--patience",
    type=whole(EPOCHS),
    help="sgd: stop after this many epochs without a lower validation loss.",
)
@click.option(
    "--tta",
    is_flag=True,
    help="Measure the mean over the views of each image, with codes of extract --augment.",
)
@click.option(
    "--unknown",
    type=ValueOrNone(REFUSED_SHARE),
    is_flag=False,
    flag_value=0.05,
    metavar="[SHARE]",
    help="Refuse images of none of the classes; SHARE of the images of the classes are refused "
    "too, by default 0.05.",
)
@click.option(
    "--none",
    metavar="CLASS",
    help="unknown: a class to leave out of the training, whose images measure it.",
)
@click.option(
    "--from",
    "earlier",
    type=INPUT,
    metavar="HEAD",
    help="Go on from this head: from its weights, with its kind, normalisation, C and training "
    "images, and compare both on images that neither was trained on.",
)
@classes_option
@exclude_option
@together_option
@seed_option("the split and the estimator")
@overwrite_option
@json_option
def train(
    codes: tuple[Path, ...],
    output: Path,
    estimator: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a classifier on codes, and measure it on images it has not seen.

    Codes files of one network are stacked, as if cnncodes merge had joined them; codes of the same
    images by several networks go side by side.

    sgd reads the codes a part at a time, as do logistic and ridge with fewer training images than
    codes per image; otherwise all training codes are in memory, as float32.
    """
    _refuse_options_of_others(estimator)
    if options["none"] is not None and options["unknown"] is None:
        raise click.UsageError("--none is for --unknown; give it too")
    from cnncodes.head.train import train_head
    from cnncodes.progress import Progress

    sgd = {name: options.pop(name) for name in OPTIONS_OF["sgd"]}
    with Progress("train", "images") as progress:
        result = train_head(
            codes,
            output,
            estimator=estimator,
            sgd=sgd if estimator == "sgd" else None,
            on_epoch=lambda epoch: print_epoch(epoch, progress),
            progress=progress,
            **options,
        )
    emit(result, as_json, print_training, to_json=training_to_json)


@command(
    "Measure a head or an app on images it was not trained on.",
    "cnncodes evaluate head.onnx codes.h5 --report report",
)
@click.argument("model", type=INPUT)
@click.argument("data", nargs=-1, required=True, type=INPUT, metavar="CODES.h5...|SOURCE")
@click.option("--backbone", type=INPUT, help="The network of a head, to evaluate it on images.")
@click.option(
    "--include-training", is_flag=True, help="Include images that the model was trained on."
)
@click.option(
    "--tta",
    is_flag=True,
    help="Average over the views of each image that the head was trained on.",
)
@click.option(
    "--unknown",
    type=INPUT,
    metavar="CODES.h5|SOURCE",
    help="Images of none of the classes, to measure how many of them the model refuses.",
)
@classes_option
@exclude_option
@mixed_option
@group_option
@max_pixels_option
@provider_option
@click.option("--report", type=FOLDER, metavar="DIR", help="Write a report, DIR/index.html.")
@click.option(
    "--curve",
    type=INPUT,
    metavar="FILE",
    help="report: show this learning curve of cnncodes curve.",
)
@click.option(
    "--images",
    type=INPUT,
    metavar="DIR",
    help="report: where the images are, found by their content; by default where they were.",
)
@click.option(
    "--predictions",
    type=TABLE_OUTPUT,
    metavar="FILE",
    help="Write the prediction for each image as CSV.",
)
@overwrite_option
@json_option
def evaluate(
    model: Path,
    data: tuple[Path, ...],
    backbone: Path | None,
    report: Path | None,
    curve: Path | None,
    images: Path | None,
    predictions: Path | None,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure a head or an app on labelled images.

    A head takes codes files of its network, or of each of its networks, an app a folder of class
    folders or a CSV file with the columns path and label; a head with --backbone takes these too.
    Images that the model was trained on are left out.
    """
    if report is None and (curve is not None or images is not None):
        raise click.UsageError("--curve and --images are for a report; give --report too")
    from cnncodes.evaluate.evaluate import evaluate as measure
    from cnncodes.evaluate.evaluation import evaluation_to_json, write_predictions
    from cnncodes.progress import Progress

    planned = None
    if report is not None:
        from cnncodes.evaluate.report import Report

        given = (model, *data, backbone, options["unknown"])
        inputs = [path for path in given if path is not None]
        others = [] if predictions is None else [predictions]
        planned = Report(report, curve, images, overwrite=overwrite, inputs=inputs, others=others)
    if predictions is not None:
        options["on_images"] = lambda files: check_output(
            predictions, overwrite=overwrite, inputs=files
        )
    with Progress("evaluate", "images") as progress:
        result = measure(model, data, backbone=backbone, progress=progress, **options)
    notes = [] if planned is None else planned.write(result)
    if predictions is not None:
        write_predictions(result, predictions, overwrite=overwrite)
    emit(
        result,
        as_json,
        lambda each: print_evaluation(each, report, predictions),
        to_json=evaluation_to_json,
    )
    for note in notes:
        print_note(with_option_names(note, click.get_current_context().command))


@command(
    "Measure whether more training images would help.",
    "cnncodes curve codes.h5 --plot curve.png",
)
@click.argument("codes", nargs=-1, required=True, type=INPUT, metavar="CODES...")
@click.option(
    "-o",
    "--output",
    type=RESULT_OUTPUT,
    default="curve.json",
    show_default=True,
    help="JSON file to write.",
)
@click.option("--plot", type=FIGURE, metavar="FILE", help="Chart to write, as .png or .svg.")
@click.option(
    "--per-class",
    type=Sizes(COUNT),
    show_default="all there are, half of them, a quarter … down to about 5",
    help="Numbers of training images per class.",
)
@click.option(
    "--seeds",
    type=whole(DRAWS),
    default=5,
    show_default=True,
    help="Number of draws of the training images.",
)
@click.option(
    "--join",
    is_flag=True,
    help="Draw one curve, of the codes of all files stacked or side by side, as train does.",
)
@classes_option
@exclude_option
@together_option
@seed_option("the split and the draws")
@train_fraction_option
@split_option
@penalty_option()
@class_weight_option()
@overwrite_option
@json_option
def curve(
    codes: tuple[Path, ...], output: Path, plot: Path | None, as_json: bool, **options: Any
) -> None:
    """Measure accuracy against the number of training images per class.

    Each of the CODES files gets a curve of logistic heads. All of a file's heads are tested on
    the same images.
    """
    from cnncodes.evaluate.curve import curves_to_json
    from cnncodes.evaluate.learning_curve import learning_curves
    from cnncodes.progress import Progress

    with Progress("curve", "heads") as progress:
        curves = learning_curves(codes, output, plot=plot, progress=progress, **options)
    emit(curves, as_json, lambda each: print_curves(each, output, plot), to_json=curves_to_json)


@command(
    "Repeat a published experiment on your images.",
    "cnncodes experiment caltech101 inception_v3.onnx vgg19.onnx -o results",
)
@click.argument("source", type=INPUT)
@click.argument("backbones", nargs=-1, required=True, type=INPUT, metavar="BACKBONE...")
@click.option("-o", "--output", type=FOLDER, required=True, metavar="DIR", help="Folder to write.")
@click.option(
    "--per-class",
    type=Sizes(COUNT),
    default=PER_CLASS,
    show_default=",".join(map(str, PER_CLASS)),
    help="Numbers of training images per class, besides all there are.",
)
@seed_option("the softmax layers and the cross-validation")
@click.option(
    "--update",
    is_flag=True,
    help="Bring the codes in DIR up to date with SOURCE; only what is new is computed.",
)
@json_option
def experiment(
    source: Path, backbones: tuple[Path, ...], output: Path, as_json: bool, **options: Any
) -> None:
    """Compare networks by one trained layer, with few and with all training images.

    For each BACKBONE it computes the codes of SOURCE, a folder of class folders or a CSV file,
    and trains on the first 70 % of each class: a softmax layer as the published experiment on
    Caltech-101 did, and a logistic head. DIR gets index.html, experiment.json, times.json,
    chart.svg, and the codes and heads. When it was interrupted, the same command goes on; codes
    files of these images and networks that are in DIR as NAME.h5 are used.
    """
    from cnncodes.experiment.experiment import run_experiment
    from cnncodes.experiment.result import Experiment
    from cnncodes.progress import Progress

    with Progress("experiment", "images") as progress:
        result = run_experiment(
            source,
            backbones,
            output,
            on_plan=lambda planned: print_plan(source, planned),
            progress=progress,
            **options,
        )
    emit(result, as_json, lambda each: print_experiment(each, output), to_json=Experiment.as_dict)


def _refuse_options_of_others(estimator: str) -> None:
    """Refuse an option on the command line that only another estimator uses."""
    context = click.get_current_context()
    for owner, names in OPTIONS_OF.items():
        for parameter in context.command.params:
            typed = (
                context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
            )
            owners = ("auto", *owner.split(" or ")) if owner != "sgd" else (owner,)
            if typed and parameter.name in names and estimator not in owners:
                raise click.UsageError(f"{parameter.opts[0]} is for --estimator {owner} only")
