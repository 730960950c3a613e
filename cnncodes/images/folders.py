"""List the images of class folders, or of one flat folder.

Files are images by their ending or by their first bytes. So a photograph without an ending is
listed, and a text called ``.jpg`` too, so that the decoder reports why it is skipped. Left out are
hidden files and folders, folders that a system or a network drive makes (`SYSTEM_FOLDERS`), and
links to folders inside class folders; of class folders, links that lead back to the source or to
another class.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path, PurePosixPath

from cnncodes.errors import SourceError
from cnncodes.image_formats import SIGNATURE_LENGTH, SUFFIXES, is_decoded, is_image
from cnncodes.text import counted, listed, normalized, shown

# In lower case: of Synology and QNAP, of Windows, of Linux, of macOS.
SYSTEM_FOLDERS = frozenset(
    (
        "@eadir",
        "#recycle",
        "#snapshot",
        "@recycle",
        "@recently-snapshot",
        "$recycle.bin",
        "recycler",
        "system volume information",
        "lost+found",
        "__macosx",
        "network trash folder",
        "temporary items",
        "#trash",
        "@__thumb",
        "@tmp",
        "@sharebin",
        "lost.dir",
        "recycle bin",
    )
)
# Files that Windows makes; those of other systems are hidden.
_SYSTEM_FILES = frozenset(("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"))
_FOUND = re.compile(r"found\.\d{3}")  # files that Windows recovered from a damaged disk
_SPLIT_NAME = re.compile(
    r"(train|val|valid|test|dev|eval|holdout)(ing|ation|uation)?([ _-]?(set|data|images))?", re.I
)
# Days, months and years, and the folders of cameras (DCF: 100APPLE, 101CANON).
_DATE = re.compile(
    r"(19|20)\d\d([-_. ]?(0?[1-9]|1[0-2])([-_. ]?\d{1,2})?)?|\d{1,2}[-_. ]\d{1,2}[-_. ](\d\d){1,2}"
    r"|(day|tag) ?[-_]?\d+|(mon|tues?|wed(nes)?|thu(rs)?|fri|sat(ur)?|sun)(day)?"
    r"|(jan(uary)?|feb(ruary)?|mar(ch)?|apr(il)?|may|june?|july?|aug(ust)?|sep(tember)?|oct(ober)?"
    r"|nov(ember)?|dec(ember)?)([-_ ]?(19|20)?\d\d)?|[1-9]\d\d[a-z_]{5}",
    re.I,
)
_SYSTEM = tuple(f"{each} of the system or a network drive" for each in ("folder", "folders"))


@dataclass(frozen=True)
class ListedImage:
    """An image of a source.

    Attributes
    ----------
    path : str
        Relative to the source, with ``/`` between names; from a table also absolute.
    label : str
        Its class; empty if it has none.
    group : str
        Images of one group belong together, such as photographs of one object; empty if the
        image has none.
    weight : float or None
        How much it counts in training; None if it has none, which counts as 1.
    probability : float or None
        How probable its label is; None if it has none, which counts as 1.
    flags : str
        Of a table with a column for each label: a character for each, as in `multilabel`.
    flag_names : tuple of str
        These labels, in the order of the columns.
    """

    path: str
    label: str
    group: str = ""
    weight: float | None = None
    probability: float | None = None
    flags: str = ""
    flag_names: tuple[str, ...] = ()


@dataclass
class Omissions:
    """Folders and files that a listing leaves out.

    Attributes
    ----------
    system : list of str
        Folders of the system or of a network drive.
    links : list of str
        Links to folders.
    broken : list of str
        Links without a target.
    others : list of str
        Files that are no images, such as films, PDF files and texts.
    """

    system: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        """Return a line for each kind."""
        return [
            f"left out: {counted(len(names), *nouns)}: {_names(sorted(set(names)))}"
            for names, nouns in (
                (self.system, _SYSTEM),
                (self.links, ("link to a folder", "links to folders")),
                (self.broken, ("broken link", "broken links")),
                (self.others, ("file that is no image", "files that are no images")),
            )
            if names
        ]


def images_below(folder: Path, omitted: Omissions | None = None) -> list[Path]:
    """List the images in a folder and in all folders below it, in the order of their names.

    Parameters
    ----------
    folder : Path
        The folder.
    omitted : Omissions, optional
        Receives the names of folders that are left out.

    Returns
    -------
    list of Path
        The images.

    Raises
    ------
    SourceError
        A folder cannot be read.
    """
    return sorted(_walk(folder, omitted or Omissions()))


def list_folder(
    source: Path, *, group_by_folder: bool
) -> tuple[list[ListedImage], list[str], list[str]]:
    """List the images of a folder of class folders, or of a flat folder.

    Parameters
    ----------
    source : Path
        The folder.
    group_by_folder : bool
        Whether the images of each folder directly below a class folder form a group.

    Returns
    -------
    images : list of ListedImage
        Labelled by the first folder below the source; without labels in a flat folder.
    notes : list of str
        What was left out, and what the layout of the folders suggests.
    doubts : list of str
        Why the folders are hardly classes.

    Raises
    ------
    SourceError
        A folder cannot be read, or images lie beside class folders.
    """
    omitted = Omissions()
    children = _children(source, omitted)
    files = [Path(entry.path) for entry in children if _is_image(entry)]
    folders = _class_folders(source, children, omitted)
    paths = {name: images_below(source / name, omitted) for name in folders}
    images = []
    for name in folders:
        label = normalized(name) or name
        for path in paths[name]:
            relative = path.relative_to(source).as_posix()
            group = _group(relative) if group_by_folder else ""
            images.append(ListedImage(relative, label, group))
    if not images:
        flat = {path.name for path in files}
        rest = [entry for entry in children if entry.name not in flat and entry.is_file()]
        omitted.others += sorted(entry.name for entry in rest)
        return [ListedImage(path.name, "") for path in sorted(files)], omitted.notes(), []
    strays = [path for path in files if is_decoded(path.suffix)]
    if strays:
        raise SourceError(
            f"{source}: {counted(len(strays), 'image')} beside the class folders (such as "
            f"{strays[0].name}); move them into one, or list all images in a CSV file"
        )
    notes = omitted.notes()
    if files:
        notes.append(
            f"left out: {counted(len(files), 'file')} beside the class folders: "
            f"{_names([path.name for path in sorted(files)])}"
        )
    empty = [name for name in folders if not paths[name]]
    if empty:
        notes.append(f"no images in {counted(len(empty), 'class folder')}: {_names(empty)}")
    notes += _notes_on_merged([name for name in folders if paths[name]])
    doubts = _doubts(source, images)
    notes += [] if doubts else _notes_on_levels(images)
    if group_by_folder and not any(image.group for image in images):
        notes.append("no folders below the class folders: no images are grouped")
    return images, notes, doubts


def _group(relative: str) -> str:
    """Return the folder directly below the class folder; "" for an image in the class folder."""
    parts = PurePosixPath(relative).parts
    return "/".join(parts[:2]) if len(parts) > 2 else ""


def _notes_on_merged(folders: Sequence[str]) -> list[str]:
    """Name the classes that have several folders."""
    counts = Counter(map(normalized, folders))
    merged = sorted(label for label, count in counts.items() if count > 1)
    if not merged:
        return []
    return [
        "folders whose names differ only in their Unicode form or in blanks around them are one "
        f"class: {_names(merged)}"
    ]


def _doubts(source: Path, images: Sequence[ListedImage]) -> list[str]:
    """Report folders that are hardly classes, and which others may be."""
    parts = [PurePosixPath(image.path).parts for image in images]
    nested = [each for each in parts if len(each) > 2]
    classes = sorted({each[0] for each in parts})
    are_days = all(map(_DATE.fullmatch, classes))
    if are_days and not (len(classes) == 1 and _holds_classes(nested)):
        return [
            f"{_names(classes)} look like days or folders of a camera, not like classes: a "
            "classifier would learn to tell the days apart; make a folder for each class, or list "
            "the images in a CSV file with the columns path and label"
        ]
    if not nested:
        return []
    below = sorted({each[1] for each in nested})
    if all(_SPLIT_NAME.fullmatch(name) for name in classes):
        part = next((name for name in classes if name.lower().startswith("train")), classes[0])
        return [
            f"{_names(classes)} look like the parts of a split, not like classes: to use the "
            f"folders below them ({_names(below)}) as classes, name {source / part} as the source"
        ]
    first, last = min(parts)[:-1], max(parts)[:-1]  # what these share, all between them share
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    common = tuple(name for name, _ in pairs)
    level = sorted({each[len(common)] for each in parts if len(each) > len(common) + 1})
    if common and len(level) > 1:
        return [
            f"all images are in one folder, {shown('/'.join(common))}: to use the folders below it "
            f"({_names(level)}) as classes, name {source.joinpath(*common)} as the source"
        ]
    return []


def _holds_classes(nested: Sequence[tuple[str, ...]]) -> bool:
    """Return whether there are several folders below the only one, and not all of them days."""
    below = {parts[1] for parts in nested}
    return len(below) > 1 and not all(map(_DATE.fullmatch, below))


def _notes_on_levels(images: Sequence[ListedImage]) -> list[str]:
    """Note which level of nested folders is the label."""
    nested = next((each.path for each in images if each.path.count("/") > 1), None)
    if nested is None:
        return []
    return [
        "labels are the names of the first folders below the source; folders inside these, such "
        f"as {shown('/'.join(nested.split('/')[:2]))}, belong to their class"
    ]


def _class_folders(
    source: Path, children: Sequence[os.DirEntry[str]], omitted: Omissions
) -> list[str]:
    """Return the names of the class folders, sorted, without links to what is listed anyway."""
    folders = [entry for entry in children if _is_folder(entry, follow_symlinks=True)]
    omitted.broken += [entry.name for entry in children if _is_broken(entry)]
    root, names = source.resolve(), []
    resolved: set[Path] = set()
    above = {root, *root.parents}
    for entry in sorted(folders, key=lambda entry: (entry.is_symlink(), entry.name)):
        target = Path(entry.path).resolve()
        leads_back = target in above or not resolved.isdisjoint((target, *target.parents))
        if entry.is_symlink() and leads_back:
            omitted.links.append(entry.name)
            continue
        names.append(entry.name)
        resolved.add(target)
        above.update(target.parents)
    return sorted(names)


def _walk(folder: Path, omitted: Omissions) -> Iterator[Path]:
    for entry in _children(folder, omitted):
        if _is_folder(entry, follow_symlinks=False):
            yield from _walk(Path(entry.path), omitted)
        elif _is_image(entry):
            yield Path(entry.path)
        elif _is_broken(entry):
            omitted.broken.append(entry.name)
        elif entry.is_symlink() and _is_folder(entry, follow_symlinks=True):
            omitted.links.append(entry.name)
        else:
            omitted.others.append(entry.name)


def _children(folder: Path, omitted: Omissions) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not _is_hidden(entry)]
    except OSError as error:
        raise SourceError(f"{folder}: cannot be read ({error.strerror})") from error
    system = [
        entry
        for entry in visible
        if entry.name.casefold() in SYSTEM_FOLDERS or _FOUND.fullmatch(entry.name.casefold())
    ]
    folders = {entry.name for entry in system if _is_folder(entry, follow_symlinks=True)}
    omitted.system.extend(sorted(folders))
    return [entry for entry in visible if entry.name not in folders]


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Return whether a directory entry is an image, or claims to be one by its ending."""
    claimed = Path(entry.name).suffix.lower() in SUFFIXES
    try:
        status = entry.stat()
        if not stat.S_ISREG(status.st_mode):
            return False
        if claimed or not status.st_size:
            return claimed
        with open(entry.path, "rb") as file:  # noqa: PTH123 - thousands of Path objects saved
            return is_image(file.read(SIGNATURE_LENGTH))
    except OSError:  # not allowed, or a broken link: listed, so that the reason is reported later
        return claimed


def _is_hidden(entry: os.DirEntry[str]) -> bool:
    """Return whether a system hides an entry, as Windows does the files that it makes."""
    name = entry.name.casefold()
    return name.startswith(".") or (name in _SYSTEM_FILES and entry.is_file())


def _is_broken(entry: os.DirEntry[str]) -> bool:
    """Return whether a directory entry is a broken link without the ending of an image."""
    if not entry.is_symlink() or Path(entry.name).suffix.lower() in SUFFIXES:
        return False
    return not Path(entry.path).exists()


def _is_folder(entry: os.DirEntry[str], *, follow_symlinks: bool) -> bool:
    try:
        return entry.is_dir(follow_symlinks=follow_symlinks)
    except OSError:  # a link to itself
        return False


def _names(names: Sequence[str]) -> str:
    return listed([shown(name) for name in names])
