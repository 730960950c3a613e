"""Images and the rows of their views: all views train, and one or their mean is tested."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cnncodes.errors import ParameterError
from cnncodes.text import views_text

if TYPE_CHECKING:
    from cnncodes.extract.store import CodeStore


class ImageViews:
    """Which rows of a codes file train and test an image.

    Splits are made of images; without views, the row of an image is its index.

    Parameters
    ----------
    store : CodeStore
        An open codes file.
    tta : bool
        Whether an image is tested by the mean of the logits of its views (test-time
        augmentation), and not by itself alone.

    Attributes
    ----------
    n_averaged : int
        Number of rows, one after the other, by the mean of whose logits an image is tested.

    Raises
    ------
    ParameterError
        `tta` is asked for, and the images have one view.
    """

    def __init__(self, store: CodeStore, *, tta: bool = False) -> None:
        self.augment, self._n_views = store.augment, store.n_views
        if tta and self._n_views == 1:
            raise ParameterError(
                f"{store.path}: its images have no views to average; leave out tta=True, or "
                "extract them again: cnncodes extract --augment hflip makes views"
            )
        self.n_averaged = self._n_views if tta else 1

    def training_rows(self, images: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the rows of all views of some images."""
        return self._rows(images, self._n_views)

    def first_rows(self, images: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the rows of some images themselves, without their other views."""
        return self._rows(images, 1)

    def tested_rows(self, images: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the rows by which some images are tested."""
        return self._rows(images, self.n_averaged)

    def repeat(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return a value of each image for each of its `training_rows`."""
        return np.repeat(values, self._n_views, axis=0)

    def tested(self, span: slice) -> slice:
        """Return the images of a span of `tested_rows` that holds whole images."""
        return slice(span.start // self.n_averaged, span.stop // self.n_averaged)

    def average(self, logarithms: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logarithms of probabilities for each image, from those of its `tested_rows`."""
        return average_views(logarithms, self.n_averaged)

    @property
    def training_entries(self) -> dict[str, Any]:
        """Entries of `HeadInfo.training`, none without views."""
        if self._n_views == 1:
            return {}
        return {"augment": self.augment, "tta": self.n_averaged > 1}

    def notes(self, n_train: int) -> list[str]:
        """Report which views train and test."""
        if self._n_views == 1:
            return []
        train = f"{views_text(n_train, self._n_views)} ({self.augment}) train"
        if self.n_averaged > 1:
            return [f"{train}; the scores are of the mean over the views of each image"]
        return [f"{train}; the scores are of the images themselves"]

    def _rows(self, images: NDArray[np.intp], n_views: int) -> NDArray[np.intp]:
        first = np.asarray(images, np.intp) * self._n_views
        return (first[:, np.newaxis] + np.arange(n_views)).reshape(-1)


def mean_logits(logits: NDArray[Any], n_views: int) -> NDArray[Any]:
    """Return the mean of logits over the views of each image.

    Parameters
    ----------
    logits : ndarray, shape (n_images * n_views, n_classes)
        Logits, image by image.
    n_views : int
        Views of each image.

    Returns
    -------
    ndarray, shape (n_images, n_classes)
    """
    return np.asarray(logits.reshape(-1, n_views, logits.shape[1]).mean(axis=1))


def average_views(logarithms: NDArray[np.float32], n_views: int) -> NDArray[np.float32]:
    """Return the logarithm of the softmax of the mean of logits over the views of each image.

    Logits and logarithms of probabilities differ by a number for each view, which does not
    change the softmax.

    Parameters
    ----------
    logarithms : ndarray of float32, shape (n_images * n_views, n_classes)
        Logits, or logarithms of probabilities, image by image.
    n_views : int
        Views of each image; with one, `logarithms` are returned as they are.

    Returns
    -------
    ndarray of float32, shape (n_images, n_classes)
    """
    if n_views == 1:
        return logarithms
    from cnncodes.head.linear import log_softmax  # which imports onnx, for averages only

    return log_softmax(mean_logits(logarithms, n_views))


def average_sigmoids(probabilities: NDArray[np.float32], n_views: int) -> NDArray[np.float32]:
    """Return the sigmoid of the mean of the logits over views, as `average_probabilities`."""
    p = probabilities.astype(np.float64)
    least, most = float(np.finfo(np.float32).tiny), 1 - float(np.finfo(np.float32).epsneg) / 2
    logits = np.log(p.clip(least)) - np.log1p(-p.clip(max=most))
    averaged = mean_logits(logits, n_views)
    sigmoids: NDArray[np.float32] = (1 / (1 + np.exp(-averaged))).astype(np.float32)
    return sigmoids


def average_probabilities(
    probabilities: NDArray[np.float32], n_views: int, *, least: float
) -> NDArray[np.float32]:
    """Return the softmax of the mean of `average_views`; a smaller probability counts as `least`.

    Parameters
    ----------
    probabilities : ndarray of float32, shape (n_images * n_views, n_classes)
        Those of each view, image by image.
    n_views : int
        Views of each image; with one, `probabilities` are returned as they are.
    least : float
        The least probability whose logarithm is taken.

    Returns
    -------
    ndarray of float32, shape (n_images, n_classes)
    """
    if n_views == 1:
        return probabilities
    averaged: NDArray[np.float32] = np.exp(
        average_views(np.log(probabilities.clip(np.float32(least))), n_views)
    )
    return averaged
