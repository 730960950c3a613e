"""What a fit takes in memory, compared with what there is before it starts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cnncodes.errors import TrainingError
from cnncodes.head.chosen import GRAM
from cnncodes.head.estimators import NAMED
from cnncodes.head.logistic.gram import BLOCK_BYTES
from cnncodes.head.multilabel.fit import dtype_of_points
from cnncodes.machine import available_memory

BY_SGD = "pass estimator='sgd', which reads the codes a part at a time"
OF_FEWER = "train on fewer images by per_class"
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
            return 2 * _ITEMSIZE * n_rows**2 + _block(n_rows, n_features)
        return 2 * codes + (2 * _ITEMSIZE * n_features**2 if estimator != "logistic" else 0)
    if estimator == "sgd":
        return 0
    return 2 * codes if estimator in NAMED else codes


def needed_by_labels(n_rows: int, n_features: int) -> int:
    """As `needed_memory`, of a head of several labels per image, whose folds are no copies.

    Points of few images are in float64, beside codes and points in float32.
    """
    itemsize = dtype_of_points(n_rows, n_features).itemsize
    if n_rows < n_features:
        return 2 * itemsize * n_rows**2 + _block(n_rows, n_features)
    return (itemsize if itemsize == _ITEMSIZE else 2 * itemsize) * n_rows * n_features


def needed_by_curve(
    n_rows: int, n_tested: int, draws: Iterable[tuple[int, int]], n_features: int
) -> int:
    """As `needed_memory`, of all heads of a learning curve.

    Parameters
    ----------
    n_rows : int
        Rows that train any head.
    n_tested : int
        Rows that are tested on.
    draws : iterable of (int, int)
        Rows that train a head, and how many such heads are fitted at a time.
    n_features : int
        Numbers per row.

    Returns
    -------
    int
        That of the largest heads, of which each has its part of the Gram matrix of all twice.
    """
    if n_rows >= n_features:
        return max(n * needed_memory("logistic", rows, n_features) for rows, n in draws)
    heads = max(n * 2 * _ITEMSIZE * rows**2 for rows, n in draws)
    return heads + _ITEMSIZE * (n_rows + n_tested) * n_rows + _block(n_rows, n_features)


def _block(n_rows: int, n_features: int) -> int:
    """Return the bytes of a block of codes, with what is streamed past it."""
    return min(_ITEMSIZE * n_rows * n_features, BLOCK_BYTES) * 4 // 3


def check_memory(
    path: Path, name: str, needed: int, n_rows: int, n_features: int, *, remedy: str
) -> None:
    """Refuse a fit that takes more memory than there is, before it starts.

    Parameters
    ----------
    path : Path
        The codes, named in the error.
    name : str
        What is fitted.
    needed : int
        Bytes that it takes.
    n_rows, n_features : int
        Rows of codes that it takes them for, and numbers per row.
    remedy : str
        A way on, besides codes of fewer numbers.

    Raises
    ------
    TrainingError
        It takes more; the error names both ways on.
    """
    available = available_memory()
    if available is None or needed <= available:
        return
    raise TrainingError(
        f"{path}: {name} takes about {needed / 1e9:,.1f} GB of memory for {n_rows:,} rows of "
        f"{n_features:,} numbers, and {available / 1e9:,.1f} GB are free; {remedy}, or extract "
        "codes of fewer numbers, with a network of: cnncodes export --pool avg"
    )
