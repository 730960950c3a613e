"""Codes become a linear classifier, or any other of scikit-learn.

- `train`: `train_head`, the steps of a training
- `split`: the images that train and those that test
- `groups`: images that stay on one side of a split, and notes about them
- `rows`: the codes of some images, a block at a time
- `scaling`: centring and scaling, folded into the weights
- `linear`: what both kinds of linear head share
- `estimators`: any scikit-learn classifier as a head
- `head_onnx`: a head as an ONNX graph

`logistic` and `sgd` are folders of their own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnncodes.head.logistic.gram import GramLogisticRegression
    from cnncodes.head.sgd.softmax import SGDSoftmax

__all__ = ["GramLogisticRegression", "SGDSoftmax"]


_HOMES = {
    "GramLogisticRegression": "cnncodes.head.logistic.gram",
    "SGDSoftmax": "cnncodes.head.sgd.softmax",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:  # scikit-learn is slow to import: only for who asks
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
