"""The whole chain on images of scikit-learn; each step is printed as a command."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

from cnncodes.errors import MissingDependencyError, OutputError, WeightsError
from cnncodes.evaluate.charts import require
from cnncodes.export.backbones import BACKBONES, DEFAULT_INPUT_SIZE
from cnncodes.extract.store import CodeStore
from cnncodes.files import exists, is_file, is_folder
from cnncodes.models.kinds import needing
from cnncodes.models.metadata import HeadInfo, image_key
from cnncodes.models.session import open_session
from cnncodes.output import FOLDER, check_ending
from cnncodes.printing.emit import print_note
from cnncodes.progress import Progress
from cnncodes.text import shown

REPLACING = ("export", "train", "evaluate", "bundle")  # commands that keep no file by themselves
N_IMAGES = 600
UNFINISHED = ".unfinished"  # a file that marks the folder until all is done
N_SHOWN = 5
SIDE = 64  # pixels; the digits are 8 × 8 and enlarged for people to see


def run_demo(folder: Path, run: Callable[..., None], *, all_images: bool) -> None:
    """Write digits as PNG files, then export, extract, train, evaluate, bundle and predict.

    Parameters
    ----------
    folder : Path
        A new or empty folder for all that is made.
    run : callable
        Runs one command; called with its words, such as ``run("info", "app.onnx")``.
    all_images : bool
        Whether to use all 1,797 digits or `N_IMAGES` of them.

    Raises
    ------
    OutputError
        The folder is not empty, nor that of an interrupted demo, or cannot be made.
    KeyboardInterrupt
        With a message about what is kept.
    CnncodesError
        A step failed.
    """

    def step(*arguments: str | Path) -> None:
        """Print a command, then run it: what is printed is what is done."""
        words = [str(argument) for argument in arguments]
        if words[0] in REPLACING:
            words.append("--overwrite")
        click.echo(f"\n$ {shlex.join([*program, *words])}")
        run(*words)

    program = words_of_program(sys.argv[0])
    _prepare(folder)
    try:
        _run_steps(folder, step, all_images=all_images)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"{folder} keeps what is done, and the same command goes on from there"
        ) from None
    (folder / UNFINISHED).unlink(missing_ok=True)


def _run_steps(folder: Path, step: Callable[..., None], *, all_images: bool) -> None:
    from cnncodes.export.weights import fetch_weights

    try:
        with Progress("download", "MB") as progress:
            network = BACKBONES["inception_v3"]
            fetch_weights(network, DEFAULT_INPUT_SIZE, progress=progress, on_note=print_note)
        weights = "imagenet"
        click.echo("InceptionV3 with its ImageNet weights, on handwritten digits.")
    except WeightsError:
        weights = "random"
        click.echo(
            "InceptionV3 with random weights, since ImageNet's cannot be downloaded here; on "
            "handwritten digits these do well too, on photographs they would not."
        )
    paths = write_digits(folder / "digits", None if all_images else N_IMAGES)
    click.echo(f"{len(paths)} digits of scikit-learn are in {folder / 'digits'}.")
    click.echo(f"Each command below can be typed again in {shown(str(Path.cwd()))}.")
    backbone, codes = folder / "inception_v3.onnx", folder / "codes.h5"
    head, app = folder / "head.onnx", folder / "app.onnx"
    step("export", "inception_v3", "--weights", weights, "-o", backbone)
    step("extract", backbone, folder / "digits", "-o", codes)
    step("train", codes, "-o", head)
    report = folder / "report"
    reported: list[str | Path] = ["--report", report] if _can_report() else []
    step("evaluate", head, codes, *reported)
    step("bundle", backbone, head, "-o", app)
    step("predict", app, *_unseen(head, codes, folder / "digits"), "--top", "2")
    accuracy = _read_head(head).training["test"]["accuracy"]
    click.echo(
        f"\nTest accuracy {accuracy:.1%} with {weights} weights, on digits kept out of training."
    )
    click.echo(f"Everything is in {folder}:")
    for path, meaning in (
        (folder / "digits", "the images, a folder for each class"),
        (backbone, "the network, from image to codes"),
        (codes, "the codes of all images"),
        (head, "the classifier, from codes to probabilities"),
        (app, "both in one file, for your own program"),
        (report / "index.html", "how good the classifier is, for a browser"),
    ):
        if path.exists():
            click.echo(f"  {path!s:{len(str(report / 'index.html'))}}  {meaning}")
    click.echo("Next: the same commands with a folder of your own photographs.")


def words_of_program(started: str) -> list[str]:
    """Return what starts this program in the user's shell.

    Parameters
    ----------
    started : str
        What started it, ``sys.argv[0]``.

    Returns
    -------
    list of str
        Its name if the shell finds it by that, else its path as it was typed; Python and the
        name of the module if it was started as one.
    """
    if Path(started).stem != "cnncodes":
        return [sys.executable, "-m", "cnncodes"]
    found = shutil.which("cnncodes")
    is_found = found is not None and exists(Path(started)) and Path(found).samefile(started)
    return ["cnncodes"] if is_found else [started]


def write_digits(folder: Path, n_images: int | None) -> list[Path]:
    """Write scikit-learn's handwritten digits as PNG files, a folder for each class.

    Parameters
    ----------
    folder : Path
        Folder to create.
    n_images : int, optional
        Number of images, from the first on; by default all.

    Returns
    -------
    list of Path
        The files.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    paths = []
    for index, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        if index == n_images:  # they are in random order
            break
        path = folder / str(label) / f"digit_{index:04}.png"
        paths.append(path)
        if path.exists():  # of an interrupted demo; a new time would end its extraction too
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        ink = np.round(255 * pixels / digits.images.max()).astype(np.uint8)
        digit = Image.fromarray(ink).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        temporary = path.with_suffix(".new")  # an interrupt must not leave half of one
        digit.save(temporary, "PNG")
        temporary.replace(path)
    return paths


def _can_report() -> bool:
    try:
        require("a report", "matplotlib", "jinja2")
    except MissingDependencyError:
        return False
    return True


def _prepare(folder: Path) -> None:
    """Make the folder, or accept that of an interrupted demo, and mark it as unfinished."""
    if is_file(folder):
        with needing(folder, (), "a folder", "name a new one", error=OutputError):
            raise OutputError(f"{folder}: is not a folder; name a new one")
    if not is_folder(folder):
        check_ending(folder, FOLDER)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        occupied = any(folder.iterdir()) and not (folder / UNFINISHED).exists()
        if not occupied:
            (folder / UNFINISHED).touch()
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror})") from error
    if occupied:
        raise OutputError(f"{folder}: is not empty; name a new folder, or remove it")


def _unseen(head: Path, codes: Path, digits: Path) -> list[Path]:
    """Return a few images that the head was not trained on, of different classes."""
    trained = _read_head(head).training_images
    with CodeStore.open(codes) as store:
        images = zip(store.paths, store.digests, strict=True)
        unseen = [digits / path for path, digest in images if image_key(digest) not in trained]
    return unseen[:: max(1, len(unseen) // N_SHOWN)][:N_SHOWN]


def _read_head(head: Path) -> HeadInfo:
    _, metadata = open_session(head, "head")
    return HeadInfo.from_metadata(metadata, head)
