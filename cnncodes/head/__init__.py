"""Codes become a classifier, and the classifier one file to ship.

The heart is `train.train_head`. `split` (with `groups`), `logistic` (with `gram` and `solve`),
`softmax` and `estimators` are what it is made of; `evaluate` measures it (with `selection` and
`metrics`), and `report` writes a page about it; `bundle` joins the head to its backbone;
`classifier.Classifier` is what a small program imports, and needs numpy, onnxruntime and Pillow
only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnncodes.head.logistic.estimator import GramLogisticRegression
    from cnncodes.head.sgd.softmax import SGDSoftmax

__all__ = ["GramLogisticRegression", "SGDSoftmax"]


_HOMES = {
    "GramLogisticRegression": "cnncodes.head.logistic.estimator",
    "SGDSoftmax": "cnncodes.head.sgd.softmax",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:  # scikit-learn is slow to import: only for who asks
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
