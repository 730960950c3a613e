"""The command line: each command parses its options, calls one function and prints its result.

No logic lives here, and nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

import click
from click.core import ParameterSource

from cnncodes._version import __version__
from cnncodes.cli_options import (
    CODES_OUTPUT,
    FIGURE,
    FOLDER,
    INPUT,
    MODEL_OUTPUT,
    OUTPUT,
    RESULT_OUTPUT,
    TABLE_OUTPUT,
    CheckedCommand,
    Network,
    Number,
    Sizes,
    class_weight_option,
    exclude_option,
    group_option,
    json_option,
    max_pixels_option,
    mixed_option,
    overwrite_option,
    penalty_option,
    pool_option,
    provider_option,
    seed_option,
    split_option,
    threads_option,
    together_option,
    train_fraction_option,
    whole,
    with_option_names,
)
from cnncodes.datasets.registry import DATASETS
from cnncodes.errors import (
    CnncodesError,
    FileFormatError,
    FileLockWarning,
    OutputError,
    SaturationWarning,
    SourceError,
    SourceWarning,
)
from cnncodes.export.backbones import BACKBONES, CONVERTERS, DEFAULT_INPUT_SIZE
from cnncodes.interrupts import Interruptible
from cnncodes.machine import give_memory_back
from cnncodes.output import check_output
from cnncodes.parameters import (
    CALIBRATION_IMAGES,
    COUNT,
    DESCENT_BATCH,
    DRAWS,
    EPOCHS,
    FIXED_BATCH,
    INPUT_SIZE,
    L2,
    LEARNING_RATE,
    NETWORK_BATCH,
    PORT,
    SECONDS,
    SIMILARITY,
    WHITE,
)
from cnncodes.printing import (
    datasets_to_json,
    emit,
    export_to_json,
    print_address,
    print_backbones,
    print_benchmarks,
    print_bundle,
    print_conversion,
    print_csv,
    print_curves,
    print_datasets,
    print_epoch,
    print_evaluation,
    print_export,
    print_extraction,
    print_fetched,
    print_list,
    print_note,
    print_overlap,
    print_page,
    print_quantization,
    print_source,
    print_table,
    print_terms,
    print_top,
    print_training,
    print_verification,
)
from cnncodes.streams import open_silence, prepare
from cnncodes.text import counted, shown

if TYPE_CHECKING:
    from cnncodes.app.classifier import FilePrediction

OPTIONS_OF = {
    "logistic": ("C", "class_weight"),
    "sgd": ("epochs", "batch_size", "learning_rate", "schedule", "optimizer", "l2", "patience"),
}


class Program(click.Group):
    """Prints every failure in one line and exits with 1; usage errors stay click's own."""

    command_class = CheckedCommand

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the program on standard streams that are fit to be used."""
        prepare()
        return super().main(*args, **extra)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Parse the options; --help and --version print here, before any command runs."""
        try:
            return super().make_context(*args, **extra)
        except OutputError as error:
            _fail(str(error))

    def invoke(self, context: click.Context) -> Any:
        """Run a command; with ``--debug`` let its traceback through."""
        give_memory_back()
        if context.params["debug"]:
            return self._run(context)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")  # odd metadata, no use to anyone
            logging.getLogger("PIL").setLevel(logging.CRITICAL)  # what it logs, it raises too
            for shown_once in (FileLockWarning, SaturationWarning, SourceWarning):
                warnings.simplefilter("default", shown_once)
            warnings.showwarning = partial(_show_warning, sys.stderr)
            return self._invoke(context)

    def _run(self, context: click.Context) -> Any:
        # Errors and warnings are written to the stream that was there before.
        silence = open_silence() if context.params["quiet"] else nullcontext()
        with Interruptible(), silence:
            return super().invoke(context)

    def _invoke(self, context: click.Context) -> Any:
        try:
            return self._run(context)
        except CnncodesError as error:
            command = self.commands.get(context.invoked_subcommand or "", self)
            _fail(with_option_names(str(error), command))
        except KeyboardInterrupt as interrupt:
            _fail(f"interrupted; {interrupt}" if str(interrupt) else "interrupted")
        except MemoryError:
            _fail("not enough memory; use fewer images, --pool avg or a smaller --batch-size")
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            _fail(f"{type(error).__name__}: {error} (cnncodes --debug shows where)")

    def list_commands(self, context: click.Context) -> list[str]:
        """List the commands in the order in which they are used."""
        return list(self.commands)


def _refuse_options_of_others(estimator: str) -> None:
    """Refuse an option on the command line that only another estimator uses."""
    context = click.get_current_context()
    for owner, names in OPTIONS_OF.items():
        for parameter in context.command.params:
            typed = (
                context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
            )
            if typed and parameter.name in names and owner != estimator:
                raise click.UsageError(f"{parameter.opts[0]} is for --estimator {owner} only")


def _fail(message: str) -> NoReturn:
    click.echo(f"Error: {shown(' '.join(message.split()))}", err=True)
    raise click.exceptions.Exit(1)


def _show_warning(stream: IO[str], message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"Warning: {shown(' '.join(str(message).split()))}", file=stream)


def _help(summary: str, example: str) -> dict[str, str]:
    return {"short_help": summary, "epilog": f"Example: {example}"}


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cnncodes")
@click.option("--debug", is_flag=True, help="Show the traceback of a failure.")
@click.option("--quiet", is_flag=True, help="Print no progress and no notes beside the result.")
def main(debug: bool, quiet: bool) -> None:
    """From a folder of photographs to an image classifier, on the CPU.

    The commands are listed in the order of their use; each has an example in its --help.
    """


@main.command(
    **_help(
        "A Keras network becomes backbone.onnx (once).",
        "cnncodes export inception_v3 -o inception_v3.onnx",
    )
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
@pool_option
@click.option("--layer", metavar="NAME", help="Keras layer to cut after, by default the last.")
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


@main.command(
    **_help(
        "A backbone becomes several times quicker, in 8-bit integers.",
        "cnncodes quantize inception_v3.onnx --images photos -o inception_v3.int8.onnx",
    )
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


@main.command(
    **_help(
        "A published data set becomes a folder that extract reads.",
        "cnncodes fetch caltech101",
    )
)
@click.argument("name", type=click.Choice(list(DATASETS)), required=False, metavar="[NAME]")
@click.argument("folder", type=FOLDER, required=False, metavar="[DIR]")
@click.option("--list", "list_all", is_flag=True, help="List the data sets, fetch none.")
@click.option(
    "--from",
    "archive",
    type=INPUT,
    metavar="FILE",
    help="Archive that was downloaded by hand; nothing is downloaded then.",
)
@click.option(
    "--background",
    type=click.Choice(["keep", "drop"]),
    default="keep",
    show_default=True,
    help="caltech101: what to do with BACKGROUND_Google, photographs of none of its classes.",
)
@json_option
def fetch(
    name: str | None, folder: Path | None, list_all: bool, as_json: bool, **options: Any
) -> None:
    """Fetch a data set into a new folder DIR, by default NAME, with its licence and citation.

    The download is checked, and when it was interrupted the same command goes on from there.
    elpv comes with a Python package instead: pip install elpv-dataset. With --list it prints
    the table of data sets and their licences.
    """
    if list_all:
        emit(list(DATASETS.values()), as_json, print_datasets, to_json=datasets_to_json)
        return
    if name is None:
        raise click.UsageError("name a data set; cnncodes fetch --list prints them")
    from cnncodes.datasets.fetch import fetch_dataset
    from cnncodes.progress import Progress

    with Progress("fetch", "MB") as progress:
        fetched = fetch_dataset(
            name,
            folder,
            progress=progress,
            on_dataset=print_terms,
            on_note=print_note,
            **options,
        )
    emit(fetched, as_json, print_fetched)


@main.command(
    **_help(
        "Images become codes.h5.",
        "cnncodes extract inception_v3.onnx photos -o codes.h5",
    )
)
@click.argument("backbone", type=INPUT)
@click.argument("source", type=INPUT)
@click.option("-o", "--output", type=CODES_OUTPUT, required=True, help="Codes file to write.")
@click.option(
    "--batch-size",
    type=whole(NETWORK_BATCH),
    help="Images per batch, by default as suits the network.",
)
@threads_option
@click.option(
    "--dtype",
    type=click.Choice(["float16", "float32"]),
    default="float16",
    show_default=True,
    help="Precision of the stored codes.",
)
@click.option(
    "--on-error",
    type=click.Choice(["skip", "fail"]),
    default="skip",
    show_default=True,
    help="Skip an image that cannot be decoded, or fail.",
)
@max_pixels_option
@click.option(
    "--white",
    type=whole(WHITE),
    help="Value of white in 16-bit grey, such as 4095 for 12 bits; by default guessed from the "
    "brightest pixel of each image.",
)
@group_option
@provider_option
@click.option(
    "--update",
    is_flag=True,
    help="Bring the output file up to date with SOURCE; only what is new is computed.",
)
@overwrite_option
@json_option
def extract(backbone: Path, source: Path, output: Path, as_json: bool, **options: Any) -> None:
    """Compute the codes of images.

    SOURCE is a folder of class folders, a flat folder of images (no labels), or a CSV file
    with the columns path and label, and perhaps group (images that show the same thing, which
    no split separates). An interrupted extraction goes on where it was when the same command is
    given again.
    """
    from cnncodes.extract.pipeline import extract as extract_codes
    from cnncodes.progress import Progress

    with Progress("extract", "images") as progress:
        result = extract_codes(
            backbone,
            source,
            output,
            on_source=lambda images: print_source(source, images),
            progress=progress,
            **options,
        )
    emit(result, as_json, print_extraction)


@main.command(
    **_help(
        "Codes become a table for pandas, R or Orange, or a file of numpy.",
        "cnncodes convert codes.h5 -o codes.tab --pool avg",
    )
)
@click.argument("codes", type=INPUT)
@click.option(
    "-o",
    "--output",
    type=OUTPUT,
    required=True,
    help="File to write, as .npz (numpy), .csv, .parquet (needs pyarrow) or .tab (Orange).",
)
@pool_option
@overwrite_option
@json_option
def convert(codes: Path, output: Path, as_json: bool, **options: Any) -> None:
    """Write codes for another program; the ending of the output file chooses the format.

    A table has the columns path, label, perhaps group, and one for each code.
    """
    from cnncodes.extract.convert import convert_codes
    from cnncodes.progress import Progress

    with Progress("convert", "images") as progress:
        converted = convert_codes(codes, output, progress=progress, **options)
    emit(converted, as_json, print_conversion)


@main.command(
    **_help(
        "Find images that two collections share, or one holds twice.",
        "cnncodes overlap photos test-photos -o copies",
    )
)
@click.argument("a", type=INPUT)
@click.argument("b", type=INPUT, required=False)
@click.option("-o", "--output", type=FOLDER, required=True, metavar="DIR", help="Folder to write.")
@click.option(
    "--threshold",
    type=Number(SIMILARITY),
    help="Lowest cosine of a near copy, by default 0.93 for images and 0.95 for codes.",
)
@overwrite_option
@json_option
def overlap(
    a: Path, b: Path | None, output: Path, overwrite: bool, as_json: bool, **options: Any
) -> None:
    """Find copies between A and B, or within A.

    Each is a folder of images, a CSV file or a codes file. Equal files are copies, and so are
    images that look alike whatever their size, quality, brightness, colours, border or mirroring.
    Two codes files are compared by their codes. DIR gets index.html, which shows the pairs, and
    overlap.csv, a list for --exclude: of B, or of A all but one of each image.
    """
    from cnncodes.overlap.overlap import Overlap, find_overlap
    from cnncodes.overlap.pairs import OverlapFolder
    from cnncodes.progress import Progress

    inputs = [path for path in (a, b) if path is not None]
    folder = OverlapFolder(output, overwrite=overwrite, inputs=inputs)
    with Progress("overlap", "images") as progress:
        result = find_overlap(a, b, progress=progress, **options)
        notes = folder.write(result)
    emit(result, as_json, lambda each: print_overlap(each, output), to_json=Overlap.as_dict)
    for note in notes:
        print_note(note)


@main.command(
    **_help(
        "Codes become head.onnx, a classifier.",
        "cnncodes train codes.h5 -o head.onnx",
    )
)
@click.argument("codes", type=INPUT)
@click.option("-o", "--output", type=MODEL_OUTPUT, required=True, help="Head to write.")
@click.option(
    "--estimator",
    "--method",
    "estimator",
    type=click.Choice(["logistic", "sgd", "svm", "knn"]),
    default="logistic",
    show_default=True,
    help="Logistic regression to convergence, a softmax by mini-batch SGD, a support vector "
    "machine, or the nearest neighbours. The last two need skl2onnx.",
)
@train_fraction_option
@split_option
@click.option("--per-class", type=whole(COUNT), help="Train on at most N images per class.")
@penalty_option("logistic: ")
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
@exclude_option
@together_option
@seed_option("the split and the estimator")
@overwrite_option
@json_option
def train(
    codes: Path,
    output: Path,
    estimator: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a classifier on codes, and measure it on images it has not seen.

    sgd reads the codes a part at a time, as does logistic with fewer training images than codes
    per image; otherwise all training codes are in memory, as float32.
    """
    _refuse_options_of_others(estimator)
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
    emit(result, as_json, print_training)


@main.command(
    **_help(
        "Measure a head or an app on images it was not trained on.",
        "cnncodes evaluate head.onnx codes.h5 --report report",
    )
)
@click.argument("model", type=INPUT)
@click.argument("data", type=INPUT, metavar="CODES.h5|SOURCE")
@click.option("--backbone", type=INPUT, help="The network of a head, to evaluate it on images.")
@click.option(
    "--include-training", is_flag=True, help="Include images that the model was trained on."
)
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
    data: Path,
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

    A head takes a codes file, an app a folder of class folders or a CSV file with the columns
    path and label; a head with --backbone takes these too. Images that the model was trained on
    are left out.
    """
    if report is None and (curve is not None or images is not None):
        raise click.UsageError("--curve and --images are for a report; give --report too")
    from cnncodes.evaluate.evaluate import evaluate as measure
    from cnncodes.evaluate.evaluation import evaluation_to_json, write_predictions
    from cnncodes.progress import Progress

    planned = None
    if report is not None:
        from cnncodes.evaluate.report import Report

        inputs = [path for path in (model, data, backbone) if path is not None]
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


@main.command(
    **_help(
        "Measure whether more training images would help.",
        "cnncodes curve codes.h5 --plot curve.png",
    )
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


@main.command(
    **_help(
        "Backbone and head become app.onnx.",
        "cnncodes bundle inception_v3.onnx head.onnx -o app.onnx",
    )
)
@click.argument("backbone", type=INPUT)
@click.argument("head", type=INPUT)
@click.option("-o", "--output", type=MODEL_OUTPUT, required=True, help="App to write.")
@click.option(
    "--winograd",
    is_flag=True,
    help="Keep the backbone's convolutions: faster in onnxruntime on a CPU, but slower to load, "
    "larger in memory, and not for every other runtime.",
)
@click.option(
    "--half", is_flag=True, help="Store weights as float16: half the size, nearly the same answers."
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
def bundle(backbone: Path, head: Path, output: Path, as_json: bool, **options: Any) -> None:
    """Join a backbone and a head into one file, from image to probabilities."""
    from cnncodes.app.bundle import bundle as join

    info = join(backbone, head, output, **options)
    result = {"path": output, "labels": info.labels, "card": info.card}
    emit(result, as_json, lambda _: print_bundle(output, info, options["golden"]))


@main.command(
    **_help(
        "Classify images.",
        "cnncodes predict app.onnx photo.jpg --top 3",
    )
)
@click.argument("app", type=INPUT)
@click.argument(
    "images", nargs=-1, required=True, type=click.Path(readable=False), metavar="IMAGE..."
)
@click.option(
    "--top", type=whole(COUNT), default=1, show_default=True, help="Number of classes to show."
)
@click.option(
    "--format",
    "layout",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
)
@click.option(
    "--explain",
    type=FOLDER,
    metavar="FOLDER",
    help="Folder for pictures of what in each image speaks for and against its class.",
)
@max_pixels_option
@provider_option
@overwrite_option
def predict(
    app: Path,
    images: tuple[str, ...],
    top: int,
    layout: str,
    explain: Path | None,
    max_pixels: int,
    provider: str,
    overwrite: bool,
) -> None:
    """Classify images: files, folders, or - for one image on standard input."""
    from cnncodes.app.classifier import Classifier
    from cnncodes.app.inputs import list_inputs, predict_inputs
    from cnncodes.progress import Progress

    files = list_inputs(images, on_note=print_note)
    if explain is not None and None in files:
        raise click.UsageError("--explain is for files; name one instead of standard input")
    overlays = None
    if explain is not None:
        from cnncodes.app.overlays import Overlays

        overlays = Overlays(
            explain,
            overwrite=overwrite,
            inputs=[file for file in files if file is not None],
            max_pixels=max_pixels,
        )
    classifier = Classifier(app, provider=provider, n_images=len(files))
    print_top(top, classifier)
    print_as: dict[str, Callable[[Iterable[FilePrediction]], int]]
    print_as = {
        "table": lambda each: print_table(each, files, classifier.labels),
        "csv": print_csv,
        "json": print_list,
    }
    with Progress("predict", "images") as progress:
        predictions = predict_inputs(
            classifier,
            files,
            sys.stdin.buffer,
            top,
            max_pixels=max_pixels,
            explain=explain is not None,
            progress=progress,
        )
        if overlays is not None:
            predictions = overlays.write_each(predictions, classifier.info.white)
        n_unusable = print_as[layout](predictions)
    if overlays is not None:
        print_note(f"{counted(overlays.n_written, 'picture')} in {explain}")
    if n_unusable:
        unusable = counted(n_unusable, "image")
        raise SourceError(f"{unusable} of {len(files)} could not be used, as listed above")


@main.command(
    **_help(
        "Open a page that classifies images, with an HTTP API.",
        "cnncodes serve app.onnx",
    )
)
@click.argument("app", type=INPUT)
@click.option(
    "--port",
    type=whole(PORT),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 takes any that is free.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="NAME",
    help="Name or address to listen on; 0.0.0.0 is every network of this machine.",
)
@click.option(
    "--token",
    envvar="CNNCODES_TOKEN",
    show_envvar=True,
    help="What requests must have; by default none on loopback, elsewhere one is made.",
)
@click.option(
    "--open/--no-open",
    "open_page",
    default=None,
    help="Open the page in the browser; by default where there is a desktop.",
)
@threads_option
@provider_option
def serve(app: Path, **options: Any) -> None:
    """Open a page to drop photographs on, and an HTTP API beside it; Ctrl-C stops both.

    Only this machine reaches them unless --host is another. Nothing is stored.
    """
    from cnncodes.serve.server import serve as run

    run(app, on_ready=print_address, **options)
    print_note("stopped")


@main.command(
    **_help(
        "Make a folder of web pages that classifies in the browser.",
        "cnncodes page app.onnx -o page",
    )
)
@click.argument("app", type=INPUT)
@click.option(
    "-o",
    "--output",
    type=FOLDER,
    required=True,
    metavar="FOLDER",
    help="Folder to write; index.html in it is the page.",
)
@click.option(
    "--runtime",
    type=INPUT,
    metavar="PACKAGE",
    help="The npm package onnxruntime-web, packed or as a folder; by default npm gets it.",
)
@overwrite_option
@json_option
def page(app: Path, as_json: bool, **options: Any) -> None:
    """Make a page that needs no server and no network, only a browser.

    The app runs in it. Put the folder on any web space, or open its index.html from a disk.
    """
    from cnncodes.page.folder import write_page

    emit(write_page(app, on_note=print_note, **options), as_json, print_page)


@main.command(
    **_help(
        "Measure how fast networks are here, and their memory.",
        "cnncodes bench inception_v3.onnx mobilenet_v2.onnx",
    )
)
@click.argument("files", nargs=-1, required=True, type=INPUT, metavar="FILE...")
@click.option(
    "--batch-sizes",
    type=Sizes(NETWORK_BATCH),
    default=(1, 2, 4, 8),
    show_default=True,
    help="Batch sizes to measure.",
)
@threads_option
@click.option(
    "--seconds",
    type=Number(SECONDS),
    default=1.0,
    show_default=True,
    help="Seconds of measurement per file and batch size.",
)
@provider_option
@json_option
def bench(files: tuple[Path, ...], as_json: bool, **options: Any) -> None:
    """Measure backbones and apps on random images, each in a process of its own.

    Several files take turns, round by round, and ratio compares images per second with the
    first. Memory is the peak of the process, Python included.
    """
    from cnncodes.inspect.bench import benchmark
    from cnncodes.progress import Progress

    with Progress("bench", "rounds") as progress:
        results = benchmark(files, progress=progress, **options)
    emit(results, as_json, print_benchmarks)


@main.command(
    **_help(
        "Describe a file.",
        "cnncodes info app.onnx",
    )
)
@click.argument("file", type=INPUT)
@json_option
def info(file: Path, as_json: bool) -> None:
    """Describe a file of cnncodes in full, any other in a line."""
    from cnncodes.inspect.info import as_text, describe

    emit(describe(file), as_json, lambda each: click.echo(as_text(each)))


@main.command(
    **_help(
        "Check that a file is whole, and of these images and this network.",
        "cnncodes verify codes.h5 --source photos --backbone inception_v3.onnx",
    )
)
@click.argument("file", type=INPUT)
@click.option("--source", type=INPUT, help="codes: compare the images with their digests.")
@click.option(
    "--backbone",
    type=INPUT,
    metavar="FILE",
    help="Is the file of this network? With --source, compute codes of some images again.",
)
@click.option(
    "--sample",
    type=whole(COUNT),
    default=16,
    show_default=True,
    help="Number of images whose codes are computed again.",
)
@max_pixels_option
@json_option
def verify(file: Path, as_json: bool, **options: Any) -> None:
    """Check a codes file, a backbone, a head or an app from end to end.

    Every code is read, and a model is run. All that is wrong is printed; the exit code is 1 then.
    """
    from cnncodes.inspect.verify import verify as check
    from cnncodes.progress import Progress

    with Progress("verify", "images") as progress:
        result = check(file, progress=progress, **options)
    emit(result, as_json, print_verification)
    if result.faults:
        faults = counted(len(result.faults), "fault")
        raise FileFormatError(f"{file}: has {faults}, listed above")


@main.command(
    **_help(
        "Run all of it on handwritten digits.",
        "cnncodes demo",
    )
)
@click.argument("folder", type=FOLDER, default="cnncodes-demo")
@click.option("--all", "all_images", is_flag=True, help="Use all 1,797 digits, not 600.")
def demo(folder: Path, all_images: bool) -> None:
    """Run the whole chain on handwritten digits, in a new FOLDER; works offline.

    When it was interrupted, the same command goes on from there.
    """
    from cnncodes.demo import run_demo

    def run(*words: str) -> None:
        # With --debug errors come through as they are, and this command prints them.
        # Not by `main.main`, in which click turns an interrupt into its own line.
        with main.make_context("cnncodes", ["--debug", *words]) as context:
            main.invoke(context)

    run_demo(folder, run, all_images=all_images)
