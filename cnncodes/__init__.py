"""From a folder of photographs to an image classifier on a laptop CPU.

Three steps, each a folder of this package, and data moves one way only::

    export   a Keras network      ->  backbone.onnx    once, needs TensorFlow
    extract  images               ->  codes.h5         needs onnxruntime
    head     codes                ->  head.onnx, and with the backbone: app.onnx

The names below are imported when first used, so that a program which only classifies needs
nothing beyond numpy, onnxruntime and Pillow.
"""

import os

# As typing's, whose import would take longer than all else here, and so would __future__'s: until
# this package is imported its program cannot handle Ctrl-C.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cnncodes.errors import CnncodesError
    from cnncodes.extract.backbone import Backbone
    from cnncodes.extract.store import CodeStore
    from cnncodes.head.classifier import Classifier, Prediction

# onnxruntime's own builds send usage data to its maker, and mark the machine with an identifier on
# disk; this must be said before it is loaded. Who wants it can set the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
__all__ = ["Backbone", "Classifier", "CnncodesError", "CodeStore", "Prediction", "__version__"]

_HOMES = {
    "Backbone": "cnncodes.extract.backbone",
    "Classifier": "cnncodes.head.classifier",
    "CnncodesError": "cnncodes.errors",
    "CodeStore": "cnncodes.extract.store",
    "Prediction": "cnncodes.head.classifier",
}


def __getattr__(name: str) -> "Any":
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
