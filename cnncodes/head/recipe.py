"""How a head is fitted to some images of a codes file, so that it can be done several times.

`Recipe.fit` makes the head that is measured and the one that is written; `cross_validated`
measures heads that are each fitted without a fold.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncodes.errors import TrainingError
from cnncodes.extract.store import CodeStore
from cnncodes.head.chosen import GRAM, fit_linear, normalization_of
from cnncodes.head.estimators import EstimatorHead, fit_estimator, name_of
from cnncodes.head.joined import JoinedStore
from cnncodes.head.linear import LinearHead
from cnncodes.head.logistic.solve import stratified_folds
from cnncodes.head.logistic.start import Start
from cnncodes.head.rows import CodeRows
from cnncodes.head.sgd.fit import fit_sgd
from cnncodes.head.sgd.softmax import Epoch
from cnncodes.head.split import Split
from cnncodes.head.views import ImageViews
from cnncodes.head.weighting import Weighting
from cnncodes.progress import Progress

N_FOLDS = 5
N_COMPARED = 200  # images of either part on which an estimator is compared with its graph


@dataclass(frozen=True)
class Score:
    """Loss and accuracy of a head on some images.

    Attributes
    ----------
    n_images : int
        Number of images.
    loss : float or None
        Mean cross-entropy; None without images.
    accuracy : float or None
        Share of images whose most probable class is the true one; None without images.
    """

    n_images: int
    loss: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Fit:
    """A head fitted to some images.

    Attributes
    ----------
    head : LinearHead or EstimatorHead
        The head.
    estimator : str
        Its kind, which is one of two for ``"auto"``.
    fitted : dict
        Results of the fit; of a scikit-learn estimator its ``parameters``.
    notes : list of str
        Notes on the fit, for the user.
    """

    head: LinearHead | EstimatorHead
    estimator: str
    fitted: dict[str, Any]
    notes: list[str]


@dataclass(frozen=True)
class Recipe:
    """Codes, classes and parameters from which heads are fitted.

    Attributes
    ----------
    store : CodeStore
        An open codes file. Parts of a `JoinedStore` are scaled by each fit, for its images: what
        reads codes for a head does so before the next fit.
    views : ImageViews
        The rows of each image.
    y : ndarray of int32, shape (n_images,)
        The class of each image.
    groups : ndarray of intp, shape (n_images,)
        Images with equal numbers are on one side of each split.
    weighting : Weighting
        How much each image counts in training, and how probable its label is.
    estimator, seed, sgd, on_epoch, progress
        As for `train_head`.
    linear : dict
        The parameters ``normalize``, ``C`` and ``class_weight`` of `fit_linear`.
    start : Start, optional
        Where logistic regression and SGD start.
    """

    store: CodeStore
    views: ImageViews
    y: NDArray[np.int32]
    groups: NDArray[np.intp]
    weighting: Weighting
    estimator: Any
    linear: dict[str, Any]
    sgd: dict[str, Any] | None
    seed: int
    on_epoch: Callable[[Epoch], None] | None
    progress: Progress
    start: Start | None = None

    def fit(
        self, images: NDArray[np.intp], tested: NDArray[np.intp], like: Fit | None = None
    ) -> Fit:
        """Fit a head.

        Parameters
        ----------
        images : ndarray of intp
            The images that train, with all their views, but for those of weight 0.
        tested : ndarray of intp
            Other images, some of which a scikit-learn estimator and its graph are compared on.
        like : Fit, optional
            A fit on other images, whose choices of kind, normalisation, C and temperature are
            kept.

        Returns
        -------
        Fit
            The head.
        """
        images = self.weighting.trained(images)
        trained = self.views.training_rows(images)
        if isinstance(self.store, JoinedStore):
            self.store.scale(trained)
        rows = CodeRows(self.store, trained)
        y, groups = self.views.repeat(self.y[images]), self.views.repeat(self.groups[images])
        masses = self.weighting.masses(images)
        masses = None if masses is None else self.views.repeat(masses)
        head: LinearHead | EstimatorHead
        if self.estimator in GRAM:
            options = {"estimator": self.estimator, "start": self.start, **self.linear}
            if like is not None:
                options |= {"estimator": like.estimator, "C": like.fitted["C"]}
                options["normalize"] = normalization_of(like.fitted)
                options["temperature"] = like.fitted.get("temperature")
            head, kind, fitted = fit_linear(
                rows,
                y,
                groups=groups,
                masses=masses,
                n_averaged=self.views.n_averaged,
                seed=self.seed,
                progress=self.progress,
                **options,
            )
        elif self.estimator == "sgd":
            weights, bias, fitted = fit_sgd(
                rows,
                y,
                seed=self.seed,
                groups=groups,
                masses=masses,
                parameters=self.sgd,
                start=self.start,
                on_epoch=self.on_epoch,
                progress=self.progress,
            )
            head, kind = LinearHead(weights, bias, remedy="lower the learning rate"), "sgd"
        else:
            sample = CodeRows(self.store, self.views.tested_rows(_sample(Split(images, tested))))
            code_shape = self.store.codes.shape[1:]
            head = fit_estimator(
                self.estimator,
                rows,
                y,
                sample,
                code_shape,
                seed=self.seed,
                groups=groups,
                weights=None if masses is None else masses.sum(axis=1),
            )
            kind, fitted = name_of(self.estimator), {"parameters": head.parameters}
            fitted["notes"] = self.weighting.unused(kind, is_weighted=head.is_weighted)
        notes = fitted.pop("notes", [])
        return Fit(head, kind, fitted, notes)

    def score(self, images: NDArray[np.intp], head: LinearHead | EstimatorHead) -> Score:
        """Measure a head, the last that was fitted, on some images.

        Raises
        ------
        TrainingError
            A probability is not finite.
        """
        if len(images) == 0:
            return Score(0, None, None)
        y, views = self.y[images], self.views
        loss, correct = 0.0, 0
        for span, block in CodeRows(self.store, views.tested_rows(images)).blocks():
            logarithms, truth = views.average(head.log_probabilities(block)), y[views.tested(span)]
            loss -= float(logarithms[np.arange(len(truth)), truth].sum())
            correct += int((logarithms.argmax(axis=1) == truth).sum())
        if not math.isfinite(loss):
            raise TrainingError(
                "the head gives probabilities that are not finite; choose another one"
            )
        return Score(len(images), loss / len(images), correct / len(images))

    def cross_validated(self, images: NDArray[np.intp]) -> Score:
        """Measure heads that are each fitted without a fold of some images, on that fold.

        What is chosen, such as C, is chosen for each of them again. A fold is left out where the
        others do not have all classes, since the head of these would have fewer.
        """
        recipe, scores = replace(self, on_epoch=None), []
        y = self.y[images]
        for train, held_out in stratified_folds(y, N_FOLDS, self.seed, self.groups[images]):
            counting = self.weighting.counting(images[train])
            if len(np.unique(self.y[counting])) < len(np.unique(y)):
                continue
            fit = recipe.fit(images[train], images[held_out])
            scores.append(recipe.score(images[held_out], fit.head))
        n_images = sum(each.n_images for each in scores)
        if not n_images:
            return Score(0, None, None)
        loss = sum(each.n_images * (each.loss or 0.0) for each in scores) / n_images
        accuracy = sum(each.n_images * (each.accuracy or 0.0) for each in scores) / n_images
        return Score(n_images, loss, accuracy)


def _sample(parts: Split) -> NDArray[np.intp]:
    """Choose rows of both parts, evenly over the classes, by which rows are ordered."""
    some = [part[:: math.ceil(len(part) / N_COMPARED) or 1] for part in (parts.train, parts.test)]
    return np.sort(np.concatenate(some))
