"""Codes become a classifier, and the classifier one file to ship.

The heart is `train.train_head`. `split`, `logistic` and `softmax` are what it is made of;
`bundle` joins the head to its backbone; `classifier.Classifier` is what a small program
imports, and needs numpy, onnxruntime and Pillow only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnncodes.head.softmax import SGDSoftmax

__all__ = ["SGDSoftmax"]


def __getattr__(name: str) -> Any:
    if name == "SGDSoftmax":  # scikit-learn is slow to import: only for who asks
        from cnncodes.head.softmax import SGDSoftmax

        return SGDSoftmax
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
