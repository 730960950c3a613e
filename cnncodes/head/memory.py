"""What a fit takes in memory, compared with what there is before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cnncodes.errors import TrainingError
from cnncodes.head.chosen import GRAM
from cnncodes.head.estimators import NAMED, name_of
from cnncodes.head.logistic.gram import BLOCK_BYTES
from cnncodes.machine import available_memory

_ITEMSIZE = 4  # of float32


def needed_memory(estimator: Any, n_rows: int, n_features: int) -> int:
    """Return about how many bytes a fit has in memory at once, little where it reads in parts.

    Parameters
    ----------
    estimator : str or estimator
        As for `train_head`.
    n_rows : int
        Rows that train, those of all views.
    n_features : int
        Numbers per row.

    Returns
    -------
    int
        Of logistic and ridge heads the Gram matrix twice, as it is factored into another matrix
        and folds are copies of rows, and a block of codes with what is streamed past it; or with
        as many rows as numbers per row the codes twice, and the products of the numbers. Of
        others the codes, of ``svm`` and ``knn`` twice, since they are centred.
    """
    codes = _ITEMSIZE * n_rows * n_features
    if isinstance(estimator, str) and estimator in GRAM:
        if n_rows < n_features:
            return 2 * _ITEMSIZE * n_rows**2 + min(codes, BLOCK_BYTES) * 4 // 3
        return 2 * codes + (2 * _ITEMSIZE * n_features**2 if estimator != "logistic" else 0)
    if estimator == "sgd":
        return 0
    return 2 * codes if estimator in NAMED else codes


def check_memory(path: Path, estimator: Any, n_rows: int, n_features: int) -> None:
    """Refuse a fit that takes more memory than there is, before it starts.

    Parameters
    ----------
    path : Path
        The codes, named in the error.
    estimator, n_rows, n_features
        As for `needed_memory`.

    Raises
    ------
    TrainingError
        It takes more; the error names two ways on.
    """
    needed, available = needed_memory(estimator, n_rows, n_features), available_memory()
    if available is None or needed <= available:
        return
    raise TrainingError(
        f"{path}: {name_of(estimator)} takes about {needed / 1e9:,.1f} GB of memory for "
        f"{n_rows:,} rows of {n_features:,} numbers, and {available / 1e9:,.1f} GB are free; pass "
        "estimator='sgd', which reads the codes a part at a time, or extract codes of fewer "
        "numbers, with a network of: cnncodes export --pool avg"
    )
