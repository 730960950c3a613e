"""What the command line can be given to classify: files, folders and standard input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from cnncodes.app.classifier import Classifier, FilePrediction
from cnncodes.errors import ImageError, SourceError
from cnncodes.files import is_folder
from cnncodes.images.folders import Omissions, images_below
from cnncodes.images.limits import DEFAULT_MAX_PIXELS

STANDARD_INPUT = "-"


def predict_inputs(
    classifier: Classifier,
    inputs: Sequence[str],
    standard_input: BinaryIO,
    top: int | None = None,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    on_note: Callable[[str], None] | None = None,
) -> Iterator[FilePrediction]:
    """Classify images in the order in which they are named.

    Parameters
    ----------
    classifier : Classifier
        What classifies.
    inputs : sequence of str
        Image files; folders, of which all images below are taken; ``-``, one image on
        standard input. A file of that name is ``./-``.
    standard_input : binary file
        Where ``-`` is read from.
    top : int, optional
        How many classes to give for each image, by default all.
    max_pixels : int
        An image with more pixels cannot be used.
    on_note : callable, optional
        Given a line for what is left out of a folder.

    Yields
    ------
    FilePrediction
        One for each image.

    Raises
    ------
    SourceError
        A folder cannot be read or holds no images.
    """
    for is_standard_input, paths in _grouped(inputs, on_note):
        if is_standard_input:
            try:
                predictions = classifier.predict(standard_input, top, max_pixels=max_pixels)
                yield FilePrediction(Path(STANDARD_INPUT), predictions, "")
            except ImageError as error:
                yield FilePrediction(Path(STANDARD_INPUT), [], str(error))
        else:
            yield from classifier.predict_files(paths, top, max_pixels=max_pixels)


def _grouped(
    inputs: Sequence[str], on_note: Callable[[str], None] | None
) -> Iterator[tuple[bool, list[Path]]]:
    """Expand folders, and keep runs of files together so that they share batches."""
    files: list[Path] = []
    for name in inputs:
        path = Path(name)
        if name == STANDARD_INPUT:
            yield False, files
            yield True, []
            files = []
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
    yield False, files
