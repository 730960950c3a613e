"""The commands on collections of images: `fetch`, `extract`, `merge`, `convert` and `overlap`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cnncodes.cli_options import (
    CODES_OUTPUT,
    FOLDER,
    INPUT,
    OUTPUT,
    Number,
    PartOf,
    command,
    group_option,
    json_option,
    max_pixels_option,
    overwrite_option,
    pool_option,
    provider_option,
    threads_option,
    whole,
)
from cnncodes.datasets.registry import DATASETS
from cnncodes.parameters import NETWORK_BATCH, SIMILARITY, VIEWS, WHITE
from cnncodes.printing.emit import emit, print_note
from cnncodes.printing.images import (
    datasets_to_json,
    print_conversion,
    print_datasets,
    print_extraction,
    print_fetched,
    print_merge,
    print_overlap,
    print_source,
    print_terms,
)


@command(
    "Fetch a published data set, as a folder that extract reads.",
    "cnncodes fetch caltech101",
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


@command(
    "Compute the codes of images: codes.h5.",
    "cnncodes extract inception_v3.onnx photos -o codes.h5",
)
@click.argument("backbone", type=INPUT)
@click.argument("source", type=INPUT)
@click.option("-o", "--output", type=CODES_OUTPUT, required=True, help="Codes file to write.")
@click.option(
    "--batch-size",
    type=whole(NETWORK_BATCH),
    help="Images per batch; the default depends on the network.",
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
@click.option(
    "--augment",
    type=click.Choice(list(VIEWS)),
    default="none",
    show_default=True,
    help="Store the codes of the image mirrored left-right too, also upside down and both "
    "(hvflip), or of all eight turned and mirrored ones (d4).",
)
@click.option(
    "--part",
    type=PartOf(),
    help="Compute only the K-th of N parts of the images; cnncodes merge joins them.",
)
@provider_option
@click.option(
    "--update",
    is_flag=True,
    help="Bring the output file up to date with SOURCE; only what is new is computed.",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Compute on a Dask cluster, such as tcp://host:8786, or on one that is started here, "
    "local; needs the extra cluster.",
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
    from cnncodes.extract.pipeline import Extraction
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
    emit(result, as_json, print_extraction, to_json=Extraction.as_dict)


@command(
    "Join parts or collections into one codes file.",
    "cnncodes merge part-*.h5 -o codes.h5",
)
@click.argument("files", nargs=-1, required=True, type=INPUT, metavar="FILE...")
@click.option("-o", "--output", type=CODES_OUTPUT, required=True, help="Codes file to write.")
@click.option(
    "--rename",
    is_flag=True,
    help="Put the name of its codes file in front of the path of each image, where collections "
    "use one path for different images.",
)
@overwrite_option
@json_option
def merge(files: tuple[Path, ...], output: Path, as_json: bool, **options: Any) -> None:
    """Join codes files of one network, without computing anything again.

    All parts that extract --part made of a source become the file of the whole source, byte for
    byte. Other collections are joined in the order of their paths; an image that two of them have
    is kept once, and files that contradict each other are refused.
    """
    from cnncodes.extract.merge import merge_codes
    from cnncodes.progress import Progress

    with Progress("merge", "images") as progress:
        merged = merge_codes(files, output, progress=progress, **options)
    emit(merged, as_json, print_merge)


@command(
    "Write codes as a table for pandas, R or Orange, or for numpy.",
    "cnncodes convert codes.h5 -o codes.tab --pool avg",
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


@command(
    "Find images that two collections share, or one holds twice.",
    "cnncodes overlap photos test-photos -o copies",
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
