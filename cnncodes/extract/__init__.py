"""From images to codes.

- `pipeline`: `extract`, the whole extraction
- `workers`: threads that each take a batch from files to codes
- `cluster`: the same on the workers of a Dask cluster
- `dispatch`: which images are where on a cluster
- `remote`: what such a worker does
- `earlier`: a codes file that is there already, to be updated or kept
- `backbone`: the network in an onnxruntime session
- `journal`: codes on disk until the extraction ends
- `writing`: what a codes file holds, and how it is written
- `store`: `CodeStore`, which reads one
- `source_part`: one of the parts of a source, extracted by itself
- `merge`: `merge_codes`, one codes file of several
- `merging`: which files go into one, and which of their images
- `chunks`: compressed rows, read many at a time
- `unusable`: what is reported of images that cannot be used
- `convert`: codes as files of numpy, pandas, R and Orange
- `transformer`: `CodeExtractor` for scikit-learn

It imports nothing of `head`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnncodes.extract.transformer import CodeExtractor

__all__ = ["CodeExtractor"]

_HOMES = {"CodeExtractor": "cnncodes.extract.transformer"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:  # scikit-learn is slow to import
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
