"""What a small program imports: one file in, labels with probabilities out.

Needs numpy, onnxruntime and Pillow, nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Sized
from contextlib import closing
from functools import cached_property, partial
from itertools import chain, islice, tee
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncodes.app.explain import FEATURES, Explanation, LinearHead
from cnncodes.app.image_source import ImageSource, pixels_of
from cnncodes.app.prediction import FilePrediction, LabelPrediction, Prediction
from cnncodes.errors import CnncodesError, FileFormatError, ParameterError
from cnncodes.extract.workers import default_batch_size, n_fitting_workers, run_batches
from cnncodes.images.limits import DEFAULT_MAX_PIXELS, check_pixels
from cnncodes.machine import available_threads
from cnncodes.models.metadata import UNKNOWN, HeadInfo
from cnncodes.models.session import (
    DEFAULT_PROVIDER,
    fixed_batch,
    open_session,
    run_session,
    warn_of_saturation,
)
from cnncodes.parameters import COUNT, MAX_PIXELS, THREADS, as_path, as_paths
from cnncodes.text import class_nouns, counted, listed, shown

# From this number of images on, a session of one thread that all workers share is worth the time
# to open it: 0.1 to 0.5 s, and 6 (MobileNetV2) to 27 ms (InceptionV3) of processor time less
# per image.
MANY = 16


class Classifier:
    """An image classifier in one file.

    Several threads may use it at the same time. A copy, or a pickle for another process, holds
    the path and not the network: the file is opened again.

    Parameters
    ----------
    path : str or Path
        A file made by ``cnncodes bundle``.
    threads : int, optional
        Threads that compute; by default one per available CPU.
    provider : str
        Execution provider of onnxruntime, such as ``cpu`` or ``openvino``.
    n_images : int
        Number of images that will be classified, where it is known. From `MANY` on the session
        has one thread, and `predict_files` calls it from `threads` workers; with fewer all
        threads work on one image. Only the speed depends on it.

    Attributes
    ----------
    path : Path
    info : HeadInfo
        The metadata of the file.
    labels : tuple of str
        Class names, in the order of the probabilities.
    input_size : int
        Height and width of the network's input, in pixels.

    Raises
    ------
    FileFormatError
        The file is not an app.
    ParameterError
        The provider is missing or cannot start, or a parameter is of another type or range.

    Examples
    --------
    >>> Classifier("app.onnx").predict("cat.jpg", top=1)  # doctest: +SKIP
    [Prediction(label='cat', probability=0.97)]
    """

    def __init__(
        self,
        path: str | Path,
        *,
        threads: int | None = None,
        provider: str = DEFAULT_PROVIDER,
        n_images: int = 1,
    ) -> None:
        self.path = as_path(path, "path")
        self._threads = THREADS.check_or_none(threads, "threads") or available_threads()
        is_many = COUNT.check(n_images, "n_images") >= MANY
        self._session_threads = 1 if is_many else self._threads
        self._session, self._metadata = open_session(
            self.path, "app", threads=self._session_threads, provider=provider
        )
        self.info = HeadInfo.from_metadata(self._metadata, self.path)
        for network in self.info.networks:
            warn_of_saturation(self.path, network)
        self.labels = self.info.labels
        self.input_size = self.info.backbone.input_size
        inputs, outputs = (
            [(each.name, each.type, each.shape[1:]) for each in ends]
            for ends in (self._session.get_inputs(), self._session.get_outputs())
        )
        self._has_features = FEATURES in [name for name, *_ in outputs]
        self.has_unknown = (UNKNOWN, "tensor(float)", []) in outputs
        if inputs != [
            ("images", "tensor(uint8)", [self.input_size, self.input_size, 3])
        ] or outputs[0] != ("probabilities", "tensor(float)", [len(self.labels)]):
            raise FileFormatError(
                f"{self.path}: its input or output is not that of an app; bundle it again"
            )

        # For copies, which may be opened with other CPUs or in another working folder.
        options = {"threads": threads, "provider": provider, "n_images": n_images}
        self._opened_as: tuple[Path, dict[str, Any]] = self.path.absolute(), options

    def __reduce__(self) -> tuple[Any, ...]:
        path, options = self._opened_as
        return partial(type(self), **options), (path,)

    @cached_property
    def _for_many(self) -> Classifier:
        """The same classifier with a session of one thread, opened when it is first needed."""
        if self._session_threads == 1:
            return self
        path, options = self._opened_as
        try:
            session, metadata = open_session(path, "app", threads=1, provider=options["provider"])
        except CnncodesError:  # deleted since, say; the open session still has all of it
            return self
        if metadata != self._metadata:  # another app by now: its checksum differs
            return self
        other = object.__new__(type(self))
        vars(other).update(vars(self), _session=session, _session_threads=1)
        return other

    def __repr__(self) -> str:
        nouns = class_nouns(several=self.info.has_several_labels)
        classes = counted(len(self.labels), *nouns)
        network = " + ".join(f"{each.backbone} {each.precision}" for each in self.info.networks)
        return (
            f"<Classifier {str(self.path)!r}: {classes} ({shown(listed(self.labels))}), {network}>"
        )

    def predict(
        self,
        image: ImageSource,
        top: int | None = None,
        *,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> list[Prediction]:
        """Classify one image.

        Parameters
        ----------
        image : path, bytes, binary file, ndarray of uint8 or PIL.Image.Image
            An image file, by its path; its content, as bytes or in a buffer; a file opened with
            mode ``"rb"`` or the like, read from its current position; pixels of shape
            (height, width, 3) in RGB, (height, width, 4) in RGBA, or (height, width) in grey; or
            an image of Pillow. A frame of OpenCV is BGR:
            ``cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)`` makes it RGB.
        top : int, optional
            Number of classes to return, by default all.
        max_pixels : int
            An image with more pixels is refused.

        Returns
        -------
        list of Prediction
            The most probable first.

        Raises
        ------
        ImageError
            The image cannot be used.
        ParameterError
            `image` is of none of these kinds, or `top` or `max_pixels` is out of range.
        """
        top = COUNT.check_or_none(top, "top")
        max_pixels = MAX_PIXELS.check(max_pixels, "max_pixels")
        pixels = pixels_of(image, self.input_size, max_pixels, self.info.white)
        ((probabilities, unknown),) = self.predict_each(pixels[np.newaxis])
        return self.ranked(probabilities, top, unknown)

    def predict_files(
        self,
        paths: Iterable[str | os.PathLike[str]],
        top: int | None = None,
        *,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        explain: bool = False,
    ) -> Generator[FilePrediction, None, None]:
        """Classify many files, in order; one that cannot be used does not stop the rest.

        They are read, decoded and classified by as many workers as the classifier has threads,
        as in `extract`. The first call with `MANY` files or more opens a second session, of one
        thread, unless `n_images` has announced them.

        Parameters
        ----------
        paths : iterable of str or Path
            Image files. From an iterator, `MANY` or a few batches per worker are taken in advance.
        top : int, optional
            Number of classes to return for each, by default all.
        max_pixels : int
            A file with more pixels cannot be used.
        explain : bool
            Whether to explain the most probable class of each, as `Classifier.explain`.

        Returns
        -------
        generator of FilePrediction
            One for each path. Close it if you stop before its end, which ends its threads.

        Raises
        ------
        ParameterError
            `paths` is a single path or not iterable, one of them is no path, or `top` or
            `max_pixels` is out of range.
        FileFormatError
            With `explain`: the head is not linear, or the app was made by an earlier release.
        """
        top = COUNT.check_or_none(top, "top")
        max_pixels = MAX_PIXELS.check(max_pixels, "max_pixels")
        n_files = len(paths) if isinstance(paths, Sized) else 0
        if explain:
            _ = self._head  # raises here if there is none
        return self._predict_batches(as_paths(paths, "paths"), n_files, top, max_pixels, explain)

    def _predict_batches(
        self, paths: Iterator[Path], n_files: int, top: int | None, max_pixels: int, explain: bool
    ) -> Generator[FilePrediction, None, None]:
        first = list(islice(paths, MANY))
        precision = self.info.backbone.precision
        n_files = max(n_files, len(first))
        batch_size = fixed_batch(self._session) or default_batch_size(
            precision, n_files, min(self._threads, n_files) or 1
        )
        n_fitting = n_fitting_workers(self.input_size, batch_size * self.info.n_views)
        n_workers = max(1, min(self._threads, len(first), n_fitting))
        # Where memory is short, a second session would take more of it.
        is_worthwhile = len(first) == MANY and n_workers == self._threads
        classifier = self._for_many if is_worthwhile else self
        to_load, paths = tee(chain(first, paths))
        batches = run_batches(
            to_load,
            self.input_size,
            partial(classifier._answers, explain=explain),
            n_workers=n_workers,
            batch_size=batch_size,
            max_pixels=max_pixels,
            white=self.info.white,
        )
        with closing(batches):  # its threads end with it, also when the caller stops early
            for images, answers in batches:
                rows = iter(answers or ())
                for image in images:
                    path = next(paths)
                    if image.pixels is None:
                        yield FilePrediction(path, [], image.problem)
                        continue
                    probabilities, unknown, explanation = next(rows)
                    ranked = self.ranked(probabilities, top, unknown)
                    yield FilePrediction(path, ranked, "", explanation)

    def predict_proba(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute the probabilities of a batch of pixels.

        Parameters
        ----------
        images : ndarray of uint8, shape (n_images, input_size, input_size, 3)
            RGB.

        Returns
        -------
        ndarray of float32, shape (n_images, n_classes)
            Each row adds up to 1, unless an image may have several labels; columns in the order
            of `labels`.

        Raises
        ------
        ParameterError
            The images have another dtype or shape.
        """
        probabilities: NDArray[np.float32]
        (probabilities,) = self._run(images, "probabilities")
        return probabilities

    def predict_each(
        self, images: NDArray[np.uint8]
    ) -> list[tuple[NDArray[np.float32], float | None]]:
        """Compute for each image of a batch its probabilities and how unlike the training it is.

        Parameters
        ----------
        images : ndarray of uint8, shape (n_images, input_size, input_size, 3)
            RGB.

        Returns
        -------
        list of (ndarray of float32 of shape (n_classes,), float or None)
            The score as in `Prediction`, None where the app has none.

        Raises
        ------
        ParameterError
            The images have another dtype or shape.
        """
        return [(row, unknown) for row, unknown, _ in self._answers(images, explain=False)]

    def explain(
        self,
        image: ImageSource,
        label: str | None = None,
        *,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> Explanation:
        """Split the logit of a class over the cells of an image, exactly.

        Parameters
        ----------
        image : path, bytes, binary file, ndarray of uint8 or PIL.Image.Image
            As for `predict`.
        label : str, optional
            The class; by default the most probable.
        max_pixels : int
            An image with more pixels is refused.

        Returns
        -------
        Explanation
            Its `contributions` and `bias` add up to the logit.

        Raises
        ------
        ImageError
            The image cannot be used.
        ParameterError
            There is no such class, or as for `predict`.
        FileFormatError
            The head is not linear, or the app was made by an earlier release.
        """
        if label is not None and label not in self.labels:
            raise ParameterError(
                f"label must be one of the classes ({shown(listed(self.labels))}), not {label!r}"
            )
        max_pixels = MAX_PIXELS.check(max_pixels, "max_pixels")
        pixels = pixels_of(image, self.input_size, max_pixels, self.info.white)
        ((_, _, explanation),) = self._answers(pixels[np.newaxis], label, explain=True)
        assert explanation is not None
        return explanation

    def _answers(
        self, images: NDArray[np.uint8], label: str | None = None, *, explain: bool
    ) -> list[tuple[NDArray[np.float32], float | None, Explanation | None]]:
        """Return probabilities, score and, if asked for, explanation of each image of a batch."""
        head = self._head if explain else None
        names = ["probabilities", *[UNKNOWN] * self.has_unknown, *[FEATURES] * explain]
        outputs = dict(zip(names, self._run(images, *names), strict=True))
        rows = outputs["probabilities"]
        scores = outputs[UNKNOWN].tolist() if self.has_unknown else [None] * len(rows)
        explanations = (
            [None] * len(rows)
            if head is None
            else [
                head.explain(features, row, label)
                for row, features in zip(rows, outputs[FEATURES], strict=True)
            ]
        )
        return list(zip(rows, scores, explanations, strict=True))

    @cached_property
    def _head(self) -> LinearHead:
        """The weights of the head, read when they are first needed."""
        if "tta" in self.info.card:
            raise FileFormatError(
                f"{self.path}: averages mirrored views of an image, whose answers are not "
                "explained; cnncodes bundle without --tta makes one whose are"
            )
        if not self._has_features:
            network = self.info.backbone
            are_several = self.info.parts or "," in network.layer
            if are_several or network.pool not in ("none", "avg", "max"):
                raise FileFormatError(
                    f"{self.path}: cannot explain its answers, since its codes are of several "
                    "networks, layers or pools; use a backbone of one layer with pool none, avg "
                    "or max"
                )
            estimator = shown(str(self.info.training.get("estimator")))
            raise FileFormatError(
                f"{self.path}: holds nothing to explain its answers by, as only apps with a head "
                "of logistic, ridge or sgd do that this release has bundled "
                f"(this head: {estimator})"
            )
        pool, normalize = self.info.backbone.pool, self.info.normalize
        several = self.info.has_several_labels
        return LinearHead(self._opened_as[0], self.labels, pool, normalize, sigmoid=several)

    def _run(self, images: NDArray[np.uint8], *outputs: str) -> list[NDArray[np.float32]]:
        check_pixels(images, self.input_size)
        return run_session(self._session, self.path, outputs, "images", images)

    def ranked(
        self, row: NDArray[np.float32], top: int | None = None, unknown: float | None = None
    ) -> list[Prediction]:
        """Name the classes of one image's probabilities.

        Parameters
        ----------
        row : ndarray of float32, shape (n_classes,)
            A row of `predict_proba`.
        top : int, optional
            Number of classes to return, by default all.
        unknown : float, optional
            The image's score, as in `Prediction`.

        Returns
        -------
        list of Prediction
            The most probable first; `LabelPrediction` where an image may have several labels.
        """
        order = np.argsort(-row, kind="stable")[:top]
        if self.info.has_several_labels:
            thresholds = self.info.thresholds
            return [
                # A threshold is compared in the precision of the probabilities.
                LabelPrediction(
                    self.labels[index],
                    float(row[index]),
                    unknown,
                    float(np.float32(thresholds[index])),
                )
                for index in order
            ]
        return [Prediction(self.labels[index], float(row[index]), unknown) for index in order]
