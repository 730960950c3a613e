"""What an evaluation found: the model, the images, the figures and the mistakes; and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from cnncodes.evaluate.metrics import Figures
from cnncodes.models.metadata import BackboneInfo

FORMAT = "1"


@dataclass(frozen=True)
class EvaluatedModel:
    """The model that was evaluated, as its file says.

    Attributes
    ----------
    path : str
        Its file.
    kind : {"head", "app"}
        What it is.
    sha256 : str
        SHA-256 of its file.
    training : dict
        How it was trained.
    created_with : str
        The versions of what made the file.
    n_training_images : int
        Different images it was trained on.
    backbone : BackboneInfo
        The network whose codes it takes.
    backbone_sha256 : str
        SHA-256 of that network's file.
    """

    path: str
    kind: str
    sha256: str
    training: dict[str, Any]
    created_with: str
    n_training_images: int
    backbone: BackboneInfo
    backbone_sha256: str


@dataclass(frozen=True)
class EvaluatedData:
    """The images on which a model was evaluated.

    Attributes
    ----------
    path : str
        Codes file, folder or CSV file.
    source : str
        Where the images came from, as it was typed.
    include_training : bool
        Whether images that the model was trained on count too.
    images_sha256 : str
        SHA-256 of the sorted SHA-256 of the images that count: where it is the same, two
        evaluations were of the same images.
    """

    path: str
    source: str
    include_training: bool
    images_sha256: str


@dataclass(frozen=True)
class Mistake:
    """An image that was taken for another class.

    Attributes
    ----------
    path : str
        The image, relative to the source.
    digest : str
        SHA-256 of its file, hexadecimal.
    label, predicted : str
        The true class, and the predicted one.
    probability : float
        That of the predicted class.
    """

    path: str
    digest: str
    label: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class Evaluation:
    """How good a model is.

    Attributes
    ----------
    model : EvaluatedModel
        The model.
    data : EvaluatedData
        The images.
    figures : Figures
        The figures.
    mistakes : list of Mistake
        At most 24, those the model was surest of first.
    notes : list of str
        What the user should know of the data.
    """

    model: EvaluatedModel
    data: EvaluatedData
    figures: Figures
    mistakes: list[Mistake]
    notes: list[str]


def evaluation_to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return an evaluation as JSON types; a number that is not finite becomes null.

    Only the model's metadata can hold one: Python reads NaN there, other programs do not.
    """
    described = {"format": FORMAT, "kind": "evaluation", **asdict(evaluation)}
    plain: dict[str, Any] = json.loads(json.dumps(described), parse_constant=lambda _: None)
    return plain
