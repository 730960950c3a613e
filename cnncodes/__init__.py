"""From a folder of photographs to an image classifier on a laptop CPU.

Data moves one way, and so do imports::

    export    a Keras network      ->  backbone.onnx          once
    quantize  backbone.onnx        ->  backbone.int8.onnx     optional, several times as fast
    extract   images               ->  codes.h5               needs onnxruntime
    head      codes                ->  head.onnx              logistic regression or SGD softmax
    app       backbone and head    ->  app.onnx, predictions  needs onnxruntime
    evaluate  a model on new images, and learning curves
    datasets  published images ->  a folder for `extract`     optional
    overlap   images that two collections share
    inspect   what a file is, whether it is whole, how fast it runs

`images` finds and decodes image files, `models` opens our ONNX files. `cli` joins the commands of
`commands`, with the options of `cli_options`, the output of `printing`, the standard streams of
`streams` and the signals of `interrupts`; `demo` runs them all. Below everything else lie `errors`,
`text`, `parameters` and `bounds` (the ranges of what is passed and of what files hold), `files`,
`hdf5` and `output` (looking at paths, reading HDF5, replacing files), `download`, `progress`,
`concurrency` and `machine`.

The names below are imported when first used, so that a program which only classifies needs
nothing beyond numpy, onnxruntime and Pillow.
"""

import os

# As typing's, whose import would take longer than all else here, and so would __future__'s: until
# this package is imported its program cannot handle Ctrl-C.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cnncodes._version import __version__
    from cnncodes.app.classifier import Classifier
    from cnncodes.app.prediction import Prediction
    from cnncodes.errors import CnncodesError
    from cnncodes.extract.backbone import Backbone
    from cnncodes.extract.merge import merge_codes
    from cnncodes.extract.store import CodeStore

# onnxruntime's own builds send usage data to its maker, and mark the machine with an identifier on
# disk; set before it is loaded. Set the variable to 0 to opt in.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "Backbone",
    "Classifier",
    "CnncodesError",
    "CodeStore",
    "Prediction",
    "__version__",
    "merge_codes",
]

_HOMES = {
    "Backbone": "cnncodes.extract.backbone",
    "Classifier": "cnncodes.app.classifier",
    "CnncodesError": "cnncodes.errors",
    "CodeStore": "cnncodes.extract.store",
    "Prediction": "cnncodes.app.prediction",
    "__version__": "cnncodes._version",
    "merge_codes": "cnncodes.extract.merge",
}


def __getattr__(name: str) -> "Any":
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
