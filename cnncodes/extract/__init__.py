"""Images become codes.

The heart is `pipeline.extract`; around it stand `backbone.Backbone` (the network),
`sources` (which images), `images` (decoding them) and `store.CodeStore` (the HDF5 file).
This part knows nothing of heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnncodes.extract.transformer import CodeExtractor

__all__ = ["CodeExtractor"]


def __getattr__(name: str) -> Any:
    if name == "CodeExtractor":  # scikit-learn is slow to import: only for who asks
        from cnncodes.extract.transformer import CodeExtractor

        return CodeExtractor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
