"""How much the images of a codes file count in training, and how probable their labels are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnncodes.errors import TrainingError
from cnncodes.extract.store import CodeStore
from cnncodes.head.logistic.newton import masses_of
from cnncodes.text import counted, listed

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Weighting:
    """Weights and probabilities of the labels of images.

    Attributes
    ----------
    labels : list of str
        The classes.
    y : ndarray of int32, shape (n_images,)
        The class of each image, −1 where it is left out.
    weights, probabilities : ndarray of float64, shape (n_images,), or None
        How much each image counts in training, and how probable its label is; None where all are
        1.
    """

    labels: list[str]
    y: NDArray[np.int32]
    weights: Float64 | None = None
    probabilities: Float64 | None = None

    @classmethod
    def of(cls, store: CodeStore, y: NDArray[np.int32], labels: list[str]) -> Weighting:
        """Read those of a codes file; `y` and `labels` are of its images."""

        def other_than_1(values: Float64) -> Float64 | None:
            return values if len(values) and (values[y >= 0] != 1).any() else None

        return cls(
            labels,
            y,
            other_than_1(store.of_images(store.weights)),
            other_than_1(store.of_images(store.probabilities)),
        )

    def trained(self, images: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return those of some images that count in training, the ones with a weight above 0.

        Raises
        ------
        TrainingError
            A class has images, but none that counts.
        """
        counting = self.counting(images)
        if lost := sorted({*self.y[images].tolist()} - {*self.y[counting].tolist()}):
            names = listed([self.labels[number] for number in lost])
            raise TrainingError(
                f"all training images of {names} have the weight 0; leave the class out, or give "
                "one of its images a weight above 0"
            )
        return counting

    def counting(self, images: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return `trained`, perhaps without a class."""
        return images if self.weights is None else images[self.weights[images] > 0]

    def masses(self, images: NDArray[np.intp]) -> Float64 | None:
        """Return `masses_of` some images, None where each counts 1 for its own class."""
        if self.weights is None and self.probabilities is None:
            return None
        weights, probabilities = (
            None if values is None else values[images]
            for values in (self.weights, self.probabilities)
        )
        return masses_of(self.y[images], len(self.labels), weights, probabilities)

    def notes(self, images: NDArray[np.intp], *, are_soft: bool = True) -> list[str]:
        """Report what is used of training images; they may have a weight of 0.

        Parameters
        ----------
        images : ndarray of intp
            The images.
        are_soft : bool
            Whether the estimator makes use of probabilities.
        """
        notes, n = [], len(images)
        if self.weights is not None:
            weights = self.weights[images]
            n_other, n_zero = int((weights != 1).sum()), int((weights == 0).sum())
            note = f"images are weighted: {n_other:,} of {n:,} training images do not count 1"
            if n_zero:
                do = "does" if n_zero == 1 else "do"
                note += f", and {counted(n_zero, 'image')} of weight 0 {do} not train"
            notes.append(note)
        if self.probabilities is not None and are_soft:
            sure = self.probabilities[images]
            rest = "the rest is of the other class"
            if len(self.labels) > 2:
                rest = "the rest is spread evenly over the other classes"
            notes.append(
                f"labels are soft: {int((sure < 1).sum()):,} of {n:,} training images have a "
                f"probability below 1, and {rest}"
            )
            if n_less := int((sure < 1 / len(self.labels)).sum()):
                has = "image has" if n_less == 1 else "images have"
                notes.append(
                    f"{n_less:,} training {has} a label that is less probable than others; when "
                    "they are tested, that label counts"
                )
        if notes:
            notes.append("weights and probabilities are used in training only, never in testing")
        return notes

    def unused(self, estimator: str, *, is_weighted: bool) -> list[str]:
        """Report what a scikit-learn estimator makes no use of.

        Parameters
        ----------
        estimator : str
            Its name.
        is_weighted : bool
            Whether it was fitted with the weights.
        """
        names = [] if self.weights is None or is_weighted else ["the weights of images"]
        names += [] if self.probabilities is None else ["the probabilities of labels"]
        if not names:
            return []
        return [f"{estimator} does not use {' and '.join(names)}; logistic, ridge and sgd do"]
