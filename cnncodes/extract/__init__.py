<<<<<<< HEAD
"""Images become codes; this part knows nothing of heads.

- `pipeline`: `extract`, the whole extraction, from a source to a codes file
- `workers`: threads that turn image files into codes
- `backbone`: the network in onnxruntime
- `store`: the codes file, written and read
- `journal`: what an extraction has written so far, and how it resumes
- `transformer`: the same for a scikit-learn Pipeline
=======
"""From images to codes.

- `pipeline`: `extract`, the whole extraction
- `workers`: threads that each take a batch from files to codes
- `backbone`: the network in an onnxruntime session
- `journal`: codes on disk until the extraction ends
- `store`: the codes file, HDF5
- `transformer`: `CodeExtractor` for scikit-learn

It imports nothing of `head`.
>>>>>>> wip-extract
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnncodes.extract.transformer import CodeExtractor

__all__ = ["CodeExtractor"]

_HOMES = {"CodeExtractor": "cnncodes.extract.transformer"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:  # scikit-learn is slow to import: only for who asks
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
