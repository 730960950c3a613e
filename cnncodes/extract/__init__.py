"""Images become codes.

The heart is `pipeline.extract`; around it stand `backbone.Backbone` (the network),
`sources` (which images), `images` (decoding them) and `store.CodeStore` (the HDF5 file).
This part knows nothing of heads.
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
