"""The state of a training on disk: what an interrupted one goes on from."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncodes.errors import FileFormatError
from cnncodes.files import exists
from cnncodes.output import replacing

Arrays = list[NDArray[Any]]
_PARTS = ("variables", "optimizer", "best")
_REMEDY = "delete it, and the training starts from the beginning"


@dataclass(frozen=True)
class Epoch:
    """The result of an epoch; number 0 is the linear classifier that training starts from.

    Attributes
    ----------
    number : int
        From 1 on.
    train_loss : float or None
        Mean loss of the batches while they were trained on; None of number 0.
    validation_loss, validation_accuracy : float or None
        On the images held out, as they are; None where there are none.
    seconds : float
        Duration.
    """

    number: int
    train_loss: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    seconds: float


@dataclass(frozen=True)
class Checkpoint:
    """A training after some epochs.

    Attributes
    ----------
    epochs : list of Epoch
        Those done, from number 0 on.
    variables, optimizer : iterable of ndarray
        The weights of the model and of its optimizer after the last of them; lists in what `load`
        returns.
    best : list of ndarray
        The weights after the best of them.
    """

    epochs: list[Epoch]
    variables: Iterable[NDArray[Any]]
    optimizer: Iterable[NDArray[Any]]
    best: Arrays

    @property
    def best_epoch(self) -> Epoch:
        """As `best_of`."""
        return best_of(self.epochs)

    def save(self, path: Path, request: str) -> None:
        """Write a file that `load` reads, in place of an earlier one.

        Raises
        ------
        OutputError
            The disk refuses it.
        """
        described = json.dumps(
            {"request": request, "epochs": [asdict(each) for each in self.epochs]}
        )
        with (
            replacing(path, overwrite=True) as temporary,
            zipfile.ZipFile(temporary, "w") as archive,  # as np.savez, which wants all at once
        ):
            _write(archive, "described", np.array(described))
            for part in _PARTS:
                for number, each in enumerate(getattr(self, part)):
                    _write(archive, f"{part}{number}", each)


def _write(archive: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def best_of(epochs: Sequence[Epoch]) -> Epoch:
    """Return the epoch of the lowest validation loss, the first of equal ones.

    Where no image is held out it is the last.
    """
    measured = [epoch for epoch in epochs if epoch.validation_loss is not None]
    return min(measured, key=lambda epoch: epoch.validation_loss or 0.0, default=epochs[-1])


def load(path: Path, request: str, shapes: Sequence[tuple[int, ...]]) -> Checkpoint | None:
    """Read the state of a training.

    Parameters
    ----------
    path : Path
        The file.
    request : str
        What determines the training.
    shapes : sequence of tuple of int
        Shapes of the model's variables.

    Returns
    -------
    Checkpoint or None
        None where there is none, or of another training.

    Raises
    ------
    FileFormatError
        It is damaged.
    """
    if not exists(path):
        return None
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            described = json.loads(str(file["described"]))
            if described["request"] != request:
                return None
            arrays = {
                part: [
                    file[f"{part}{number}"]
                    for number in range(sum(name.startswith(part) for name in file.files))
                ]
                for part in _PARTS
            }
            checkpoint = Checkpoint([Epoch(**each) for each in described["epochs"]], **arrays)
    except (OSError, KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise FileFormatError(f"{path}: is damaged; {_REMEDY}") from error
    for part in (arrays["variables"], checkpoint.best):
        if [each.shape for each in part] != list(shapes) or not checkpoint.epochs:
            raise FileFormatError(f"{path}: is damaged; {_REMEDY}")
    return checkpoint
