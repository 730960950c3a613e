"""The logistic heads of a fine-tuning: the one it starts from, and the one fitted at its end.

While layers are trained, the softmax layer behind them moves along with them, and ends somewhere
near its best weights for the codes that they give in the end. So a logistic head is fitted again
on these, from all views of the training images. Its penalty is chosen on the images held out, not
by cross-validation: the layers were trained on the labels of every fold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnncodes.finetune.codes import Codes, Standardizing
from cnncodes.finetune.data import Data
from cnncodes.finetune.training import Activations, weighted_loss
from cnncodes.head.labels import few_images_allowed
from cnncodes.head.linear import LinearHead
from cnncodes.head.logistic.estimator import GramLogisticRegression
from cnncodes.head.logistic.solve import DEFAULT_CS
from cnncodes.head.normalize import normalized
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
        Of normalised codes.
    weights : ndarray of float32, shape (n_codes, n_classes)
        Weights of the logits, on scaled codes.
    bias : ndarray of float32, shape (n_classes,)
        Bias of the logits.
    normalize : str
        What is done to codes before they are scaled.
    """

    scaling: Scaling | Standardizing
    weights: Floats
    bias: Floats
    normalize: str

    @property
    def head(self) -> LinearHead:
        """The same on codes as they are."""
        weights = (self.weights.astype(np.float64) / self.scaling.scale).astype(np.float32)
        shift = self.scaling.mean.astype(np.float64) @ weights.astype(np.float64)
        return LinearHead(weights, (self.bias - shift).astype(np.float32), normalize=self.normalize)


@dataclass(frozen=True)
class Refit:
    """The head fitted again on the codes of the trained layers, beside the one trained with them.

    Attributes
    ----------
    is_kept : bool
        Whether the app has the head that was fitted again: its loss is the lower one.
    C : float
        Inverse strength of its penalty, as of ``cnncodes train``.
    trained_loss, refitted_loss : float
        Loss of either head on the images held out, of which neither was fitted.
    accuracy : float
        Accuracy of the one that is kept, on the same images.
    """

    is_kept: bool
    C: float
    trained_loss: float
    refitted_loss: float
    accuracy: float


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
        """Normalise and scale codes; return the scaling too."""
        X = np.array(normalized(X, self.codes.normalize), np.float32)
        scaling = self.codes.scaling(X)
        scaling.apply(X)
        return scaling, X


def fit_start(source: CodesOfImages, data: Data, *, class_weight: str | None, seed: int) -> Fitted:
    """Fit the head that training starts from, on all views of the training images."""
    scaling, X = source.scaled(source.compute(data.train))
    estimator = GramLogisticRegression(C="auto", class_weight=class_weight, random_state=seed)
    return _fit(estimator, scaling, X, data, data.train, source)


def fit_again(
    source: CodesOfImages, data: Data, trained: LinearHead, *, class_weight: str | None, seed: int
) -> tuple[LinearHead, Refit]:
    """Fit a head on the codes of the trained layers; return the better one of it and another.

    The losses are compared with both heads fitted to the training images alone. The head that is
    returned, if it is the new one, has learned from the images held out too.

    Parameters
    ----------
    source : CodesOfImages
        Of the trained layers.
    data : Data
        The images.
    trained : LinearHead
        The head that was trained along with the layers.
    class_weight : "balanced" or None
        As for `finetune`.
    seed : int
        As for `finetune`.

    Returns
    -------
    head : LinearHead
        The one with the lower loss on the images held out.
    refit : Refit
        How they compare.
    """
    X, held = source.compute(data.fitted), source.measured(data.validation)
    targets = data.targets()[data.validation]
    weights = data.weights(class_weight)[data.validation]

    def measure(head: LinearHead) -> tuple[float, float]:
        return weighted_loss(source.log_probabilities(head, held), targets, weights)

    is_train = np.repeat(np.isin(data.fitted, data.train), source.n_views)
    scaling, scaled = source.scaled(X[is_train])
    in_order = data.fitted[np.isin(data.fitted, data.train)]
    best, best_C = (np.inf, 0.0), DEFAULT_CS[0]
    for C in DEFAULT_CS:
        estimator = GramLogisticRegression(C=C, class_weight=class_weight, random_state=seed)
        measured = measure(_fit(estimator, scaling, scaled, data, in_order, source).head)
        if not measured[0] < best[0]:
            break  # weaker penalties are worse from here on
        best, best_C = measured, C
    before = measure(trained)
    is_kept = best[0] < before[0]
    refit = Refit(is_kept, best_C, before[0], best[0], (best if is_kept else before)[1])
    if not is_kept:
        return trained, refit
    scaling, scaled = source.scaled(X)
    estimator = GramLogisticRegression(C=best_C, class_weight=class_weight, random_state=seed)
    return _fit(estimator, scaling, scaled, data, data.fitted, source).head, refit


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
        estimator.fit(X, data.y[of_rows], groups=data.groups[of_rows])
    return Fitted(
        scaling,
        estimator.coef_.T.astype(np.float32),
        estimator.intercept_.astype(np.float32),
        source.codes.normalize,
    )
