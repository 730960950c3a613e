"""The labels of a codes file whose images may have several, and how its images are split.

A split is stratified by the rarest label of each image: an image of *dent* and *rust* is in the
stratum of whichever fewer images have, so that the rare labels are in both parts. Images with none
of the labels are a stratum too. An image of which no label is known is in neither part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnncodes.bounds import fault_of_labels
from cnncodes.errors import TrainingError
from cnncodes.extract.store import CodeStore
from cnncodes.head.groups import notes_on_copies, notes_on_groups
from cnncodes.images.path_lists import PathList
from cnncodes.text import counted, listed, shown


@dataclass(frozen=True)
class Labels:
    """Which images have which labels.

    Attributes
    ----------
    names : list of str
        The labels.
    targets, known : ndarray of bool, shape (n_images, n_labels)
        Which images have each label, and of which that is known.
    """

    names: list[str]
    targets: NDArray[np.bool_]
    known: NDArray[np.bool_]

    @classmethod
    def of(cls, store: CodeStore) -> Labels:
        """Return those of a codes file whose images may have several."""
        assert store.label_matrix is not None
        matrix = store.of_images(store.label_matrix)
        return cls(store.class_names, matrix == 1, matrix <= 1)

    def only(self, columns: NDArray[np.intp]) -> Labels:
        """Return some of the labels."""
        names = [self.names[column] for column in columns]
        return Labels(names, self.targets[:, columns], self.known[:, columns])

    def strata(self) -> NDArray[np.int32]:
        """Return for each image its rarest label, one more for none, −1 where none is known."""
        counts = self.targets.sum(axis=0)
        n_others = np.where(self.targets, counts, np.iinfo(np.int64).max)
        strata = np.where(self.targets.any(axis=1), n_others.argmin(axis=1), len(self.names))
        strata[~self.known.any(axis=1)] = -1
        return strata.astype(np.int32)

    def trainable(self, images: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Return which labels some of the images have, and others have not."""
        targets, known = self.targets[images], self.known[images]
        return np.asarray(targets.any(axis=0) & (known & ~targets).any(axis=0))


def split_strata(
    store: CodeStore, labels: Labels, excluded: PathList | None
) -> tuple[NDArray[np.int32], list[str]]:
    """Return the stratum of each image, −1 for one that is left out, and notes on these.

    Raises
    ------
    TrainingError
        No label is known of any image, or their names cannot be stored in a head.
    """
    strata, notes = labels.strata(), []
    if fault := fault_of_labels(labels.names):
        raise TrainingError(f"{store.path}: {fault}; rename the labels and extract it again")
    if n_without := int((strata < 0).sum()):
        are = "is" if n_without == 1 else "are"
        notes.append(f"{counted(n_without, 'image')} of which no label is known {are} left out")
    if excluded is not None:
        rows = excluded.among(store.of_images(store.paths))
        strata[rows] = -1
        notes.append(excluded.note(len(rows)))
    used = strata >= 0
    if not used.any():
        raise TrainingError(f"{store.path}: no label is known of any image that is used")
    n_labels, n_unknown = labels.targets[used].sum(), (~labels.known[used]).sum()
    notes.append(
        f"more than one label per image: {counted(len(labels.names), 'label')}, "
        f"{n_labels / used.sum():.1f} per image"
    )
    if n_unknown:
        notes.append(
            f"{n_unknown / labels.known[used].size:.1%} of the labels are unknown, and left out of "
            "the loss of these labels alone"
        )
    paths, digests, texts, groups = (
        [values[row] for row in np.flatnonzero(used)] if values else []
        for values in (
            store.of_images(store.paths),
            store.of_images(store.digests),
            store.label_texts,
            store.of_images(store.groups),
        )
    )
    copies = notes_on_copies(paths, digests, texts, "copies stay on one side of the split")
    return strata, notes + copies + notes_on_groups(groups)


def note_on_left_out(labels: Labels, images: NDArray[np.intp]) -> list[str]:
    """Report labels that cannot be trained, since all training images have them, or none."""
    lost = np.flatnonzero(~labels.trainable(images))
    if not len(lost):
        return []
    names = listed([shown(labels.names[column]) for column in lost])
    are = "is" if len(lost) == 1 else "are"
    return [
        f"{counted(len(lost), 'label')} {are} left out, which all training images have or none "
        f"has: {names}"
    ]
