"""The classes of a codes file that a head is trained on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from cnncodes.bounds import fault_of_labels
from cnncodes.errors import TrainingError
from cnncodes.extract.store import CodeStore
from cnncodes.head.unknown import images_of_class
from cnncodes.images.path_lists import PathList
from cnncodes.text import counted


def labelled_classes(
    store: CodeStore, excluded: PathList | None = None, none: str | None = None
) -> tuple[NDArray[np.int32], NDArray[np.int32], list[str]]:
    """Return the classes that have images.

    Parameters
    ----------
    store : CodeStore
        An open codes file.
    excluded : PathList, optional
        Images to leave out.
    none : str, optional
        A class to leave out.

    Returns
    -------
    classes : ndarray of int32, shape (n_classes,)
        Indices of the store's `class_names`, increasing.
    y : ndarray of int32, shape (n_images,)
        For each image the index of its class in `classes`, −1 where it has no label.
    notes : list of str
        Reports images and classes that are left out.

    Raises
    ------
    TrainingError
        There are fewer than two classes, or their names cannot be stored in a head.
    ParameterError
        There is no class `none`.
    """
    if store.label_matrix is not None:
        raise TrainingError(
            f"{store.path}: its images have more than one label each, for which there is cnncodes "
            "train with a logistic head alone"
        )
    labels, notes = store.of_images(store.labels).copy(), []
    n_without = int((labels < 0).sum())
    if none is not None:
        labels[images_of_class(store, none)] = -1
    if excluded is not None:
        rows = excluded.among(store.of_images(store.paths))
        labels[rows] = -1
        notes.append(excluded.note(len(rows)))
    classes, y = np.unique(labels[labels >= 0], return_inverse=True)
    if len(classes) == 0:
        raise TrainingError(
            f"{store.path}: none of its images has a label; extract a folder of class folders or "
            f"a CSV file with the columns path and label{_on_images(store)}"
        )
    if len(classes) == 1:
        raise TrainingError(
            f"{store.path}: all its images are of one class, {store.class_names[classes[0]]}; "
            f"a classifier needs two or more{_on_images(store)}"
        )
    names = store.class_names
    if fault := fault_of_labels([names[number] for number in classes]):
        raise TrainingError(f"{store.path}: {fault}; rename the classes and extract it again")
    targets = np.full(len(labels), -1, np.int32)
    targets[labels >= 0] = y
    if n_without:
        are = "is" if n_without == 1 else "are"
        notes.append(f"{counted(n_without, 'image')} without a label {are} left out")
    if empty := len(names) - len(classes) - (none is not None):
        are = "is" if empty == 1 else "are"
        notes.append(f"{counted(empty, 'class', 'classes')} without a usable image {are} left out")
    return classes, targets, notes


def _on_images(store: CodeStore) -> str:
    """Return what an error adds: that the images are a part of a source, or of several files."""
    return "".join(f" ({note})" for note in store.notes)


@contextmanager
def few_images_allowed() -> Iterator[None]:
    """Silence scikit-learn, which takes classes of few images for continuous targets."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        yield
