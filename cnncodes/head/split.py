"""Which images train the head and which test it.

Both splits take the same share of every class, so a rare class is tested too. ``first`` is
the split of the experiment this project grew from (yoavz/transfer-learning-keras): the first
images of each class, in the order of their names.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnncodes.errors import ParameterError

METHODS = ("stratified", "first")


@dataclass(frozen=True)
class Split:
    """A split of labelled images.

    Attributes
    ----------
    train, test : ndarray of intp
        Places in the labels, increasing and disjoint.
    """

    train: NDArray[np.intp]
    test: NDArray[np.intp]


def split_by_class(
    labels: NDArray[np.int32],
    train_fraction: float,
    *,
    method: str = "stratified",
    per_class: int | None = None,
    seed: int = 0,
) -> Split:
    """Split labelled images into a training and a test part, class by class.

    Parameters
    ----------
    labels : ndarray of int32, shape (n_images,)
        The classes; images with a negative label are in neither part.
    train_fraction : float
        Share of each class that trains, above 0 and below 1, rounded down but at least one
        image; a class of two or more images keeps at least one for the test.
    method : {"stratified", "first"}
        Whether each class is shuffled first, or taken in order.
    per_class : int, optional
        At most this many images of each class train. The test part does not depend on it, so
        that accuracies can be compared.
    seed : int
        Seed of the shuffling.

    Returns
    -------
    Split
        The two parts.

    Raises
    ------
    ParameterError
        The fraction, the method or `per_class` is out of range.
    """
    if not 0 < train_fraction < 1:
        raise ParameterError(
            f"the train fraction must be above 0 and below 1, not {train_fraction}"
        )
    if method not in METHODS:
        raise ParameterError(f"no split {method!r}; there are {' and '.join(METHODS)}")
    if per_class is not None and per_class < 1:
        raise ParameterError(f"the images per class must be 1 or more, not {per_class}")
    generator = np.random.default_rng(seed)
    train, test = [], []
    for label in np.unique(labels[labels >= 0]):
        members = np.flatnonzero(labels == label)
        if method == "stratified":
            members = generator.permutation(members)
        # The tolerance keeps 0.7 of 10 at 7, though 0.7 * 10 is a little less in binary.
        wanted = int(train_fraction * len(members) + 1e-9)
        n_train = max(1, min(wanted, len(members) - 1))
        train.append(members[:n_train][:per_class])
        test.append(members[n_train:])
    none = np.empty(0, np.intp)
    return Split(np.sort(np.concatenate([none, *train])), np.sort(np.concatenate([none, *test])))
