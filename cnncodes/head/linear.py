"""Linear heads: logits = codes · weights + bias, and a softmax."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from cnncodes.errors import TrainingError
from cnncodes.head.normalize import normalized
from cnncodes.text import counted

if TYPE_CHECKING:
    import onnx

    from cnncodes.models.metadata import HeadInfo

REMEDY = "remove images whose codes are unlike all others, or use another layer of the network"
Float = TypeVar("Float", np.float32, np.float64)


class LogitsError(TrainingError):
    """The logits of a head overflow."""


def check_logits(logits: NDArray[Any], remedy: str = REMEDY) -> None:
    """Refuse the logits of a head that are not finite, or so far apart that softmax overflows.

    Parameters
    ----------
    logits : ndarray, shape (n_images, n_classes)
        Logits of a head; may be infinite or NaN.
    remedy : str
        Advice, the end of the error's message.

    Raises
    ------
    LogitsError
        They overflow.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        spread = logits.max(axis=-1) - logits.min(axis=-1)
    n_overflowing = int((~np.isfinite(spread)).sum())
    if n_overflowing:
        raise LogitsError(
            f"the head's logits overflow for {counted(n_overflowing, 'image')}; {remedy}"
        )


def log_softmax(logits: NDArray[Float]) -> NDArray[Float]:
    """Return the logarithm of softmax over the last axis, without overflow."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    logarithms: NDArray[Float] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return logarithms


@dataclass(frozen=True)
class LinearHead:
    """A matrix and a bias on flattened codes, and a softmax.

    Attributes
    ----------
    weights : ndarray of float32, shape (n_features, n_classes)
        Weights of the logits.
    bias : ndarray of float32, shape (n_classes,)
        Bias of the logits.
    remedy : str
        Advice of the error where logits overflow.
    normalize : str
        What is done to codes before, one of `NORMALIZATIONS`.
    """

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    remedy: str = REMEDY
    normalize: str = "none"

    def log_probabilities(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return log probabilities, (n_images, n_classes), of codes (n_images, n_features)."""
        return log_softmax(self.logits(X))

    def logits(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits, (n_images, n_classes), checked by `check_logits`."""
        with np.errstate(over="ignore", invalid="ignore"):
            logits: NDArray[np.float32] = normalized(X, self.normalize) @ self.weights + self.bias
        check_logits(logits, self.remedy)
        return logits

    def to_onnx(self, code_shape: Sequence[int], info: HeadInfo) -> onnx.ModelProto:
        """Build the graph, as `build_head`."""
        from cnncodes.head.head_onnx import build_head

        return build_head(self.weights, self.bias, code_shape, info, self.normalize)


class LinearSoftmax(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Base of the scikit-learn classifiers whose fit is a matrix and a bias.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
        The classes.
    coef_ : ndarray, shape (n_classes, n_features)
        Weights of the logits; a row for each class, also where there are two.
    intercept_ : ndarray, shape (n_classes,)
        Bias of the logits.
    n_features_in_ : int
        Features seen in training.
    """

    classes_: NDArray[Any]
    coef_: NDArray[Any]
    intercept_: NDArray[Any]

    def decision_function(self, X: ArrayLike) -> NDArray[Any]:
        """Return the logits; with two classes, as scikit-learn does, those of the second.

        Parameters
        ----------
        X : array-like, shape (n_samples, n_features)
            Codes.

        Returns
        -------
        ndarray, shape (n_samples, n_classes), or (n_samples,) with two classes
            The logits, or for two classes their difference.
        """
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
        """Return probabilities, of shape (n_samples, n_classes), for codes `X`."""
        probabilities: NDArray[Any] = np.exp(log_softmax(self._logits(X)))
        return probabilities

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the most probable classes, shape (n_samples,), for codes `X`."""
        logits = self._logits(X)
        likeliest: NDArray[Any] = self.classes_[logits.argmax(axis=1)]
        return likeliest

    def _logits(self, X: ArrayLike) -> NDArray[Any]:
        check_is_fitted(self, "coef_")
        features = validate_data(self, X, dtype=self.coef_.dtype, reset=False)
        logits: NDArray[Any] = features @ self.coef_.T + self.intercept_
        return logits
