"""The inputs of ``cnncodes predict``: files, folders and standard input."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from cnncodes.app.classifier import Classifier
from cnncodes.app.prediction import FilePrediction
from cnncodes.errors import ImageError, SourceError
from cnncodes.files import is_folder
from cnncodes.images.folders import Omissions, images_below
from cnncodes.images.limits import DEFAULT_MAX_PIXELS
from cnncodes.progress import NoProgress, Progress

STANDARD_INPUT = "-"


def list_inputs(
    inputs: Sequence[str], *, on_note: Callable[[str], None] | None = None
) -> list[Path | None]:
    """List the images to classify, in the order in which they are named.

    Parameters
    ----------
    inputs : sequence of str
        Image files; folders, of which all images below are listed; ``-``, one image on standard
        input. A file of that name is ``./-``.
    on_note : callable, optional
        Called with a line for each kind of file that is left out of a folder.

    Returns
    -------
    list of Path or None
        The image files; None is the image on standard input.

    Raises
    ------
    SourceError
        A folder cannot be read or holds no images.
    """
    files: list[Path | None] = []
    for name in inputs:
        path = Path(name)
        if name == STANDARD_INPUT:
            files.append(None)
        elif is_folder(path):
            omitted = Omissions()
            images = images_below(path, omitted)
            if on_note is not None:
                for note in omitted.notes():
                    on_note(f"{path}: {note}")
            if not images:
                raise SourceError(f"{path}: no images in this folder")
            files += images
        else:
            files.append(path)
    return files


def predict_inputs(
    classifier: Classifier,
    files: Sequence[Path | None],
    standard_input: BinaryIO,
    top: int | None = None,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    explain: bool = False,
    progress: Progress | None = None,
) -> Iterator[FilePrediction]:
    """Classify images in order.

    Parameters
    ----------
    classifier : Classifier
    files : sequence of Path or None
        The result of `list_inputs`.
    standard_input : binary file
        The file that None is read from.
    top : int, optional
        Number of classes to return for each image, by default all.
    max_pixels : int
        An image with more pixels cannot be used.
    explain : bool
        Whether to explain the most probable class of each file.
    progress : Progress, optional
        Counts the images, if there are several. It is cleared before each result, which can
        then be printed.

    Yields
    ------
    FilePrediction
        One for each image.
    """
    if progress is None or len(files) < 2:
        progress = NoProgress()
    progress.begin(len(files))
    predictions = _predict(classifier, files, standard_input, top, max_pixels, explain)
    with closing(predictions):
        for prediction in predictions:
            progress.clear()
            yield prediction
            progress.advance(1)


def _predict(
    classifier: Classifier,
    files: Sequence[Path | None],
    standard_input: BinaryIO,
    top: int | None,
    max_pixels: int,
    explain: bool,
) -> Generator[FilePrediction, None, None]:
    """Classify runs of files together, so that they share workers and batches."""
    for is_standard_input, run in groupby(files, lambda file: file is None):
        if not is_standard_input:
            paths = [file for file in run if file is not None]
            yield from classifier.predict_files(paths, top, max_pixels=max_pixels, explain=explain)
            continue
        for _ in run:
            try:
                predictions = classifier.predict(standard_input, top, max_pixels=max_pixels)
                yield FilePrediction(Path(STANDARD_INPUT), predictions, "")
            except ImageError as error:
                yield FilePrediction(Path(STANDARD_INPUT), [], str(error))
