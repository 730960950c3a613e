"""The result of a fine-tuning."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cnncodes.evaluate.evaluation import Evaluation, evaluation_to_json
from cnncodes.evaluate.metrics import Metrics
from cnncodes.finetune.checkpoint import Epoch, best_of


@dataclass(frozen=True)
class Parity:
    """How often app and Keras give the same label.

    Attributes
    ----------
    n_images : int
        Test images.
    n_equal : int
        Those with the same label.
    """

    n_images: int
    n_equal: int

    @property
    def share(self) -> float:
        """Share of the images with the same label."""
        return self.n_equal / self.n_images


@dataclass(frozen=True)
class FineTuning:
    """A fine-tuned app.

    Attributes
    ----------
    path : Path
        The app.
    work : Path
        The folder of the activations, the checkpoint and the parts of the app.
    network : str
        The network.
    from_layer : str
        The last layer that is left as it was.
    n_train, n_validation : int
        Images that were trained on, and held out.
    epochs : list of Epoch
        From number 0 on, the linear classifier.
    before : Metrics
        Of the linear classifier that training started from, on the test images.
    after : Evaluation
        Of the app on the test images.
    parity : Parity
        The app's labels beside Keras's on the test images.
    int8_path : Path or None
        The int8 app, if asked for.
    int8 : Evaluation or None
        Of that app on the test images.
    seconds : dict of str to float
        Duration of each step of this run.
    notes : list of str
        Notes on the data and the training, for the user.
    """

    path: Path
    work: Path
    network: str
    from_layer: str
    n_train: int
    n_validation: int
    epochs: list[Epoch]
    before: Metrics
    after: Evaluation
    parity: Parity
    int8_path: Path | None
    int8: Evaluation | None
    seconds: dict[str, float]
    notes: list[str]

    @property
    def best_epoch(self) -> Epoch:
        """The epoch whose weights the app has."""
        return best_of(self.epochs)

    def as_dict(self) -> dict[str, Any]:
        """Return JSON types; metrics as in the JSON of ``cnncodes evaluate``."""
        return {
            "path": str(self.path),
            "work": str(self.work),
            "network": self.network,
            "from_layer": self.from_layer,
            "n_train": self.n_train,
            "n_validation": self.n_validation,
            "epochs": [asdict(each) for each in self.epochs],
            "best_epoch": self.best_epoch.number,
            "before": asdict(self.before),
            "after": evaluation_to_json(self.after),
            "parity": asdict(self.parity),
            "int8_path": None if self.int8_path is None else str(self.int8_path),
            "int8": None if self.int8 is None else evaluation_to_json(self.int8),
            "seconds": self.seconds,
            "notes": self.notes,
        }
