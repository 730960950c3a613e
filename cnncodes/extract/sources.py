"""Which images there are, and how they are labelled.

A source is one of three things:

- a folder of class folders: the label is the name of the first folder below the source;
- a flat folder of images: no labels;
- a CSV file with the columns ``path`` and ``label``: paths are relative to the file's folder.

Images are found by their first bytes as well as by their ending: a photograph without an
ending is found, and a text called ``.jpg`` is listed, so that decoding it can tell why it is
left out. Hidden files and folders are passed over, and so are links to folders but for class
folders; of these the links that lead back to the source or to another class. The order is that of
the names.
"""

from __future__ import annotations

import csv
import os
import stat
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cnncodes.errors import SourceError
from cnncodes.extract.images import SIGNATURE_LENGTH, SUFFIXES, has_image_signature

UNLABELLED = -1


@dataclass(frozen=True)
class Source:
    """The images of a source, in order.

    Attributes
    ----------
    root : Path
        What `paths` are relative to.
    paths : tuple of str
        The images.
    labels : tuple of int
        For each image its index in `class_names`, or `UNLABELLED`.
    class_names : tuple of str
        The classes, sorted.
    """

    root: Path
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]

    def files(self) -> list[Path]:
        """Return where the images lie."""
        return [self.root / path for path in self.paths]


def find_images(source: Path) -> Source:
    """List the images of a source.

    Parameters
    ----------
    source : Path
        A folder of class folders, a flat folder or a CSV file.

    Returns
    -------
    Source
        The images and their labels.

    Raises
    ------
    SourceError
        The source is absent, unreadable, without images, or ambiguous.
    """
    if source.is_dir():
        root, labelled = source, _from_folder(source)
    elif source.is_file():
        root, labelled = source.parent, _from_csv(source)
    else:
        raise SourceError(f"{source}: no such folder or CSV file")
    if not labelled:
        raise SourceError(f"{source}: no images in it (JPEG, PNG, WebP, BMP, GIF or TIFF)")
    class_names = sorted({label for _, label in labelled if label})
    _refuse_case_twins(source, class_names)
    index = {name: number for number, name in enumerate(class_names)}
    return Source(
        root=root,
        paths=tuple(path for path, _ in labelled),
        labels=tuple(index.get(label, UNLABELLED) for _, label in labelled),
        class_names=tuple(class_names),
    )


def images_below(folder: Path) -> list[Path]:
    """List the images in a folder and all folders below it, in the order of their names.

    Raises
    ------
    SourceError
        A folder cannot be read.
    """
    return sorted(_walk(folder))


def _from_folder(source: Path) -> list[tuple[str, str]]:
    """Give path and label of each image of a folder; the label is "" in a flat one."""
    children = _children(source)
    flat = [Path(entry.path) for entry in children if _is_image(entry)]
    below = {name: images_below(source / name) for name in _class_folders(source, children)}
    labelled = [
        (path.relative_to(source).as_posix(), name) for name in below for path in below[name]
    ]
    if flat and labelled:
        raise SourceError(
            f"{source}: {len(flat)} images lie beside the class folders (such as "
            f"{flat[0].name}); move them into one, or list all images in a CSV file"
        )
    return labelled or [(path.name, "") for path in sorted(flat)]


def _class_folders(source: Path, children: list[os.DirEntry[str]]) -> list[str]:
    """Name the class folders, sorted; a link back to images that are listed anyway is none."""
    folders = [entry for entry in children if _is_folder(entry, follow_symlinks=True)]
    root, names = source.resolve(), []
    listed: set[Path] = set()
    above = {root, *root.parents}
    for entry in sorted(folders, key=lambda entry: (entry.is_symlink(), entry.name)):
        target = Path(entry.path).resolve()
        leads_back = target in above or not listed.isdisjoint((target, *target.parents))
        if not (entry.is_symlink() and leads_back):
            names.append(entry.name)
            listed.add(target)
            above.update(target.parents)
    return sorted(names)


def _from_csv(source: Path) -> list[tuple[str, str]]:
    try:
        with source.open(newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            # Spreadsheets write the separator of the reader's country.
            delimiter = max(",;\t", key=header.count)
            file.seek(0)
            reader = csv.DictReader(file, delimiter=delimiter, skipinitialspace=True)
            columns = reader.fieldnames or ()
            missing = [name for name in ("path", "label") if name not in columns]
            if missing:
                raise SourceError(
                    f"{source}: has no column {' and no column '.join(missing)}; a CSV source "
                    "starts with the line: path,label"
                )
            return [_checked_row(source, reader.line_num, row) for row in reader]
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{source}: neither a folder nor a CSV file in UTF-8; give a folder of images or a "
            "CSV file with the columns path and label"
        ) from error
    except csv.Error as error:
        raise SourceError(f"{source}: not a readable CSV file ({error})") from error
    except OSError as error:
        raise SourceError(f"{source}: cannot be read ({error.strerror})") from error


def _checked_row(source: Path, line: int, row: dict[str, str | None]) -> tuple[str, str]:
    path, label = row["path"], row["label"]
    if not path or label is None:
        raise SourceError(f"{source}, line {line}: has no {'path' if not path else 'label'}")
    return path, label.strip()


def _refuse_case_twins(source: Path, class_names: list[str]) -> None:
    """Refuse classes such as Cat and cat: most often one class, spelt twice."""
    twins = defaultdict(list)
    for name in class_names:
        twins[name.casefold()].append(name)
    for names in twins.values():
        if len(names) > 1:
            raise SourceError(
                f"{source}: the classes {' and '.join(names)} differ only in case; merge or "
                "rename them"
            )


def _walk(folder: Path) -> Iterator[Path]:
    for entry in _children(folder):
        if _is_folder(entry, follow_symlinks=False):
            yield from _walk(Path(entry.path))
        elif _is_image(entry):
            yield Path(entry.path)


def _children(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise SourceError(f"{folder}: cannot be read ({error.strerror})") from error


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Tell whether a directory entry is an image, or claims to be one by its ending."""
    claimed = Path(entry.name).suffix.lower() in SUFFIXES
    try:
        if not stat.S_ISREG(entry.stat().st_mode):
            return False
        if claimed:
            return True
        with open(entry.path, "rb") as file:  # noqa: PTH123 - thousands of Path objects saved
            return has_image_signature(file.read(SIGNATURE_LENGTH))
    except PermissionError:  # listed by its ending, so that the reason is told later
        return claimed
    except OSError:  # a broken link
        return False


def _is_folder(entry: os.DirEntry[str], *, follow_symlinks: bool) -> bool:
    try:
        return entry.is_dir(follow_symlinks=follow_symlinks)
    except OSError:  # a link that leads to itself
        return False
