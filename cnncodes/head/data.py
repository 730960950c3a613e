"""The images of a codes file that train and test a head, and what is known of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnncodes.extract.store import CodeStore
from cnncodes.head.earlier import EarlierHead
from cnncodes.head.groups import groups_of, notes_on_labelled, notes_on_split
from cnncodes.head.labels import labelled_classes
from cnncodes.head.split import Split, split_by_class, whole_split
from cnncodes.head.views import ImageViews
from cnncodes.head.weighting import Weighting
from cnncodes.images.class_maps import ClassMap
from cnncodes.images.path_lists import PathList


@dataclass(frozen=True)
class TrainingData:
    """Images of known class, split into those that train and those that test.

    Attributes
    ----------
    views : ImageViews
        The rows of each image.
    names : list of str
        The classes that have images.
    y : ndarray of int32, shape (n_images,)
        The class of each image, an index of `names`; negative where it is left out.
    groups : ndarray of intp, shape (n_images,)
        Images with equal numbers are on one side of the split.
    weighting : Weighting
        How much each image counts in training, and how probable its label is.
    parts : Split
        The training and test images.
    class_map : ClassMap or None
        New names of classes, those of an earlier head included.
    notes : list of str
        Notes on all of these, for the user.
    """

    views: ImageViews
    names: list[str]
    y: NDArray[np.int32]
    groups: NDArray[np.intp]
    weighting: Weighting
    parts: Split
    class_map: ClassMap | None
    notes: list[str]

    @classmethod
    def of(
        cls,
        store: CodeStore,
        *,
        tta: bool,
        train_fraction: float,
        split: str,
        per_class: int | None,
        seed: int,
        excluded: PathList | None = None,
        together: PathList | None = None,
        none: str | None = None,
        class_map: ClassMap | None = None,
        grown: EarlierHead | None = None,
    ) -> TrainingData:
        """Split the images of a codes file.

        Parameters
        ----------
        store : CodeStore
            An open codes file.
        tta, train_fraction, split, per_class, seed, none
            As for `train_head`.
        excluded, together : PathList, optional
            As `exclude` and `keep_together` of `train_head`.
        class_map : ClassMap, optional
            New names of classes.
        grown : EarlierHead, optional
            The head that training goes on from, whose training images train again.

        Raises
        ------
        ParameterError
            The split, or `tta`, is not possible.
        SourceError, TrainingError
            There are too few images or classes.
        """
        views = ImageViews(store, tta=tta)
        if grown is not None:
            grown.check(store)
            class_map = grown.class_map(class_map, store.class_names)
        renames = [] if class_map is None else class_map.apply(store)
        numbers, y, notes = labelled_classes(store, excluded, none)
        names = [store.class_names[number] for number in numbers]
        notes += [*renames, *store.notes]
        groups = groups_of(store, together)
        if together is not None:
            notes.append(together.note_on_pairs(store.of_images(store.paths)))
        if train_fraction == 1:
            parts = whole_split(y, per_class, method=split, seed=seed)
            notes += notes_on_labelled(store, y, names)
        elif grown is not None:
            parts = grown.split(store, y, train_fraction, method=split, seed=seed, groups=groups)
            notes += grown.notes(store, y, parts, names)
        else:
            parts = split_by_class(
                y, train_fraction, method=split, per_class=per_class, seed=seed, groups=groups
            )
            notes += notes_on_split(store, numbers, y, parts, train_fraction, per_class)
        notes += views.notes(len(parts.train))
        weighting = Weighting.of(store, y, names)
        return cls(views, names, y, groups, weighting, parts, class_map, notes)
