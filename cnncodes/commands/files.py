"""The commands on files of any kind, `bench`, `info` and `verify`, and the `demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import click

from cnncodes.cli_options import (
    FOLDER,
    INPUT,
    Number,
    Sizes,
    command,
    json_option,
    max_pixels_option,
    provider_option,
    threads_option,
    whole,
)
from cnncodes.errors import FileFormatError
from cnncodes.parameters import COUNT, NETWORK_BATCH, SECONDS
from cnncodes.printing.emit import emit
from cnncodes.printing.files import print_benchmarks, print_verification
from cnncodes.text import counted


@command(
    "Measure speed and memory of networks on this machine.",
    "cnncodes bench inception_v3.onnx mobilenet_v2.onnx",
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

    Several files are measured in alternating rounds; ratio compares images per second with the
    first. Memory is the peak of the process, Python included.
    """
    from cnncodes.inspect.bench import benchmark
    from cnncodes.progress import Progress

    with Progress("bench", "rounds") as progress:
        results = benchmark(files, progress=progress, **options)
    emit(results, as_json, print_benchmarks)


@command(
    "Describe a file.",
    "cnncodes info app.onnx",
)
@click.argument("file", type=INPUT)
@json_option
def info(file: Path, as_json: bool) -> None:
    """Describe a file of cnncodes in full, any other in a line."""
    from cnncodes.inspect.info import as_text, describe

    emit(describe(file), as_json, lambda each: click.echo(as_text(each)))


@command(
    "Check that a file is complete and belongs to these images.",
    "cnncodes verify codes.h5 --source photos --backbone inception_v3.onnx",
)
@click.argument("file", type=INPUT)
@click.option("--source", type=INPUT, help="codes: compare the images with their digests.")
@click.option(
    "--backbone",
    type=INPUT,
    metavar="FILE",
    help="Check that the file belongs to this network; with --source, compute some codes again.",
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


@command(
    "Run the whole chain on handwritten digits.",
    "cnncodes demo",
)
@click.argument("folder", type=FOLDER, default="cnncodes-demo")
@click.option("--all", "all_images", is_flag=True, help="Use all 1,797 digits, not 600.")
def demo(folder: Path, all_images: bool) -> None:
    """Run the whole chain on handwritten digits, in a new FOLDER; works offline.

    When it was interrupted, the same command goes on from there.
    """
    from cnncodes.demo import run_demo

    program = cast(click.Group, click.get_current_context().find_root().command)

    def run(*words: str) -> None:
        # With --debug errors come through as they are, and this command prints them.
        # Not by `program.main`, in which click turns an interrupt into its own line.
        with program.make_context("cnncodes", ["--debug", *words]) as context:
            program.invoke(context)

    run_demo(folder, run, all_images=all_images)
