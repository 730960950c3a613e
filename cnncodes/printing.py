"""Results printed for people, or as JSON and CSV for programs."""

from __future__ import annotations

import csv
import json
import math
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cnncodes.export.backbones import DEFAULT_INPUT_SIZE
from cnncodes.images.sources import UNLABELLED
from cnncodes.models.description import (
    card_rows,
    fitted_text,
    is_random,
    precision_rows,
    weights_text,
)
from cnncodes.streams import write_as_utf8
from cnncodes.text import counted, csv_cell, shown

if TYPE_CHECKING:
    from pathlib import Path

    from cnncodes.app.classifier import Classifier, FilePrediction
    from cnncodes.datasets.fetch import Fetched
    from cnncodes.datasets.registry import Dataset
    from cnncodes.evaluate.curve import Curve
    from cnncodes.evaluate.evaluation import Evaluation
    from cnncodes.evaluate.metrics import ClassMetrics
    from cnncodes.export.backbones import BackboneSpec
    from cnncodes.export.export import Export
    from cnncodes.extract.convert import Conversion
    from cnncodes.extract.pipeline import Extraction
    from cnncodes.head.sgd.softmax import Epoch
    from cnncodes.head.train import Score, Training
    from cnncodes.images.sources import Source
    from cnncodes.inspect.bench import Benchmark
    from cnncodes.inspect.verify import Verification
    from cnncodes.models.metadata import HeadInfo
    from cnncodes.overlap.overlap import Overlap
    from cnncodes.page.folder import PageFolder
    from cnncodes.progress import Progress
    from cnncodes.quantize.quantize import Quantization

Result = TypeVar("Result")
REASONS_SHOWN = 5
WORTHWHILE = 1.1  # times the speed
CLASSES_SHOWN = 10
WORST_SHOWN = 5
CONFUSIONS_SHOWN = 3
FEW_TESTED = 30  # images; the interval of the accuracy is then 15 points to either side, or more
MAX_WIDTH = 50  # of an aligned column of names


def print_json(value: Any) -> None:
    """Print a value as JSON; other types, such as paths, as text."""
    write_as_utf8()
    click.echo(json.dumps(value, default=str, indent=2))


def emit(
    result: Result,
    as_json: bool,
    print_text: Callable[[Result], None],
    to_json: Callable[[Result], Any] | None = None,
) -> None:
    """Print the result of a command for people, or as JSON.

    Parameters
    ----------
    result : object
        A dataclass, a list of dataclasses or JSON types.
    as_json : bool
        Whether JSON is asked for.
    print_text : callable
        Prints the result for people.
    to_json : callable, optional
        Returns the result as JSON types, where its fields are not what is printed.
    """
    if not as_json:
        print_text(result)
    elif to_json is not None:
        print_json(to_json(result))
    else:
        print_json(_plain(result))


def _plain(result: Any) -> Any:
    if isinstance(result, list):
        return [_plain(each) for each in result]
    return asdict(result) if is_dataclass(result) and not isinstance(result, type) else result


def print_bundle(path: Path, info: HeadInfo, golden: Path | None) -> None:
    """Print which files were made, and what float16 weights change."""
    megabytes = path.stat().st_size / 1e6
    click.echo(f"{shown(str(path))}: {len(info.labels)} classes, {megabytes:.0f} MB")
    measured = {key: value for key, value in info.card.items() if key == "half"}
    for name, text in card_rows(measured):
        click.echo(f"  {name}  {text}")
    if golden is not None:
        click.echo(f"{shown(str(golden))}: three images with the app's answers, golden.json")


def print_backbones(specs: Iterable[BackboneSpec]) -> None:
    """Print the networks that can be exported, a line each."""
    click.echo("network             codes                  parameters  operations  smallest input")
    for spec in specs:
        codes = f"{_shape(spec.code_shape)} = {math.prod(spec.code_shape):,}"
        click.echo(
            f"{spec.name:18}  {codes:22} {spec.n_parameters / 1e6:8.1f} M"
            f"  {spec.n_multiply_adds / 1e9:8.1f} G  {spec.min_input_size:7} pixels"
        )
    click.echo(
        f"  codes and operations (a multiplication and its addition are one) of an image of\n"
        f"  {DEFAULT_INPUT_SIZE} pixels a side; --json names the files of the weights too"
    )


def export_to_json(exported: Export) -> dict[str, Any]:
    """Return an exported backbone as JSON types, its metadata beside path and shape."""
    named = {"path": exported.path, "code_shape": exported.code_shape}
    return {**named, **asdict(exported.info)}


def print_export(exported: Export) -> None:
    """Print what was exported, and how close it is to Keras."""
    info = exported.info
    size = (info.input_size, info.input_size)
    weights = weights_text(info.weights, info.weights_file)
    click.echo(f"{shown(str(exported.path))}: {info.backbone}, {weights}")
    click.echo(f"  codes   {_shape(exported.code_shape)} for an image of {_shape(size)}")
    ((name, text),) = precision_rows(info.parity, info.parity_images, {})
    click.echo(f"  {name:6}  {text}")


def print_quantization(quantized: Quantization) -> None:
    """Print how close the int8 codes are to the float32 ones, and the speed-up."""
    before, after = quantized.images_per_second
    spreads = [f"{least:.1f}–{most:.1f}" for least, most in quantized.images_per_second_spread]
    sizes = [f"{size / 1e6:.1f} MB" for size in quantized.file_sizes]
    info = quantized.info
    click.echo(f"{shown(str(quantized.path))}: {shown(info.backbone)}, int8")
    rows = [
        *precision_rows(info.parity, info.parity_images, json.loads(info.quantization)),
        (
            "speed",
            f"{after:.1f} images per second (rounds of {spreads[1]}), {after / before:.1f} times "
            f"that of float32, {before:.1f} ({spreads[0]})",
        ),
        ("size", f"{sizes[1]}, float32 {sizes[0]}"),
    ]
    for name, text in rows:
        click.echo(f"  {name:11}  {text}")
    if after < WORTHWHILE * before or not quantized.is_close:
        click.echo("  Not worth it: this network does better in its float32 file.")
    for note in quantized.notes:
        click.echo(f"  note: {shown(note)}")


def print_source(path: Path, source: Source) -> None:
    """Print the classes and notes of a source on standard error, before the extraction."""
    n_images = len(source.paths)
    counts = source.class_counts()
    if not counts:
        classes = "no labels"
    elif len(counts) <= CLASSES_SHOWN:
        each = ", ".join(f"{shown(name)} {count}" for name, count in counts.items())
        classes = f"{counted(len(counts), 'class', 'classes')}: {each}"
    else:
        smallest, *_, largest = sorted(counts, key=lambda name: counts[name])
        classes = (
            f"{len(counts)} classes of {counts[smallest]} ({shown(smallest)}) to "
            f"{counts[largest]} ({shown(largest)}) images"
        )
    n_unlabelled = source.labels.count(UNLABELLED) if counts else 0
    without = f", {n_unlabelled} without a label" if n_unlabelled else ""
    listed = f"{counted(n_images, 'image file')}, {classes}{without}"
    click.echo(f"{shown(str(path))}: {listed}", err=True)
    if source.groups:
        n_groups = len({group for group in source.groups if group})
        click.echo(f"  {counted(n_groups, 'group')}, which no split separates", err=True)
    for note in source.notes:
        if note not in source.doubts:  # which are warnings
            click.echo(f"  note: {shown(note)}", err=True)


def print_note(note: str) -> None:
    """Print a note on standard error, beside a result on standard output."""
    click.echo(f"note: {shown(note)}", err=True)


def print_datasets(datasets: Iterable[Dataset]) -> None:
    """Print the data sets that can be fetched, a line each, then their licences."""
    click.echo("name        images  classes  on disk  home")
    datasets = list(datasets)
    for each in datasets:
        click.echo(
            f"{each.name:10}  {each.n_images:6,}  {each.n_classes:7}  {each.megabytes:4} MB"
            f"  {each.homepage}"
        )
    for each in datasets:
        click.echo("")
        _print_terms(each)


def datasets_to_json(datasets: Iterable[Dataset]) -> list[dict[str, Any]]:
    """Return the data sets that can be fetched as JSON types."""
    return [each.as_dict() for each in datasets]


def print_terms(dataset: Dataset) -> None:
    """Print title, licence and citation of a data set on standard error, before it is fetched."""
    _print_terms(dataset, err=True)


def _print_terms(dataset: Dataset, *, err: bool = False) -> None:
    click.echo(dataset.title, err=err)
    click.echo(f"  licence  {dataset.licence}, {dataset.licence_url}", err=err)
    click.echo(f"  cite     {dataset.citation}", err=err)


def print_fetched(fetched: Fetched) -> None:
    """Print where a data set is, and the command that takes it."""
    click.echo(
        f"{shown(str(fetched.path))}: {counted(fetched.n_images, 'image')}, "
        f"{counted(fetched.n_classes, 'class', 'classes')}; licence and citation are in "
        f"{shown(str(fetched.licence))}"
    )
    if fetched.archive is not None:
        click.echo(f"  {shown(str(fetched.archive))} is not needed any more")
    command = shlex.join(["cnncodes", "extract", "BACKBONE", str(fetched.source), "-o", "codes.h5"])
    click.echo(f"  next: {shown(command)}")


def print_overlap(overlap: Overlap, folder: Path) -> None:
    """Print the number of copies and where they are shown."""
    n_same = sum(pair.kind == "same" for pair in overlap.pairs)
    names = [shown(overlap.a.name)]
    names += [] if overlap.a is overlap.b else [shown(overlap.b.name)]
    click.echo(
        f"{' and '.join(names)}: {counted(len(overlap.pairs), 'pair')} of copies, {n_same} of the "
        f"same file and {len(overlap.pairs) - n_same} near; see {shown(str(folder / 'index.html'))}"
    )
    for note in overlap.notes:
        click.echo(f"  note: {shown(note)}")


def print_address(url: str) -> None:
    """Print where the page is, at once also where standard output is a pipe."""
    click.echo(f"{url}  (Ctrl-C stops the server)")
    sys.stdout.flush()


def print_extraction(extraction: Extraction) -> None:
    """Print what was extracted, how fast, and what was skipped."""
    n_classes, rate = len(extraction.class_names), extraction.images_per_second
    if extraction.is_unchanged:
        click.echo(
            f"{shown(str(extraction.path))}: complete already, with the same "
            f"{counted(extraction.n_images, 'image')} and network; nothing to do"
        )
        for note in extraction.notes:
            click.echo(f"  note: {shown(note)}")
        return
    click.echo(
        f"{shown(str(extraction.path))}: {counted(extraction.n_images, 'image')}, "
        f"{counted(n_classes, 'class', 'classes') if n_classes else 'no labels'}, codes "
        f"{_shape(extraction.code_shape)}{f'; {rate:.1f} images per second' if rate else ''}"
    )
    if rate:  # else there was nothing to compute
        workers = counted(extraction.workers, "worker")
        images = counted(extraction.batch_size, "image")
        click.echo(f"  by {workers}, {images} at a time in each")
    if extraction.n_resumed:
        click.echo(f"  went on after {counted(extraction.n_resumed, 'image')} of an earlier run")
    if extraction.n_reused:
        kept = counted(extraction.n_reused, "image")
        click.echo(f"  kept the codes of {kept} from the file as it was before")
    if extraction.skipped:
        skipped = counted(len(extraction.skipped), "image")
        click.echo(f"  {skipped} skipped (cnncodes info lists all):")
        _print_skipped(extraction.skipped)
    for note in extraction.notes:
        click.echo(f"  note: {shown(note)}")


def print_conversion(conversion: Conversion) -> None:
    """Print which file was made of codes."""
    megabytes = conversion.path.stat().st_size / 1e6
    click.echo(
        f"{shown(str(conversion.path))}: {counted(conversion.n_images, 'image')}, codes "
        f"{_shape(conversion.code_shape)}, {megabytes:.1f} MB"
    )
    for note in conversion.notes:
        click.echo(f"  note: {shown(note)}")


def _print_skipped(skipped: Sequence[tuple[str, str]]) -> None:
    """Print the most frequent reasons, each with one of its images."""
    paths: dict[str, list[str]] = {}
    for path, reason in skipped:
        paths.setdefault(reason, []).append(path)
    reasons = sorted(paths, key=lambda reason: len(paths[reason]), reverse=True)
    for reason in reasons[:REASONS_SHOWN]:
        first, *others = paths[reason]
        more = f" and {len(others)} more" if others else ""
        click.echo(f"    {shown(first)}{more}: {shown(reason)}")
    if len(reasons) > REASONS_SHOWN:
        further = counted(len(reasons) - REASONS_SHOWN, "other reason")
        click.echo(f"    and more, for {further}")


def print_benchmarks(benchmarks: Sequence[Benchmark]) -> None:
    """Print a line per file, then images per second by batch size and threads."""
    names = [shown(each.path) for each in benchmarks]
    width = max(len("file"), *map(len, names))
    ratio = len(benchmarks) > 1
    click.echo(
        f"{'file':{width}}  precision  file MB  load s  p50 ms  p95 ms  images/s  {'min–max':>13}"
        f"  memory MB{'  ratio' if ratio else ''}"
    )
    for name, each in zip(names, benchmarks, strict=True):
        peak = "–" if each.peak_bytes is None else f"{each.peak_bytes / 1e6:.0f}"
        spread = f"{each.best.slowest:.1f}–{each.best.fastest:.1f}"
        click.echo(
            f"{name:{width}}  {shown(each.precision):9}  {each.file_bytes / 1e6:7.1f}"
            f"  {each.load_seconds:6.2f}  {each.latency_p50 * 1e3:6.1f}"
            f"  {each.latency_p95 * 1e3:6.1f}  {each.best.images_per_second:8.1f}  {spread:>13}"
            f"  {peak:>9}{f'  {each.ratio:5.2f}' if ratio else ''}"
        )
    turns = ", the files in turn" if ratio else ""
    click.echo(
        f"images/s is the median of {benchmarks[0].best.rounds} rounds{turns}; min–max are the "
        "slowest and the fastest of them\n"
        "of single images, half take at most p50, and 95 of 100 at most p95\n"
        "\nimages/s by batch size, for parallel batches × threads of each; * is the rate above"
    )
    sizes = list(dict.fromkeys(each.batch_size for each in benchmarks[0].throughputs))
    click.echo(" " * (width + 11) + "".join(f"{size:9}" for size in sizes))
    for name, each in zip(names, benchmarks, strict=True):
        for start in range(0, len(each.throughputs), len(sizes)):
            row = each.throughputs[start : start + len(sizes)]
            rates = "".join(
                f"{one.images_per_second:8.1f}{'*' if one == each.best else ' '}" for one in row
            )
            click.echo(f"{name:{width}}  {row[0].callers:3} × {row[0].threads:<3}{rates}".rstrip())


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
    click.echo(
        f"{shown(str(training.path))}: {len(training.labels)} classes, {training.estimator}"
        f"{_caution(training.weights)}"
    )
    width = len(str(max(training.train.n_images, training.test.n_images)))
    _print_score("train", training.train, width)
    _print_score("test", training.test, width)
    if training.majority is not None:
        _print_majority(training.majority)
    if training.test.accuracy is not None:
        _print_doubts(training.test.accuracy, training.test.n_images, training.majority)
    fitted = fitted_text(training.fitted)
    click.echo(f"  fitted in {training.seconds:.1f} s{f': {fitted}' if fitted else ''}")
    for note in training.notes:
        click.echo(f"  note: {shown(note)}")


def print_evaluation(evaluation: Evaluation, report: Path | None, predictions: Path | None) -> None:
    """Print the metrics, the worst classes, the commonest confusions and the files written."""
    figures, model = evaluation.metrics, evaluation.model
    click.echo(
        f"{shown(model.path)}: evaluated on {counted(figures.n_images, 'image')} of "
        f"{shown(evaluation.data.path)}, {len(figures.classes)} classes"
        f"{_caution(model.backbone.weights)}"
    )
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
    _print_classes(figures.worst_classes())
    confusions = figures.confusions(CONFUSIONS_SHOWN)
    for each in confusions:
        images = counted(each.n_images, "image")
        click.echo(f"  {shown(each.label)} predicted as {shown(each.predicted)}: {images}")
    n_wrong = figures.n_images - round(figures.accuracy * figures.n_images)
    if n_others := n_wrong - sum(each.n_images for each in confusions):
        click.echo(f"  and {counted(n_others, 'more mistake')}, {n_wrong} in all")
    for note in evaluation.notes:
        click.echo(f"  note: {shown(note)}")
    if report is not None:
        click.echo(f"{shown(str(report / 'index.html'))}: the report, for a browser")
    if predictions is not None:
        click.echo(f"{shown(str(predictions))}: the prediction for each image")


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


def print_verification(verification: Verification) -> None:
    """Print what was checked, and every fault."""
    click.echo(f"{shown(str(verification.path))}: {verification.kind}")
    for each in verification.checked:
        click.echo(f"  checked: {shown(each)}")
    if verification.largest_difference == 0:
        click.echo("  those computed again are equal to the stored codes")
    elif verification.largest_difference is not None:
        difference = f"{verification.largest_difference:.1e} of the largest code"
        click.echo(f"  those computed again differ from the stored codes by at most {difference}")
    for fault in verification.faults:
        click.echo(f"  WRONG: {shown(fault.subject)}: {shown(fault.problem)}")
    if not verification.faults:
        click.echo("  nothing is wrong")


def print_top(top: int, classifier: Classifier) -> None:
    """Print a line on standard error if `top` exceeds the number of classes."""
    n_classes = len(classifier.labels)
    if top > n_classes:
        click.echo(
            f"{shown(str(classifier.path))}: has {n_classes} classes; all are printed, not {top}",
            err=True,
        )


def print_page(page: PageFolder) -> None:
    """Print where a page was written."""
    classes = counted(len(page.labels), "class", "classes")
    click.echo(
        f"{page.path}: {classes}, {page.n_bytes / 1e6:.0f} MB; open {page.path / 'index.html'}"
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
        click.echo(f"{shown(str(image.path)):{path_width}}  {named or shown(image.problem)}")
    return n_unusable


def print_csv(predictions: Iterable[FilePrediction]) -> int:
    """Print a row per image and class as results arrive; return the number of unusable images."""
    n_unusable = 0
    write_as_utf8()
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["path", "rank", "label", "probability", "problem"])
    for image in predictions:
        path = csv_cell(str(image.path))
        if image.problem:
            n_unusable += 1
            writer.writerow([path, "", "", "", csv_cell(image.problem)])
        for rank, each in enumerate(image.predictions, start=1):
            writer.writerow([path, rank, csv_cell(each.label), f"{each.probability:.6f}", ""])
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
    if image.explanation is not None:
        contributions = image.explanation.contributions.tolist()
        described["explanation"] = asdict(image.explanation) | {"contributions": contributions}
    return described


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


def _caution(weights: str) -> str:
    """Mark metrics of random weights, which do not carry over to trained ones."""
    return "  (random weights)" if is_random(weights) else ""


def _shape(shape: Iterable[int]) -> str:
    return " × ".join(map(str, shape))
