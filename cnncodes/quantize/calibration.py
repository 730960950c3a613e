"""Calibration: observers record the values of tensors, and choose a range for each channel.

Beside minimum and maximum alone (method ``max``), onnxruntime's default, the histogram allows to
clip rare large values; `quantize` keeps the method whose codes are nearest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from cnncodes.export.graph import Graph

METHODS = ("max", "mse", "99.99")
_BATCH = 4
_POSITIONS = 64  # of a feature map, that enter the histogram; minimum and maximum see all
# A histogram's bins are the float16 numbers without their last four bits: 2,048 of them,
# 1.6 % apart at any scale, so that the range need not be known in advance. A channel whose
# largest value is no normal float16 number is not resolved: its limit is that value.
_HALF = np.finfo(np.float16)
_SHIFT = 4
_BINS = 2**15 >> _SHIFT


def _bin_values() -> NDArray[np.float64]:
    middles = (np.arange(_BINS, dtype=np.uint16) << _SHIFT) + (1 << (_SHIFT - 1))
    values = middles.astype(np.uint16).view(np.float16).astype(np.float64)
    values[0] = 0
    values[~np.isfinite(values)] = _HALF.max
    return values


_VALUES = _bin_values()


@dataclass
class Observer:
    """A histogram observer of one tensor of shape (n_images, n_channels, height, width).

    Attributes
    ----------
    high, low : ndarray of float32, shape (n_channels,)
        Maximum and minimum.
    mean : ndarray of float64, shape (n_channels,)
    shape : tuple of int
        Height and width.
    """

    high: NDArray[np.float32]
    low: NDArray[np.float32]
    mean: NDArray[np.float64]
    shape: tuple[int, ...]
    _counts: NDArray[np.int64] = field(repr=False)
    _n_images: int = 0

    @classmethod
    def empty(cls, n_channels: int, shape: tuple[int, ...]) -> Observer:
        """Return an observer of no images."""
        return cls(
            high=np.full(n_channels, -np.inf, np.float32),
            low=np.full(n_channels, np.inf, np.float32),
            mean=np.zeros(n_channels),
            shape=shape,
            _counts=np.zeros((n_channels, _BINS), np.int64),
        )

    def update(self, values: NDArray[np.float32], rng: np.random.Generator) -> None:
        """Record the values of more images."""
        flat = values.reshape(*values.shape[:2], -1)  # (n_images, n_channels, positions)
        n = len(flat)
        self.high = np.maximum(self.high, flat.max(axis=(0, 2)))
        self.low = np.minimum(self.low, flat.min(axis=(0, 2)))
        total = self._n_images + n
        self.mean += (flat.mean(axis=2, dtype=np.float64).sum(axis=0) - n * self.mean) / total
        self._n_images = total
        if flat.shape[2] > _POSITIONS:
            flat = flat[:, :, rng.choice(flat.shape[2], _POSITIONS, replace=False)]
        bits = np.minimum(np.abs(flat), _HALF.max).astype(np.float16).view(np.uint16) >> _SHIFT
        # One histogram of n_channels × _BINS bins, channel after channel.
        bins = bits + np.arange(len(self.mean), dtype=np.int64)[:, None] * _BINS
        counts = np.bincount(bins.ravel(), minlength=self._counts.size)
        self._counts += counts.reshape(self._counts.shape)

    @property
    def is_signed(self) -> bool:
        """Whether a value is below zero."""
        return bool((self.low < 0).any())

    def limit(self, method: str) -> NDArray[np.float64]:
        """Return the largest magnitude to represent, for each channel.

        Parameters
        ----------
        method : str
            ``max``: the largest. ``mse``: that for which rounding to 8 bits and clipping together
            have the smallest mean squared error. A number: that percentile of the magnitudes.

        Returns
        -------
        ndarray of float64, shape (n_channels,)
            Zero for a channel that is always zero.
        """
        largest = np.maximum(self.high, -self.low).astype(np.float64).clip(0)
        if method == "max":
            return largest
        if method == "mse":
            limit = self._least_squares()
        else:
            above = self._counts[:, ::-1].cumsum(axis=1)[:, ::-1]
            share = 1 - float(method) / 100
            reached = (above > share * self._counts.sum(axis=1, keepdims=True)).sum(axis=1)
            limit = _VALUES[np.maximum(reached - 1, 0)]
        resolved = (largest >= _HALF.smallest_normal) & (largest <= _HALF.max)
        return np.where(resolved & (limit > 0), np.minimum(limit, largest), largest)

    def _least_squares(self) -> NDArray[np.float64]:
        counts = self._counts.astype(np.float64)
        counts[:, 0] = 0  # a zero is represented exactly
        # Sums over all values above each bin, of their powers 0, 1 and 2.
        above = [
            np.pad((counts * _VALUES**power)[:, :0:-1].cumsum(axis=1)[:, ::-1], ((0, 0), (0, 1)))
            for power in range(3)
        ]
        clipping = above[2] - 2 * _VALUES * above[1] + _VALUES**2 * above[0]
        step = _VALUES * (2 if self.is_signed else 1) / 255
        rounding = step**2 / 12 * (counts.sum(axis=1, keepdims=True) - above[0])
        error = np.where(_VALUES > 0, clipping + rounding, np.inf)
        return np.where(counts.any(axis=1), _VALUES[error.argmin(axis=1)], 0)


def calibrate(
    graph: Graph,
    tensors: Sequence[str],
    images: NDArray[np.uint8],
    *,
    threads: int,
    advance: Callable[[int], None],
) -> dict[str, Observer]:
    """Run a network on images and observe some of its tensors.

    Parameters
    ----------
    graph : Graph
        The network.
    tensors : sequence of str
        Float tensors of shape (n_images, n_channels, height, width).
    images : ndarray of uint8, shape (n_images, size, size, 3)
        RGB.
    threads : int
        Threads of the session.
    advance : callable
        Called with the number of images of each batch.

    Returns
    -------
    dict of str to Observer
        The observer of each tensor.
    """
    session = run_graph(graph, threads=threads, outputs=tensors)
    rng = np.random.default_rng(0)
    observers: dict[str, Observer] = {}
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        for name, values in zip(tensors, session.run(None, {graph.input: batch}), strict=True):
            if name not in observers:
                observers[name] = Observer.empty(values.shape[1], values.shape[2:])
            observers[name].update(values, rng)
        advance(len(batch))
    return observers


def run_graph(
    graph: Graph, *, threads: int, outputs: Iterable[str] | None = None
) -> onnxruntime.InferenceSession:
    """Open a session on a graph; `outputs` as for `Graph.model`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        graph.model(outputs).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
