"""The commands that use an app: `predict`, `serve` and `page`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from cnncodes.cli_options import (
    FOLDER,
    INPUT,
    command,
    json_option,
    max_pixels_option,
    overwrite_option,
    provider_option,
    threads_option,
    whole,
)
from cnncodes.errors import SourceError
from cnncodes.parameters import COUNT, PORT
from cnncodes.printing.emit import emit, print_note
from cnncodes.printing.predictions import (
    print_address,
    print_csv,
    print_list,
    print_page,
    print_table,
    print_top,
)
from cnncodes.text import counted

if TYPE_CHECKING:
    from cnncodes.app.prediction import FilePrediction


@command(
    "Classify images.",
    "cnncodes predict app.onnx photo.jpg --top 3",
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
    several, typed = classifier.info.has_several_labels, click.get_current_context()
    is_default = typed.get_parameter_source("top") is not ParameterSource.COMMANDLINE
    print_top(top, classifier)
    print_as: dict[str, Callable[[Iterable[FilePrediction]], int]]
    print_as = {
        "table": lambda each: print_table(each, files, classifier.labels),
        "csv": lambda each: print_csv(
            each, has_unknown=classifier.has_unknown, has_several=several
        ),
        "json": print_list,
    }
    with Progress("predict", "images") as progress:
        predictions = predict_inputs(
            classifier,
            files,
            sys.stdin.buffer,
            None if several and is_default else top,  # all labels that an image has
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


@command(
    "Open a page that classifies images, with an HTTP API.",
    "cnncodes serve app.onnx",
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
    help="Token that requests must send; by default none on loopback, elsewhere a new one.",
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


@command(
    "Make a folder of web pages that classifies in the browser.",
    "cnncodes page app.onnx -o page",
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
