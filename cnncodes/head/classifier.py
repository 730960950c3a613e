"""What a small program imports: one file in, labels with probabilities out.

Needs numpy, onnxruntime and Pillow, nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnncodes.errors import FileFormatError, ImageError, ParameterError
from cnncodes.extract.images import (
    DEFAULT_MAX_PIXELS,
    check_pixels,
    decode_image,
    in_batches,
    load_image,
    load_images,
    prepare_image,
)
from cnncodes.machine import available_threads
from cnncodes.model_file import (
    DEFAULT_PROVIDER,
    HeadInfo,
    open_session,
    run_session,
    warn_of_saturation,
)

BATCH_SIZE = 8


@dataclass(frozen=True)
class Prediction:
    """A class and how likely it is.

    Attributes
    ----------
    label : str
        The class.
    probability : float
        Between 0 and 1; those of all classes add up to 1.
    """

    label: str
    probability: float


@dataclass(frozen=True)
class FilePrediction:
    """What became of one image file.

    Attributes
    ----------
    path : Path
        The file.
    predictions : list of Prediction
        The likeliest classes, likeliest first; empty if the image cannot be used.
    problem : str
        Why the image cannot be used; empty if it can.
    """

    path: Path
    predictions: list[Prediction]
    problem: str


class Classifier:
    """An image classifier in one file.

    Parameters
    ----------
    path : str or Path
        A file made by ``cnncodes bundle``.
    threads : int, optional
        Threads that compute; by default all the processors there are.
    provider : str
        Execution provider of onnxruntime, such as ``cpu`` or ``openvino``.

    Attributes
    ----------
    info : HeadInfo
        What the file says of itself.
    labels : tuple of str
        The classes, in the order of the probabilities.
    input_size : int
        Height and width of the network's input, in pixels.

    Raises
    ------
    FileFormatError
        The file is not an app.
    ParameterError
        The provider is not there or cannot start.

    Examples
    --------
    >>> Classifier("app.onnx").predict("cat.jpg", top=1)  # doctest: +SKIP
    [Prediction(label='cat', probability=0.97)]
    """

    def __init__(
        self, path: str | Path, *, threads: int | None = None, provider: str = DEFAULT_PROVIDER
    ) -> None:
        self.path = Path(path)
        self._threads = threads or available_threads()
        self._session, metadata = open_session(
            self.path, "app", threads=self._threads, provider=provider
        )
        self.info = HeadInfo.from_metadata(metadata, self.path)
        warn_of_saturation(self.path, self.info.backbone)
        self.labels = self.info.labels
        self.input_size = self.info.backbone.input_size
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        given, taken = (
            [(each.name, each.type, each.shape[1:]) for each in ends] for ends in (inputs, outputs)
        )
        wanted = [("images", "tensor(uint8)", [self.input_size, self.input_size, 3])]
        if given != wanted or taken != [("probabilities", "tensor(float)", [len(self.labels)])]:
            raise FileFormatError(
                f"{self.path}: its input or output is not that of an app; bundle it again"
            )

    def predict(
        self,
        image: str | os.PathLike[str] | bytes | Image.Image,
        top: int | None = None,
        *,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> list[Prediction]:
        """Classify one image.

        Parameters
        ----------
        image : path, bytes or PIL.Image.Image
            An image file, its content, or an opened image.
        top : int, optional
            How many classes to return, by default all.
        max_pixels : int
            A file with more pixels is refused.

        Returns
        -------
        list of Prediction
            The likeliest first.

        Raises
        ------
        ImageError
            The image cannot be used.
        ParameterError
            `top` is below 1.
        """
        if isinstance(image, Image.Image):
            pixels = prepare_image(image, self.input_size)
        elif isinstance(image, bytes):
            pixels = decode_image(image, self.input_size, max_pixels=max_pixels)
        else:
            loaded = load_image(0, Path(image), self.input_size, max_pixels)
            if loaded.pixels is None:
                raise ImageError(f"{image}: {loaded.problem}")
            pixels = loaded.pixels
        return self._ranked(self.predict_proba(pixels[np.newaxis])[0], top)

    def predict_files(
        self,
        paths: Sequence[Path],
        top: int | None = None,
        *,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> Iterator[FilePrediction]:
        """Classify many files, in order; one that cannot be used does not stop the rest.

        Parameters
        ----------
        paths : sequence of Path
            Image files.
        top : int, optional
            How many classes to return for each, by default all.
        max_pixels : int
            A file with more pixels cannot be used.

        Yields
        ------
        FilePrediction
            One for each path.
        """
        loaded = load_images(
            paths,
            self.input_size,
            threads=self._threads,
            ahead=2 * BATCH_SIZE,
            max_pixels=max_pixels,
        )
        for batch in in_batches(loaded, BATCH_SIZE):
            pixels = [image.pixels for image in batch if image.pixels is not None]
            rows = iter(self.predict_proba(np.stack(pixels)) if pixels else ())
            for image in batch:
                usable = image.pixels is not None
                predictions = self._ranked(next(rows), top) if usable else []
                yield FilePrediction(paths[image.index], predictions, image.problem)

    def predict_proba(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute the probabilities of a batch of pixels.

        Parameters
        ----------
        images : ndarray of uint8, shape (n_images, input_size, input_size, 3)
            RGB.

        Returns
        -------
        ndarray of float32, shape (n_images, n_classes)
            Rows that add up to 1, in the order of `labels`.

        Raises
        ------
        ParameterError
            The images have another dtype or shape.
        """
        check_pixels(images, self.input_size)
        probabilities: NDArray[np.float32]
        probabilities = run_session(self._session, self.path, "probabilities", "images", images)
        return probabilities

    def _ranked(self, row: NDArray[np.float32], top: int | None) -> list[Prediction]:
        if top is not None and top < 1:
            raise ParameterError(f"top must be 1 or more, not {top}")
        order = np.argsort(-row, kind="stable")[:top]
        return [Prediction(self.labels[index], float(row[index])) for index in order]
