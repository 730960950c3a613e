"""The images that an evaluation uses, and notes on those it leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnncodes.errors import SourceError
from cnncodes.evaluate.multilabel import align_labels
from cnncodes.head.groups import notes_on_copies
from cnncodes.images.class_maps import ClassMap, recorded_names
from cnncodes.images.multilabel import UNKNOWN_VALUE
from cnncodes.images.path_lists import PathList
from cnncodes.models.description import training_rows
from cnncodes.models.metadata import HeadInfo, image_key
from cnncodes.text import counted, listed


class Selection:
    """The images that are evaluated, chosen in steps.

    Parameters
    ----------
    data : Path
        The file or folder of the images; named in errors.
    info : HeadInfo
        The metadata of the model.
    include_training : bool
        Whether training images of the model are included.
    excluded : PathList, optional
        Images that the user leaves out.
    class_map : ClassMap, optional
        New names of the classes of the images, before those that the head's training gave them.
    """

    def __init__(
        self,
        data: Path,
        info: HeadInfo,
        *,
        include_training: bool,
        excluded: PathList | None = None,
        class_map: ClassMap | None = None,
    ) -> None:
        self.data = data
        self.include_training = include_training
        self._info = info
        self._excluded = excluded
        self._class_map = class_map
        self._notes: list[str] = []
        self._n_training = 0
        self._n_related = 0

    def known(
        self, labels: NDArray[np.int32], names: Sequence[str], paths: Sequence[str]
    ) -> NDArray[np.intp]:
        """Return the index of each image's class among the model's, −1 where it has none.

        Parameters
        ----------
        labels : ndarray of int32, shape (n_images,)
            Indices into `names`, −1 for an image without a label.
        names : sequence of str
            The classes of the images.
        paths : sequence of str
            Their paths.

        Returns
        -------
        ndarray of intp, shape (n_images,)
            Indices into the model's labels, −1 for an image that is excluded.

        Raises
        ------
        SourceError
            No image has a label, or none has one that the model knows.
        """
        if not (labels >= 0).any():
            raise SourceError(
                f"{self.data}: none of its images has a label; use a folder of class folders or "
                "a CSV file with the columns path and label"
            )
        if self._class_map is not None:
            names, labels, notes = self._class_map.renamed(names, labels)
            self._notes += notes
        names, own_names = recorded_names(self._info, names), names
        renamed = [
            f"{own} to {new}" for own, new in zip(own_names, names, strict=True) if own != new
        ]
        if renamed:
            self._notes.append(f"classes renamed as in the model's training: {listed(renamed)}")
        indices = {name: index for index, name in enumerate(self._info.labels)}
        columns = np.array([indices.get(name, -1) for name in names] + [-1])  # label -1 is the last
        y: NDArray[np.intp] = columns[labels]
        unlabelled = labels < 0
        if unlabelled.any():
            self._leave_out(int(unlabelled.sum()), "without a label")
        foreign = (y < 0) & ~unlabelled
        # Classes of one new name, as the model's training gave them, are one.
        foreign_names = dict.fromkeys(names[number] for number in np.unique(labels[foreign]))
        unknown = listed(list(foreign_names))
        if not (y >= 0).any():
            raise SourceError(
                f"{self.data}: its classes ({unknown}) are not those of the model "
                f"({listed(self._info.labels)}); use images of these"
            )
        if foreign.any():
            why = f"of classes that the model does not know: {unknown}"
            self._leave_out(int(foreign.sum()), why)
        if self._excluded is not None:
            rows = self._excluded.among(paths)
            y[rows] = -1
            self._notes.append(self._excluded.note(len(rows)))
        return y

    def known_labels(
        self, matrix: NDArray[np.uint8] | None, names: Sequence[str], paths: Sequence[str]
    ) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
        """Return which images are used, and which labels of the model they have.

        Parameters
        ----------
        matrix : ndarray of uint8, shape (n_images, n_names), or None
            As for `align_labels`.
        names : sequence of str
            The labels of the images.
        paths : sequence of str
            Their paths.

        Returns
        -------
        ndarray of intp, shape (n_images,)
            0 for an image that is used, −1 for one that is excluded or has no known label.
        ndarray of uint8, shape (n_images, n_labels)
            1, 0, or 255 where it is unknown.

        Raises
        ------
        SourceError
            As for `align_labels`, or no label of any image is known.
        """
        truth, notes = align_labels(self.data, self._info, matrix, names)
        self._notes += notes
        used = np.where((truth != UNKNOWN_VALUE).any(axis=1), 0, -1).astype(np.intp)
        if n_without := int((used < 0).sum()):
            self._leave_out(n_without, "of which no label is known")
        if self._excluded is not None:
            rows = self._excluded.among(paths)
            used[rows] = -1
            self._notes.append(self._excluded.note(len(rows)))
        return used, truth

    def __contains__(self, digest: object) -> bool:
        """Return whether an image is left out as one of the training, so need not be decoded."""
        trained = image_key(str(digest)) in self._info.training_images
        return trained and not self.include_training

    def unseen(self, digest: str) -> bool:
        """Return whether an image is used: a training image only with `include_training`."""
        trained = image_key(digest) in self._info.training_images
        self._n_training += trained
        return self.include_training or not trained

    def unrelated(
        self, chosen: NDArray[np.intp], digests: Sequence[str], groups: NDArray[np.intp]
    ) -> NDArray[np.intp]:
        """Leave out images of the groups of training images, unless these are included.

        Parameters
        ----------
        chosen : ndarray of intp
            The images chosen so far, as indices into `digests` and `groups`.
        digests : sequence of str
            SHA-256 of each image's file.
        groups : ndarray of int, shape (n_images,)
            Numbers that are equal for images of one group.

        Returns
        -------
        ndarray of intp
            The images that remain.
        """
        if self.include_training:
            return chosen
        trained = [image_key(digest) in self._info.training_images for digest in digests]
        unrelated = chosen[~np.isin(groups[chosen], groups[trained])]
        self._n_related += len(chosen) - len(unrelated)
        return unrelated

    def notes(
        self,
        y: NDArray[np.intp],
        skipped: Sequence[tuple[str, str]],
        images: Sequence[tuple[str, str]],
        texts: Sequence[str] | None = None,
    ) -> list[str]:
        """Describe what was left out and what is missing.

        Parameters
        ----------
        y : ndarray of intp, shape (n_images,)
            The classes of the chosen images.
        skipped : sequence of (str, str)
            Path and reason of each image that could not be used.
        images : sequence of (str, str)
            Path and digest of each chosen image.
        texts : sequence of str, optional
            All labels of each chosen image, where it may have several; `y` is not used then.

        Returns
        -------
        list of str
            Notes for the user.

        Raises
        ------
        SourceError
            No image is left.
        """
        if skipped:
            path, reason = skipped[0]
            self._leave_out(len(skipped), f"that cannot be used, such as {path}: {reason}")
        if self._n_training and self.include_training:
            trained = counted(self._n_training, "image")
            self._notes.append(f"counted too: {trained} that trained the model; this flatters it")
        elif self._n_training:
            self._leave_out(self._n_training, "that trained the model")
        if self._n_related:
            self._leave_out(self._n_related, "of the same groups as images that trained the model")
        if not len(y):
            remedy = (
                "use images it has not seen, or pass include_training"
                if self._n_training or self._n_related
                else "use others"
            )
            measured = self._measured()
            raise SourceError(
                f"{self.data}: has no image left to evaluate ({'; '.join(self._notes)}); "
                f"{f'{measured}; ' if measured else ''}{remedy}"
            )
        if self._n_training and (measured := self._measured()):
            self._notes.append(measured)
        present = set(y.tolist())
        absent = [name for index, name in enumerate(self._info.labels) if index not in present]
        if absent and texts is None:
            classes = counted(len(absent), "class", "classes")
            self._notes.append(f"no image of {classes} of the model: {listed(absent)}")
        paths, digests = zip(*images, strict=True)
        labels = texts or [self._info.labels[number] for number in y]
        return self._notes + notes_on_copies(paths, digests, labels, "each of them counts")

    def _measured(self) -> str:
        """Describe how a head was measured that was trained on its test images afterwards."""
        training = self._info.training
        refitted = "refit" in training
        if not refitted and training.get("measured_by") != "cross-validation":
            return ""
        test = dict(training_rows({"test": training.get("test")})).get("test part", "")
        if refitted:
            return f"before it was trained on all its images, those kept out measured it: {test}"
        return f"cross-validation on its training images measured it: {test}"

    def _leave_out(self, number: int, why: str) -> None:
        self._notes.append(f"not evaluated: {counted(number, 'image')} {why}")
