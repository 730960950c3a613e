"""List the images of a source with their labels and groups.

A source is one of three things:

- a folder of class folders: the label is the name of the first folder below the source;
- a flat folder of images: no labels;
- a CSV file with the columns ``path`` and ``label``: paths are relative to the file's folder.

`folders` lists the first two, `tables` the third. Names of classes are in Unicode's composed form
and without blanks around them, so that one name is one class, whatever system wrote it. Images of
a folder are in the order of their names, those of a CSV file in its order.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from cnncodes.bounds import MAX_GROUP_LENGTH, MAX_PATH_LENGTH, fault_of_labels, fault_of_text
from cnncodes.errors import ParameterError, SourceError
from cnncodes.files import check_regular, is_folder, is_url
from cnncodes.image_formats import DECODED
from cnncodes.images.folders import ListedImage, list_folder
from cnncodes.images.multilabel import (
    HAS,
    SEPARATOR,
    flags_of,
    label_numbers,
    label_texts,
    several_text,
    split_label,
)
from cnncodes.images.path_lists import PathList
from cnncodes.images.tables import MISSING, read_table
from cnncodes.images.weighting import filled
from cnncodes.models.kinds import TABLES, needing
from cnncodes.parameters import as_path, check_choice
from cnncodes.text import case_twins, counted, listed, shown

T = TypeVar("T")
UNLABELLED = -1
_REMEDY = "name a folder of images, or a CSV file with the columns path and label"
GROUPINGS = ("folder",)
_SEPARATOR = re.compile(r"[|;]")


@dataclass(frozen=True)
class Source:
    """The images of a source, in order.

    Attributes
    ----------
    root : Path
        Folder that `paths` are relative to.
    paths : tuple of str
        The images.
    labels : tuple of int
        For each image its index in `class_names`, or `UNLABELLED`.
    class_names : tuple of str
        The classes, sorted.
    groups : tuple of str
        For each image the name of its group, empty where it has none; no items if no image has
        one.
    weights, probabilities : tuple of float
        For each image how much it counts in training, and how probable its label is; 1 where it
        has none, and no items if no image has one.
    notes : tuple of str
        What was left out, merged or assumed.
    doubts : tuple of str
        Those of `notes` by which the folders are hardly classes.
    flags : tuple of str
        For each image which of `class_names` it has, as in `multilabel`, where images have more
        than one; then all `labels` are `UNLABELLED`. Else no items.
    """

    root: Path
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    groups: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    probabilities: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    def files(self) -> list[Path]:
        """Return the path of each image file."""
        return [self.root / path for path in self.paths]

    def locations(self) -> list[str]:
        """Return the path of each image file, or its URL where a CSV file has one."""
        return [path if is_url(path) else str(self.root / path) for path in self.paths]

    def without(self, excluded: PathList) -> Source:
        """Return the source without the images of a list, which must name some of them."""
        rows = set(excluded.among(self.paths))
        kept = [row for row in range(len(self.paths)) if row not in rows]

        def of_kept(values: tuple[T, ...]) -> tuple[T, ...]:
            return tuple(values[row] for row in kept) if values else ()

        return replace(
            self,
            paths=of_kept(self.paths),
            labels=of_kept(self.labels),
            groups=of_kept(self.groups),
            weights=of_kept(self.weights),
            probabilities=of_kept(self.probabilities),
            flags=of_kept(self.flags),
            notes=(*self.notes, excluded.note(len(rows))),
        )

    @property
    def label_texts(self) -> list[str]:
        """For each image its label, or all of them, as one text."""
        return label_texts(self.labels, self.class_names, self.flags)

    @property
    def n_unlabelled(self) -> int:
        """Number of images of which no label is known."""
        numbers = label_numbers(self.flags) if self.flags else iter(self.labels)
        return sum(number == UNLABELLED for number in numbers)

    def class_counts(self) -> dict[str, int]:
        """Return the number of images of each class."""
        if self.flags:
            columns = zip(*self.flags, strict=True)
            return dict(zip(self.class_names, (each.count(HAS) for each in columns), strict=True))
        counts = Counter(self.labels)
        return {name: counts[number] for number, name in enumerate(self.class_names)}


def find_images(source: str | Path, *, group_by: str | None = None) -> Source:
    """List the images of a source.

    Parameters
    ----------
    source : str or Path
        A folder of class folders, a flat folder or a CSV file.
    group_by : {"folder"}, optional
        Which images belong together: ``"folder"`` those of each folder directly below a class
        folder. A CSV file has a column ``group`` for that.

    Returns
    -------
    Source
        The images and their labels.

    Raises
    ------
    SourceError
        The source is absent, unreadable, without images, or ambiguous.
    ParameterError
        `group_by` is unknown, or given for a CSV file.
    """
    if group_by is not None:
        check_choice(group_by, GROUPINGS, "group_by")
    source = as_path(source, "source")
    if is_folder(source):
        root = source
        images, notes, doubts = list_folder(source, group_by_folder=group_by == "folder")
    else:
        check_regular(source, _REMEDY, error=SourceError)
        if group_by is not None:
            raise ParameterError(
                f"{source}: images can be grouped by folder in a folder of class folders; a CSV "
                "file names groups in a column group"
            )
        root = source.parent
        needed = "a folder or a CSV file"
        with needing(source, TABLES, needed, _REMEDY, error=SourceError):
            images, notes = read_table(source)
        doubts = []
    if not images:
        left_out = f"; {'; '.join(notes)}" if notes else ""
        raise SourceError(f"{source}: no images in it ({DECODED}){left_out}")
    return _source(source, root, images, notes, doubts)


def root_of(source: Path) -> Path:
    """Return the folder that the paths of a source are relative to, whether it is there or not."""
    return source if is_folder(source) else source.parent


def _source(
    source: Path,
    root: Path,
    images: Sequence[ListedImage],
    notes: list[str],
    doubts: list[str],
) -> Source:
    class_names, flags, several = _several_labels(images if root != source else [])
    if not flags:
        class_names = sorted({image.label for image in images if image.label})
    fault = fault_of_labels(class_names) or fault_of_text(str(source), "its path", MAX_PATH_LENGTH)
    for image in images:
        fault = fault or fault_of_text(image.path, "a path", MAX_PATH_LENGTH)
        fault = fault or fault_of_text(image.group, "a group", MAX_GROUP_LENGTH)
    if fault:
        raise SourceError(f"{source}: {fault}")
    _refuse_case_twins(source, class_names)
    missing = [name for name in class_names if name in MISSING and root != source]
    if missing:
        names = listed(missing)
        remedy = "where a label is missing, leave its cell empty"
        notes = [*notes, f"taken for names of classes: {names}; {remedy}"]
    index = {name: number for number, name in enumerate(class_names)}
    groups = tuple(image.group for image in images)
    return Source(
        root=root,
        paths=tuple(image.path for image in images),
        labels=tuple(
            UNLABELLED if flags else index.get(image.label, UNLABELLED) for image in images
        ),
        class_names=tuple(class_names),
        groups=groups if any(groups) else (),
        weights=filled(image.weight for image in images),
        probabilities=filled(image.probability for image in images),
        notes=(
            *doubts,
            *notes,
            *_notes_on_repeats(images),
            *several,
            *_notes_on_labels(class_names),
        ),
        doubts=tuple(doubts),
        flags=flags,
    )


def _several_labels(
    images: Sequence[ListedImage],
) -> tuple[list[str], tuple[str, ...], list[str]]:
    """Return names, `Source.flags` and notes of a table whose images have several labels."""
    notes = []
    if images and images[0].flags:
        columns = images[0].flag_names
        order = sorted(range(len(columns)), key=lambda column: columns[column])
        names = [columns[column] for column in order]
        flags = tuple("".join(image.flags[column] for column in order) for image in images)
    elif (marked := [each.label for each in images if SEPARATOR in each.label]) and (
        names := sorted({name for image in images for name in split_label(image.label)})
    ):
        flags = tuple(flags_of(image.label, names) for image in images)
        several = [label for label in marked if len(split_label(label)) > 1]
        joins = "joins several with ;" if several else "has a ; as where an image may have several"
        marked = several or marked
        notes = [
            f"the label of {counted(len(marked), 'image')} {joins}, such as {shown(marked[0])}: "
            "where that is the name of one class, write it without ;"
        ]
    else:
        return [], (), []
    return names, flags, [several_text(flags, len(names)), *notes]


def _notes_on_repeats(images: Sequence[ListedImage]) -> list[str]:
    """Report paths that a table lists again, each of which is an image of its own."""
    counts = Counter(image.path for image in images)
    repeated = [path for path, count in counts.items() if count > 1]
    if not repeated:
        return []
    labels = {(image.path, image.label) for image in images if image.label}
    again = Counter(path for path, _ in labels)
    hint = (
        "; several labels of an image are joined by ; in one row"
        if len(again) < len(labels)
        else ""
    )
    are = "image is" if len(repeated) == 1 else "images are"
    return [f"{len(repeated):,} {are} listed more than once, such as {shown(repeated[0])}{hint}"]


def _notes_on_labels(class_names: Sequence[str]) -> list[str]:
    """Name labels that seem to join several classes: an image has only one here."""
    known = set(class_names)
    several = [
        name
        for name in class_names
        if all(part.strip() for part in _SEPARATOR.split(name)) and _SEPARATOR.search(name)
    ]
    several += [
        name
        for name in class_names
        if "," in name and {part.strip() for part in name.split(",")} <= known
    ]
    if not several:
        return []
    names = listed([shown(name) for name in several])
    return [
        f"{len(several)} of {len(class_names)} labels look like several labels in one: {names}; "
        "each is a class of its own, since an image has one label"
    ]


def _refuse_case_twins(source: Path, class_names: list[str]) -> None:
    """Refuse classes such as Cat and cat: most often one class, spelt twice."""
    for names in case_twins(class_names):
        raise SourceError(
            f"{source}: the classes {' and '.join(names)} differ only in case or in the form of "
            "letters; merge or rename them"
        )


def check_labels(images: Source) -> None:
    """Refuse images without two classes before anything is computed from them.

    Raises
    ------
    SourceError
        None has a label, or all have the same.
    """
    if images.flags:
        raise SourceError(
            f"{images.root}: its images have more than one label each, and this is for one; "
            "cnncodes extract and train make a head of several"
        )
    labels = {label for label in images.labels if label >= 0}
    if not labels:
        raise SourceError(
            f"{images.root}: none of its images has a label; name a folder of class folders or a "
            "CSV file with the columns path and label"
        )
    if len(labels) == 1:
        raise SourceError(
            f"{images.root}: all its images are of one class, {images.class_names[labels.pop()]}; "
            "a classifier needs two or more"
        )
