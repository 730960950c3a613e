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
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cnncodes.bounds import MAX_GROUP_LENGTH, MAX_PATH_LENGTH, fault_of_labels, fault_of_text
from cnncodes.errors import ParameterError, SourceError
from cnncodes.files import check_regular, is_folder, is_url
from cnncodes.image_formats import DECODED
from cnncodes.images.folders import ListedImage, list_folder
from cnncodes.images.path_lists import PathList
from cnncodes.images.tables import read_table
from cnncodes.models.kinds import TABLES, needing
from cnncodes.parameters import as_path, check_choice
from cnncodes.text import listed, shown

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
    notes : tuple of str
        What was left out, merged or assumed.
    doubts : tuple of str
        Those of `notes` by which the folders are hardly classes.
    """

    root: Path
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    groups: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

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
        return replace(
            self,
            paths=tuple(self.paths[row] for row in kept),
            labels=tuple(self.labels[row] for row in kept),
            groups=tuple(self.groups[row] for row in kept) if self.groups else (),
            notes=(*self.notes, excluded.note(len(rows))),
        )

    def class_counts(self) -> dict[str, int]:
        """Return the number of images of each class."""
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
    class_names = sorted({image.label for image in images if image.label})
    fault = fault_of_labels(class_names) or fault_of_text(str(source), "its path", MAX_PATH_LENGTH)
    for image in images:
        fault = fault or fault_of_text(image.path, "a path", MAX_PATH_LENGTH)
        fault = fault or fault_of_text(image.group, "a group", MAX_GROUP_LENGTH)
    if fault:
        raise SourceError(f"{source}: {fault}")
    _refuse_case_twins(source, class_names)
    index = {name: number for number, name in enumerate(class_names)}
    groups = tuple(image.group for image in images)
    return Source(
        root=root,
        paths=tuple(image.path for image in images),
        labels=tuple(index.get(image.label, UNLABELLED) for image in images),
        class_names=tuple(class_names),
        groups=groups if any(groups) else (),
        notes=(*doubts, *notes, *_notes_on_labels(class_names)),
        doubts=tuple(doubts),
    )


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
    twins = defaultdict(list)
    for name in class_names:
        twins[name.casefold()].append(name)
    for names in twins.values():
        if len(names) > 1:
            raise SourceError(
                f"{source}: the classes {' and '.join(names)} differ only in case or in the "
                "form of letters; merge or rename them"
            )
