"""What in an image speaks for a class, exactly: the share of each cell in the logit.

The last convolution of a network describes an image as h × w cells of c channels. A linear head
adds weighted channels up, so the logit of a class is a sum over the cells and a bias:

- codes as they are have a weight for each cell and channel;
- codes pooled by average have a weight for each channel, and each cell has 1 / (h w) of it: class
  activation maps (Zhou et al., "Learning Deep Features for Discriminative Localization", 2016);
- of codes pooled by maximum, each channel counts where its maximum is, in equal parts where
  several cells have it.

A head that normalises codes multiplies each channel by a number that depends on the image alone:
cells share what the normalised channel adds to the logit in proportion to what they add to the
channel. The sum is the logit here too.

No gradient and no approximation is in it. What a cell describes is a wider part of the image than
the cell itself, since each convolution looks at its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnncodes.bounds import NORMALIZATIONS, SMALLEST_LENGTH
from cnncodes.errors import FileFormatError
from cnncodes.models.tensors import read_tensors

FEATURES = "features"  # the second output of an app whose head is linear
WEIGHTS, BIAS = "head/weights", "head/bias"  # its initializers
_HALVED = f"{WEIGHTS}/float16"  # by `variants.halve_weights`
_TOLERANCE = 1e-3  # of probabilities; those of another runtime or processor differ by less


@dataclass(frozen=True)
class Explanation:
    """The evidence in an image for a class.

    Attributes
    ----------
    label : str
        The class.
    probability : float
        Its probability.
    logit : float
        ``bias + contributions.sum()``; the probabilities are the softmax of the logits, or where
        an image may have several labels the sigmoid of each.
    bias : float
        The bias of the class.
    contributions : ndarray of float32, shape (h, w)
        What each cell of the image adds to the logit: above zero it speaks for the class, below
        against it. Cell (0, 0) is at the top left; each is an equal part of the image.
    """

    label: str
    probability: float
    logit: float
    bias: float
    contributions: NDArray[np.float32] = field(repr=False)


def read_weights(
    path: Path, n_classes: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Read the weights of an app's linear head, stored as float32 or float16.

    Parameters
    ----------
    path : Path
        The app.
    n_classes : int
        Number of its classes.

    Returns
    -------
    tuple of ndarray of float32, shapes (n_features, n_classes) and (n_classes,), or None
        Weights and bias; None where the file has none under the names of a linear head.
    """
    tensors = read_tensors(path, (WEIGHTS, _HALVED, BIAS))
    weights, bias = tensors.get(WEIGHTS, tensors.get(_HALVED)), tensors.get(BIAS)
    if weights is None or bias is None or weights.size % n_classes:
        return None
    return weights.reshape(-1, n_classes), bias


class LinearHead:
    """The linear head of an app.

    Parameters
    ----------
    path : Path
        The app.
    labels : tuple of str
        Its classes.
    pool : {"none", "avg", "max"}
        The pooling of the backbone.
    normalize : str
        What the head does to codes first, one of `NORMALIZATIONS`.
    sigmoid : bool
        Whether probabilities are the sigmoid of each logit, for several labels per image, and not
        the softmax of all.

    Raises
    ------
    FileFormatError
        The file has no weights under the names of a linear head.
    """

    def __init__(
        self,
        path: Path,
        labels: tuple[str, ...],
        pool: str,
        normalize: str = "none",
        *,
        sigmoid: bool = False,
    ) -> None:
        self._activation = _sigmoid if sigmoid else _softmax
        self._path, self._labels, self._pool = path, labels, pool
        self._normalize = normalize
        parameters = read_weights(path, len(labels))
        if parameters is None or normalize not in NORMALIZATIONS:
            raise self._foreign()
        self._weights, self._bias = parameters

    def explain(
        self,
        features: NDArray[np.float32],
        probabilities: NDArray[np.float32],
        label: str | None = None,
    ) -> Explanation:
        """Split the logit of a class over the cells of an image.

        Parameters
        ----------
        features : ndarray of float32, shape (h, w, c)
            What the app computes of the image before pooling.
        probabilities : ndarray of float32, shape (n_classes,)
            What it computes in the end.
        label : str, optional
            The class; by default the most probable.

        Returns
        -------
        Explanation

        Raises
        ------
        FileFormatError
            The weights do not give these probabilities: the file was changed or made elsewhere.
        """
        height, width, channels = features.shape
        cells = _shares(features.reshape(-1, channels), self._pool)
        if self._normalize != "none":
            cells = cells * _factors(
                cells if self._pool == "none" else cells.sum(axis=0), self._normalize
            )
        if self._weights.size == cells.size * len(self._labels):
            weights = self._weights.reshape(len(cells), channels, -1)
        elif len(self._weights) == channels:
            weights = self._weights[np.newaxis]
        else:
            raise self._foreign()
        # [cells, 1, c] · [cells or 1, c, K]
        contributions = np.matmul(cells[:, np.newaxis], weights)[:, 0]
        logits = contributions.sum(axis=0, dtype=np.float64) + self._bias
        if np.abs(self._activation(logits) - probabilities).max() > _TOLERANCE:
            raise self._foreign()
        index = int(probabilities.argmax()) if label is None else self._labels.index(label)
        return Explanation(
            self._labels[index],
            float(probabilities[index]),
            float(logits[index]),
            float(self._bias[index]),
            contributions[:, index].reshape(height, width),
        )

    def _foreign(self) -> FileFormatError:
        return FileFormatError(
            f"{self._path}: its weights do not give its answers, so these cannot be explained; "
            "bundle it again"
        )


def _shares(cells: NDArray[np.float32], pool: str) -> NDArray[np.float32]:
    """Return what each cell adds to the codes, shape (n_cells, c)."""
    if pool == "avg":
        return cells / np.float32(len(cells))
    if pool == "max":
        is_largest = cells == cells.max(axis=0)
        cells = np.where(is_largest, cells, 0) / is_largest.sum(axis=0, dtype=np.float32)
    return cells


def _factors(codes: NDArray[np.float32], normalize: str) -> NDArray[np.float32]:
    """Return what normalisation multiplies each number of an image's codes by."""
    normal = codes
    if "sqrt" in normalize:
        normal = np.sign(codes) * np.sqrt(np.abs(codes))
    if "length" in normalize:
        normal = normal / np.maximum(np.sqrt(np.square(normal).sum()), SMALLEST_LENGTH)
    return np.divide(normal, codes, out=np.zeros_like(codes), where=codes != 0)


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)))


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum())
