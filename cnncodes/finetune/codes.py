"""What the head of a fine-tuned network sees: pooled codes of one layer, or of several.

Codes of several layers or pools differ in size, so each of them is divided by its own deviation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnncodes.export.architectures import Layer
from cnncodes.head.scaling import Scaling
from cnncodes.models.pooling import pooled_shape

Floats = NDArray[np.float32]
# Of the root mean square of the deviations in a block of codes: a smaller deviation counts as
# this, since a channel that is zero for nearly all training images may become alive.
SMALLEST_DEVIATION = 1e-3


@dataclass(frozen=True)
class Codes:
    """The codes of an image, as an exported network has them.

    Attributes
    ----------
    layers : tuple of str
        The layers, in the order of their codes.
    pool : {"avg", "max", "avg+max", "grid2"}
        How each is pooled.
    widths : tuple of int
        Number of codes of each layer and pool: layer by layer, and of each pool by pool.
    """

    layers: tuple[str, ...]
    pool: str
    widths: tuple[int, ...]

    @classmethod
    def of(cls, layers: Sequence[Layer], outputs: Sequence[str], pool: str) -> Codes:
        """Describe the codes of some layers of a network."""
        shapes = {layer.name: layer.shape for layer in layers}
        widths = [
            pooled_shape(shapes[name], each)[0] for name in outputs for each in pool.split("+")
        ]
        return cls(tuple(outputs), pool, tuple(widths))

    def scaling(self, X: Floats) -> Scaling | Standardizing:
        """Return centring and scaling of training codes (n_rows, n_codes)."""
        if len(self.widths) == 1:
            return Scaling.of([X])
        return Standardizing.of(X, self.widths)


@dataclass(frozen=True)
class Standardizing:
    """Centring and scaling of each code by itself; rows have a mean squared length of one.

    Attributes
    ----------
    mean : ndarray of float32, shape (n_codes,)
        Mean code.
    scale : ndarray of float32, shape (n_codes, 1)
        Divisors of centred codes.
    """

    mean: Floats
    scale: Floats

    @classmethod
    def of(cls, X: Floats, widths: Sequence[int]) -> Standardizing:
        """Measure codes (n_rows, n_codes), of which blocks of some widths are alike in size."""
        mean = X.mean(axis=0, dtype=np.float64)
        variances = np.square(X - mean.astype(np.float32)).mean(axis=0, dtype=np.float64)
        smallest = np.concatenate(
            [
                np.full(len(part), SMALLEST_DEVIATION * np.sqrt(part.mean()))
                for part in np.split(variances, np.cumsum(widths)[:-1])
            ]
        )
        deviations = np.maximum(np.sqrt(variances), smallest)
        deviations[deviations == 0] = 1.0
        scale = deviations * np.sqrt(len(deviations))
        return cls(mean.astype(np.float32), scale[:, np.newaxis].astype(np.float32))

    def apply(self, X: Floats) -> None:
        """Centre and scale codes in place."""
        for row in X:
            row -= self.mean
            row /= self.scale[:, 0]
