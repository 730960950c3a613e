"""The commands that make networks and apps: `export`, `quantize`, `bundle` and `finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cnncodes.cli_options import (
    FOLDER,
    INPUT,
    MODEL_OUTPUT,
    Network,
    Number,
    class_weight_option,
    command,
    exclude_option,
    group_option,
    json_option,
    mixed_option,
    overwrite_option,
    pool_option,
    seed_option,
    split_option,
    together_option,
    train_fraction_option,
    whole,
)
from cnncodes.export.backbones import BACKBONES, CONVERTERS, DEFAULT_INPUT_SIZE
from cnncodes.finetune.recipe import Recipe
from cnncodes.parameters import (
    CALIBRATION_IMAGES,
    CODE_POOLS,
    EPOCHS,
    FIXED_BATCH,
    INPUT_SIZE,
    LEARNING_RATE,
    NETWORK_BATCH,
    VALIDATION_FRACTION,
    VIEWS,
)
from cnncodes.printing.emit import emit, print_note
from cnncodes.printing.finetune import print_fine_tuning, print_tuned_epoch
from cnncodes.printing.networks import (
    export_to_json,
    print_backbones,
    print_bundle,
    print_export,
    print_quantization,
)


@command(
    "Turn a Keras network into backbone.onnx (once).",
    "cnncodes export inception_v3 -o inception_v3.onnx",
)
@click.argument("backbone", type=Network(), required=False, metavar="[NETWORK]")
@click.option("--list", "list_all", is_flag=True, help="List the networks, export none.")
@click.option("-o", "--output", type=MODEL_OUTPUT, help="File to write, by default NETWORK.onnx.")
@click.option(
    "--weights",
    default="imagenet",
    show_default=True,
    metavar="imagenet|random|FILE",
    help="imagenet is Keras's file, downloaded once; FILE is a .weights.h5, .h5 or .keras file "
    "that Keras saved, of the network or of a model around it.",
)
@click.option(
    "--input-size",
    type=whole(INPUT_SIZE),
    default=DEFAULT_INPUT_SIZE,
    show_default=True,
    help="Height and width of the input image, in pixels.",
)
@click.option(
    "--network-size",
    type=whole(INPUT_SIZE),
    help="Height and width to which the graph resizes images, by default none: for an app of "
    "networks that see them in several sizes.",
)
@pool_option
@click.option(
    "--layer",
    "--layers",
    "layer",
    metavar="NAME[,NAME...]",
    help="Keras layer to cut after, by default the last; of several the pooled codes go side by "
    "side.",
)
@seed_option("random weights")
@click.option(
    "--winograd/--no-winograd",
    default=True,
    show_default=True,
    help="Write convolutions with fewer multiplications; quicker in onnxruntime on a CPU.",
)
@click.option(
    "--converter",
    type=click.Choice(CONVERTERS),
    default="direct",
    show_default=True,
    help="direct takes seconds; tf2onnx needs TensorFlow, and gives the same codes.",
)
@overwrite_option
@json_option
def export(
    backbone: str | None, list_all: bool, output: Path | None, as_json: bool, **options: Any
) -> None:
    """Turn a Keras network without its top into an ONNX file. Needs no TensorFlow.

    With --list it prints the table of networks.
    """
    if list_all:
        emit(list(BACKBONES.values()), as_json, print_backbones)
        return
    if backbone is None:
        raise click.UsageError("name a network; cnncodes export --list prints them")
    from cnncodes.export.export import export_backbone
    from cnncodes.progress import Progress

    path = output or Path(f"{backbone}.onnx")
    with Progress("download", "MB") as progress:
        exported = export_backbone(backbone, path, progress=progress, on_note=print_note, **options)
    emit(exported, as_json, print_export, to_json=export_to_json)


@command(
    "Make a backbone several times faster, in 8-bit integers.",
    "cnncodes quantize inception_v3.onnx --images photos -o inception_v3.int8.onnx",
)
@click.argument("backbone", type=INPUT)
@click.option(
    "--images",
    type=INPUT,
    required=True,
    metavar="SOURCE",
    help="Images like those to come, as for extract.",
)
@click.option(
    "-o", "--output", type=MODEL_OUTPUT, help="File to write, by default BACKBONE.int8.onnx."
)
@click.option(
    "--n-images",
    type=whole(CALIBRATION_IMAGES),
    default=256,
    show_default=True,
    help="Number of images to use at most.",
)
@click.option(
    "--weights",
    type=click.Choice(["auto", "full", "reduced"]),
    default="auto",
    show_default=True,
    help="8-bit weights, or 7-bit for processors without VNNI or the like; auto tests this one.",
)
@exclude_option
@seed_option("the choice of images")
@overwrite_option
@json_option
def quantize(backbone: Path, output: Path | None, as_json: bool, **options: Any) -> None:
    """Make an int8 backbone, calibrated on some of your images and compared on others.

    Codes of the two files are close but not equal: use the same one for all you compare.
    """
    from cnncodes.progress import Progress
    from cnncodes.quantize.quantize import Quantization, quantize_backbone

    with Progress("quantize", "images") as progress:
        quantized = quantize_backbone(
            backbone,
            output=output or backbone.with_suffix(".int8.onnx"),
            progress=progress,
            **options,
        )
    emit(quantized, as_json, print_quantization, to_json=Quantization.as_dict)


@command(
    "Join a backbone and a head into app.onnx.",
    "cnncodes bundle inception_v3.onnx head.onnx -o app.onnx",
)
@click.argument("backbone", nargs=-1, required=True, type=INPUT, metavar="BACKBONE...")
@click.argument("head", type=INPUT)
@click.option("-o", "--output", type=MODEL_OUTPUT, required=True, help="App to write.")
@click.option(
    "--winograd",
    is_flag=True,
    help="Keep the backbone's Winograd convolutions: faster in onnxruntime on a CPU, but slower "
    "to load, larger in memory, and not for every other runtime.",
)
@click.option(
    "--half", is_flag=True, help="Store weights as float16: half the size, nearly the same answers."
)
@click.option(
    "--tta",
    is_flag=True,
    help="Average over the mirrored or turned views on which the head was trained, in the app.",
)
@click.option(
    "--batch",
    type=whole(FIXED_BATCH),
    help="Number of images that the app takes at a time, for compilers that want it fixed; by "
    "default any number.",
)
@click.option(
    "--golden",
    type=FOLDER,
    metavar="DIR",
    help="Write three images with the app's answers, to check other programs by.",
)
@click.option("--limits", metavar="TEXT", help="What the app must not be used for, for its card.")
@click.option(
    "--date",
    metavar="YYYY-MM-DD",
    help="Date for its card; by default that of SOURCE_DATE_EPOCH, or none.",
)
@mixed_option
@overwrite_option
@json_option
def bundle(
    backbone: tuple[Path, ...], head: Path, output: Path, as_json: bool, **options: Any
) -> None:
    """Join a backbone and a head into one file, from image to probabilities.

    A head that was trained on the codes of several networks takes all of them.
    """
    from cnncodes.app.bundle import bundle as join

    info = join(backbone, head, output, **options)
    result = {"path": output, "labels": info.labels, "card": info.card}
    emit(result, as_json, lambda _: print_bundle(output, info, options["golden"]))


@command(
    "Train the last layers of a network too.",
    "cnncodes finetune photos mobilenet_v2 --augment hflip -o app.onnx",
)
@click.argument("source", type=INPUT)
@click.argument("network", type=Network())
@click.option("-o", "--output", type=MODEL_OUTPUT, required=True, help="App to write.")
@click.option(
    "--weights",
    default="imagenet",
    show_default=True,
    help="imagenet, random, or a weight file that Keras saved.",
)
@click.option(
    "--input-size",
    type=whole(INPUT_SIZE),
    default=DEFAULT_INPUT_SIZE,
    show_default=True,
    help="Height and width of the input, in pixels.",
)
@click.option(
    "--from-layer",
    metavar="LAYER",
    help="Train the layers above this one; by default those of the last block or two.",
)
@click.option(
    "--layers",
    metavar="NAME[,NAME...]",
    help="Layers whose pooled outputs the head sees, from --from-layer on; by default the last.",
)
@click.option(
    "--pool",
    type=click.Choice([each for each in CODE_POOLS if each != "none"]),
    default="avg",
    show_default=True,
    help="How they are pooled over height and width.",
)
@click.option(
    "--augment",
    type=click.Choice(list(VIEWS)),
    default="none",
    show_default=True,
    help="Train on the image mirrored left-right too, also upside down and both "
    "(hvflip), or on all eight mirrored and turned ones (d4).",
)
@click.option(
    "--tta",
    is_flag=True,
    help="Make an app that averages over the views of each image, and measure that.",
)
@click.option(
    "--frozen-int8",
    is_flag=True,
    help="Compute the layers that are not trained in int8: less than half the time.",
)
@click.option(
    "--epochs",
    type=whole(EPOCHS),
    default=Recipe.epochs,
    show_default=True,
    help="Passes over the training images, at most.",
)
@click.option(
    "--learning-rate",
    type=Number(LEARNING_RATE),
    default=Recipe.learning_rate,
    show_default=True,
    help="The highest learning rate.",
)
@click.option(
    "--batch-size",
    type=whole(NETWORK_BATCH),
    default=Recipe.batch_size,
    show_default=True,
    help="Images per gradient step.",
)
@click.option(
    "--validation-fraction",
    type=Number(VALIDATION_FRACTION),
    default=Recipe.validation_fraction,
    show_default=True,
    help="Share of the training images held out to choose the epoch; with 0 all are trained on, "
    "for all epochs.",
)
@train_fraction_option
@split_option
@class_weight_option()
@group_option
@exclude_option
@together_option
@seed_option("the split, the order of the images and their views")
@click.option("--int8", is_flag=True, help="Write an int8 app too, with .int8 in its name.")
@click.option(
    "--work",
    type=FOLDER,
    metavar="DIR",
    help="Folder for the activations and what an interrupted training goes on from; by default "
    "beside the app, with the ending .finetune.",
)
@overwrite_option
@json_option
def finetune(source: Path, network: str, output: Path, as_json: bool, **options: Any) -> None:
    """Train the last layers of a network together with a classifier.

    The layers up to --from-layer run once for each image and view; their outputs are kept on disk
    and trained on. Training starts from a linear classifier and ends when held-out images are
    no longer predicted better. Needs TensorFlow.
    """
    from cnncodes.finetune.finetune import finetune as tune
    from cnncodes.finetune.result import FineTuning
    from cnncodes.progress import Progress

    with Progress("finetune", "images") as progress:
        result = tune(
            source,
            network,
            output,
            on_note=print_note,
            on_epoch=lambda epoch: print_tuned_epoch(epoch, options["epochs"], progress),
            progress=progress,
            **options,
        )
    emit(result, as_json, print_fine_tuning, to_json=FineTuning.as_dict)
