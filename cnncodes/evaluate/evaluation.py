"""The result of an evaluation: model, images, metrics and mistakes; and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from cnncodes.evaluate.metrics import Metrics
from cnncodes.models.metadata import BackboneInfo

FORMAT = "1"


@dataclass(frozen=True)
class EvaluatedModel:
    """The model that was evaluated, from the metadata of its file.

    Attributes
    ----------
    path : str
        Its file.
    kind : {"head", "app"}
        The kind of file.
    sha256 : str
        SHA-256 of its file.
    training : dict
        How it was trained.
    created_with : str
        Versions of the packages that made the file.
    n_training_images : int
        Training images, copies counted once.
    backbone : BackboneInfo
        The network that computes its codes.
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
        Folder or CSV file of the images, as it was typed.
    include_training : bool
        Whether training images of the model are included.
    images_sha256 : str
        SHA-256 of the sorted SHA-256 of the images: equal for evaluations on the same images.
    """

    path: str
    source: str
    include_training: bool
    images_sha256: str


@dataclass(frozen=True)
class Mistake:
    """An image whose predicted class is wrong.

    Attributes
    ----------
    path : str
        The image, relative to the source.
    digest : str
        SHA-256 of its file, hexadecimal.
    label, predicted : str
        The true and the predicted class.
    probability : float
        Probability of the predicted class.
    """

    path: str
    digest: str
    label: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    Attributes
    ----------
    model : EvaluatedModel
        The model.
    data : EvaluatedData
        The images.
    metrics : Metrics
        The metrics; ``figures`` in JSON.
    mistakes : list of Mistake
        At most 24, in decreasing order of probability.
    notes : list of str
        Remarks on the data.
    """

    model: EvaluatedModel
    data: EvaluatedData
    metrics: Metrics
    mistakes: list[Mistake]
    notes: list[str]


def evaluation_to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return an evaluation as JSON types; a number that is not finite becomes null.

    Only the model's metadata can hold one: Python reads NaN there, other programs do not.
    """
    fields = asdict(evaluation)
    # The key is part of the format, which `docs/file-formats.md` describes.
    renamed = {"figures" if key == "metrics" else key: value for key, value in fields.items()}
    described = {"format": FORMAT, "kind": "evaluation", **renamed}
    plain: dict[str, Any] = json.loads(json.dumps(described), parse_constant=lambda _: None)
    return plain
