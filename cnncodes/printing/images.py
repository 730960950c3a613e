"""Results of `fetch`, `extract`, `merge`, `convert` and `overlap`, and the listing of a source."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cnncodes.printing.emit import shape_text
from cnncodes.text import class_nouns, counted, shown, views_text

if TYPE_CHECKING:
    from cnncodes.datasets.fetch import Fetched
    from cnncodes.datasets.registry import Dataset
    from cnncodes.extract.convert import Conversion
    from cnncodes.extract.merge import Merge
    from cnncodes.extract.pipeline import Extraction
    from cnncodes.images.sources import Source
    from cnncodes.overlap.overlap import Overlap

REASONS_SHOWN = 5
CLASSES_SHOWN = 10


def print_source(path: Path, source: Source) -> None:
    """Print the classes and notes of a source on standard error, before the extraction."""
    n_images = len(source.paths)
    counts = source.class_counts()
    nouns = class_nouns(several=bool(source.flags))
    if not counts:
        classes = "no labels"
    elif len(counts) <= CLASSES_SHOWN:
        each = ", ".join(f"{shown(name)} {count}" for name, count in counts.items())
        classes = f"{counted(len(counts), *nouns)}: {each}"
    else:
        smallest, *_, largest = sorted(counts, key=lambda name: counts[name])
        classes = (
            f"{len(counts)} {nouns[1]} of {counts[smallest]} ({shown(smallest)}) to "
            f"{counts[largest]} ({shown(largest)}) images"
        )
    n_unlabelled = source.n_unlabelled if counts else 0
    without = f", {n_unlabelled} without a label" if n_unlabelled else ""
    listed = f"{counted(n_images, 'image file')}, {classes}{without}"
    click.echo(f"{shown(str(path))}: {listed}", err=True)
    if source.groups:
        n_groups = len({group for group in source.groups if group})
        click.echo(f"  {counted(n_groups, 'group')}, which no split separates", err=True)
    if source.weights:
        n_other = sum(weight != 1 for weight in source.weights)
        click.echo(f"  weights in training, of {counted(n_other, 'image')} other than 1", err=True)
    if source.probabilities:
        n_doubtful = sum(probability < 1 for probability in source.probabilities)
        click.echo(f"  labels that are doubtful, of {counted(n_doubtful, 'image')}", err=True)
    for note in source.notes:
        if note not in source.doubts:  # which are warnings
            click.echo(f"  note: {shown(note)}", err=True)
    if len(counts) < 2 and not source.doubts and not source.flags:
        click.echo(
            "  note: to train on them, make a folder for each class, or list them in a CSV file "
            "with the columns path and label",
            err=True,
        )


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


def print_extraction(extraction: Extraction) -> None:
    """Print what was extracted, how fast, and what was skipped."""
    rate = extraction.images_per_second
    if extraction.is_unchanged:
        click.echo(
            f"{shown(str(extraction.path))}: complete already, with the same "
            f"{views_text(extraction.n_images, extraction.n_views)} and network; nothing to do"
        )
        for note in extraction.notes:
            click.echo(f"  note: {shown(note)}")
        return
    click.echo(
        f"{shown(str(extraction.path))}: {views_text(extraction.n_images, extraction.n_views)}, "
        f"{_classes_text(extraction)}, codes "
        f"{shape_text(extraction.code_shape)}{f'; {rate:.1f} images per second' if rate else ''}"
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


def print_merge(merge: Merge) -> None:
    """Print which file was made of others, and what was decided about their images."""
    skipped = f", {counted(merge.n_skipped, 'image')} skipped before" if merge.n_skipped else ""
    click.echo(
        f"{shown(str(merge.path))}: {views_text(merge.n_images, merge.n_views)} of "
        f"{counted(len(merge.files), 'file')}, {_classes_text(merge)}, codes "
        f"{shape_text(merge.code_shape)}{skipped}"
    )
    for note in merge.notes:
        click.echo(f"  note: {shown(note)}")


def _classes_text(made: Extraction | Merge) -> str:
    nouns = class_nouns(several=made.has_several_labels)
    return counted(len(made.class_names), *nouns) if made.class_names else "no labels"


def print_conversion(conversion: Conversion) -> None:
    """Print which file was made of codes."""
    megabytes = conversion.path.stat().st_size / 1e6
    click.echo(
        f"{shown(str(conversion.path))}: {counted(conversion.n_images, 'image')}, codes "
        f"{shape_text(conversion.code_shape)}, {megabytes:.1f} MB"
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
