"""What a classifier says of an image."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cnncodes.app.explain import Explanation
from cnncodes.models.metadata import REFUSED_FROM


@dataclass(frozen=True)
class Prediction:
    """A class and its probability.

    Attributes
    ----------
    label : str
        Name of the class.
    probability : float
        Between 0 and 1; the probabilities of all classes add up to 1.
    unknown : float or None
        How unlike the training images the image is, from 0 to 1, whatever the class; None from an
        app whose head was trained without this score.
    """

    label: str
    probability: float
    unknown: float | None = field(default=None, repr=False)

    @property
    def is_known(self) -> bool:
        """Whether the image may be of the classes; without a score it is taken for such."""
        return self.unknown is None or self.unknown < REFUSED_FROM


@dataclass(frozen=True)
class LabelPrediction(Prediction):
    """A label of an image that may have several, and its probability.

    Attributes
    ----------
    label : str
        The label.
    probability : float
        Between 0 and 1; those of other labels do not depend on it.
    threshold : float
        Probability from which the image has the label, as it was chosen in training.
    """

    threshold: float = 0.5

    @property
    def is_present(self) -> bool:
        """Whether the image has the label."""
        return self.probability >= self.threshold


@dataclass(frozen=True)
class FilePrediction:
    """The result for one image file.

    Attributes
    ----------
    path : Path
        The file.
    predictions : list of Prediction
        The most probable classes in descending order; empty if the image cannot be used.
    problem : str
        Why the image cannot be used; empty if it can.
    explanation : Explanation, optional
        That of the most probable class, where it was asked for.
    """

    path: Path
    predictions: list[Prediction]
    problem: str
    explanation: Explanation | None = None

    @property
    def unknown(self) -> float | None:
        """How unlike the training images the image is, as in `Prediction`."""
        return self.predictions[0].unknown if self.predictions else None

    @property
    def labels(self) -> list[str]:
        """The most probable class; of an app of several labels all that the image has, maybe none.

        `predictions` must not be cut by ``top`` for that.
        """
        several = [each for each in self.predictions if isinstance(each, LabelPrediction)]
        if several:
            return [each.label for each in several if each.is_present]
        return [each.label for each in self.predictions[:1]]

    @property
    def is_known(self) -> bool:
        """Whether the image may be of the classes, as in `Prediction`."""
        return all(each.is_known for each in self.predictions)
