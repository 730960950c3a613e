"""From codes to a classifier: one ONNX file that turns codes into probabilities.

- `train`: `train_head`: split, fit, measure, write
- `data`: the images that train and test, and what is known of them
- `earlier`: an earlier head whose weights, choices and split are kept
- `recipe`: how a head is fitted, again and again, and measured
- `labels`: the classes of a codes file
- `weighting`: how much images count in training, and how probable their labels are
- `split`: the training and the test images, class by class
- `groups`: copies of a file and images of one group, which no split separates
- `rows`: codes of some images of a file, read in blocks
- `memory`: what a fit takes in memory, refused where there is less
- `views`: the rows of an image's views, which train, and their mean
- `stacked`: codes of different images by one network, from several files
- `joined`: codes of the same images by several networks, side by side
- `scaling`: centring and scaling of codes
- `normalize`: square root and length of codes, computed by the head
- `chosen`: which linear head, and which normalisation, by cross-validation
- `ridge`: least squares on the classes, by the Gram matrix too
- `calibration`: how far probabilities are from accuracies
- `temperature`: one number that makes probabilities as high as accuracies
- `estimators`: any scikit-learn classifier, converted to a graph
- `linear`: logits and softmax of linear heads
- `head_onnx`: the graph of a head
- `writing`: what its file says of its training
- `unknown`: how unlike the training images an image is, "none of these"

The folders `logistic` and `sgd` have the two linear heads, `multilabel` those of several labels
per image.
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
    if name not in _HOMES:  # scikit-learn is slow to import
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
