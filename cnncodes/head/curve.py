"""The learning curve: test accuracy against the number of training images a class."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnncodes.errors import FileFormatError

FORMAT = "1"


@dataclass(frozen=True)
class CurvePoint:
    """Heads trained on at most so many images a class.

    Attributes
    ----------
    per_class : int
        Training images a class, at most.
    n_train : int
        Training images in all.
    C : float
        Inverse strength of the penalty.
    accuracies : tuple of float
        Test accuracy for each seed.
    """

    per_class: int
    n_train: int
    C: float
    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean test accuracy."""
        return float(np.mean(self.accuracies))

    @property
    def deviation(self) -> float:
        """Standard deviation of the test accuracy over the seeds, 0 for one seed."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else 0.0


@dataclass(frozen=True)
class Curve:
    """The learning curve of one codes file.

    Attributes
    ----------
    codes : str
        The codes file.
    backbone, weights : str
        The network, and whose weights it has.
    n_classes : int
        Classes.
    n_test : int
        Images of the test part, which is the same for all points.
    points : tuple of CurvePoint
        In the order of their number of images.
    notes : tuple of str
        What the user should know of the data.
    """

    codes: str
    backbone: str
    weights: str
    n_classes: int
    n_test: int
    points: tuple[CurvePoint, ...]
    notes: tuple[str, ...]


def curves_to_json(curves: Sequence[Curve]) -> dict[str, Any]:
    """Return curves as JSON types, with the mean and the spread of each point."""
    return {
        "format": FORMAT,
        "kind": "curve",
        "curves": [
            {
                **asdict(curve),
                "points": [
                    {**asdict(point), "mean": point.mean, "deviation": point.deviation}
                    for point in curve.points
                ],
            }
            for curve in curves
        ],
    }


def read_curves(path: Path) -> list[Curve]:
    """Read the curves that ``cnncodes curve`` wrote.

    Raises
    ------
    FileFormatError
        The file is absent, or is none of these.
    """
    raise FileFormatError(f"{path}: not yet")
