"""The extraction as a scikit-learn transformer, for use in a Pipeline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from cnncodes.errors import ImageError
from cnncodes.extract.workers import Workers
from cnncodes.parameters import as_paths


class CodeExtractor(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Turn image paths into flattened CNN codes.

    Parameters
    ----------
    backbone : str or Path
        A backbone file.
    batch_size : int, optional
        Images per run of the network; by default chosen by its precision.
    threads : int, optional
        Threads that compute; by default one per available CPU.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> model = make_pipeline(CodeExtractor("vgg16.onnx"), LogisticRegression())
    """

    def __init__(
        self,
        backbone: str | Path,
        *,
        batch_size: int | None = None,
        threads: int | None = None,
    ) -> None:
        self.backbone = backbone
        self.batch_size = batch_size
        self.threads = threads

    def fit(self, X: Sequence[str | Path], y: Any = None) -> CodeExtractor:
        """Do nothing: the network is trained already."""
        return self

    def transform(self, X: Sequence[str | Path]) -> NDArray[np.float32]:
        """Compute codes.

        Parameters
        ----------
        X : iterable of str or Path
            Image files.

        Returns
        -------
        ndarray of float32, shape (n_images, n_features)
            Their codes, flattened.

        Raises
        ------
        ImageError
            An image cannot be used.
        FileFormatError
            The backbone file is not one.
        ParameterError
            `X` is a single path or holds what is none, or a parameter is out of range.
        """
        paths = list(as_paths(X, "X"))
        workers = Workers.open(
            self.backbone, len(paths), threads=self.threads, batch_size=self.batch_size
        )
        parts = [np.empty((0, math.prod(workers.network.code_shape)), np.float32)]
        batches = workers.run(paths, lambda codes: codes.reshape(len(codes), -1))
        with closing(batches):
            for images, codes in batches:
                for image in images:
                    if image.pixels is None:
                        raise ImageError(f"{paths[image.index]}: {image.problem}")
                if codes is not None:
                    parts.append(codes)
        return np.concatenate(parts)

    def __sklearn_is_fitted__(self) -> bool:
        return True
