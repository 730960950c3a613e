"""The logistic head that a fine-tuning starts from, and the codes of the images it is measured on.

A head fitted again to the codes of the trained layers is no better: on solar cells it was right for
0.3 and 1.4 % fewer test images than the one trained along with the layers, and once for 0.9 % more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnncodes.finetune.codes import Codes, Standardizing
from cnncodes.finetune.data import Data
from cnncodes.finetune.training import Activations
from cnncodes.head.labels import few_images_allowed
from cnncodes.head.linear import LinearHead
from cnncodes.head.logistic.estimator import GramLogisticRegression
from cnncodes.head.scaling import Scaling
from cnncodes.head.views import average_views

Floats = NDArray[np.float32]
Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Fitted:
    """A logistic head on scaled codes.

    Attributes
    ----------
    scaling : Scaling or Standardizing
        Of codes.
    weights : ndarray of float32, shape (n_codes, n_classes)
        Weights of the logits, on scaled codes.
    bias : ndarray of float32, shape (n_classes,)
        Bias of the logits.
    """

    scaling: Scaling | Standardizing
    weights: Floats
    bias: Floats

    @property
    def head(self) -> LinearHead:
        """The same on codes as they are."""
        weights = (self.weights.astype(np.float64) / self.scaling.scale).astype(np.float32)
        shift = self.scaling.mean.astype(np.float64) @ weights.astype(np.float64)
        return LinearHead(weights, (self.bias - shift).astype(np.float32))


class CodesOfImages:
    """The codes that the layers above the cut give for images and their views.

    Parameters
    ----------
    features : callable
        Computes codes (n, n_codes) of activations.
    codes : Codes
        What they are.
    activations : Activations
        Of all images.
    batch_size : int
        Images at a time.
    tta : bool
        Whether an image is measured by the mean of the logits of its views.
    """

    def __init__(
        self,
        features: Callable[[Floats], Floats],
        codes: Codes,
        activations: Activations,
        batch_size: int,
        *,
        tta: bool,
    ) -> None:
        self._features = features
        self.codes = codes
        self._activations = activations
        self._size = batch_size
        self.n_views = activations.n_views
        self._n_measured = self.n_views if tta else 1

    def compute(self, images: Rows, n_views: int | None = None) -> Floats:
        """Compute the codes of the first views of images, by default of all: image by image."""
        n_views = n_views or self.n_views
        views = np.tile(np.arange(n_views), len(images))
        return self._activations.apply(
            self._features, np.repeat(images, n_views), self._size, views
        )

    def measured(self, images: Rows) -> Floats:
        """Compute the codes of the views by which images are measured."""
        return self.compute(images, self._n_measured)

    def log_probabilities(self, head: LinearHead, X: Floats) -> Floats:
        """Return log probabilities, one row for each image, of codes from `measured`."""
        return average_views(head.log_probabilities(X), self._n_measured)

    def scaled(self, X: Floats) -> tuple[Scaling | Standardizing, Floats]:
        """Scale codes, in place; return the scaling too."""
        scaling = self.codes.scaling(X)
        scaling.apply(X)
        return scaling, X


def fit_start(source: CodesOfImages, data: Data, *, class_weight: str | None, seed: int) -> Fitted:
    """Fit the head that training starts from, on all views of the training images."""
    scaling, X = source.scaled(source.compute(data.train))
    estimator = GramLogisticRegression(C="auto", class_weight=class_weight, random_state=seed)
    return _fit(estimator, scaling, X, data, data.train, source)


def _fit(
    estimator: GramLogisticRegression,
    scaling: Scaling | Standardizing,
    X: Floats,
    data: Data,
    images: Rows,
    source: CodesOfImages,
) -> Fitted:
    """Fit a logistic regression to the scaled codes of all views of some images."""
    of_rows = np.repeat(images, source.n_views)
    with few_images_allowed():
        estimator.fit(X, data.y[of_rows], groups=data.groups[of_rows], **data.fit_options(of_rows))
    return Fitted(
        scaling,
        estimator.coef_.T.astype(np.float32),
        estimator.intercept_.astype(np.float32),
    )
