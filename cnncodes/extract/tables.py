r"""The images that a CSV file lists, as spreadsheets of any country and system write it.

The columns are ``path``, ``label`` and perhaps ``group``; others are ignored. Names of columns may
be in capitals; blanks around values, empty rows, and ``;`` or a tab between values are accepted.
The text is UTF-8, UTF-16 or, by default, Windows code page 1252. Paths are relative to the file's
folder; one that is not found as it is written is looked for with ``/`` for ``\``, and with names
in the other Unicode form.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from cnncodes.errors import SourceError
from cnncodes.extract.folders import ListedImage
from cnncodes.extract.formats import SIGNATURE_LENGTH, is_image
from cnncodes.text import normalized

MAX_BYTES = 2**28
REQUIRED = ("path", "label")
FALLBACK_ENCODING = "cp1252"
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_table(source: Path) -> tuple[list[ListedImage], list[str]]:
    """List the images of a CSV file.

    Parameters
    ----------
    source : Path
        The file.

    Returns
    -------
    images : list of ListedImage
        In the order of the rows.
    notes : list of str
        What was assumed about the file.

    Raises
    ------
    SourceError
        The file cannot be read, is no CSV file, or a row has no path or no label.
    """
    try:
        with source.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SourceError(f"{source}: cannot be read ({error.strerror})") from error
    text, notes = _decoded(source, content)
    try:
        return list(_images(source, text)), notes
    except csv.Error as error:
        raise SourceError(f"{source}: not a readable CSV file ({error})") from error


def _decoded(source: Path, content: bytes) -> tuple[str, list[str]]:
    foreign = SourceError(
        f"{source}: neither a folder nor a CSV file; give a folder of images or a CSV file with "
        "the columns path and label"
    )
    if len(content) > MAX_BYTES or is_image(content[:SIGNATURE_LENGTH]):
        raise foreign
    try:
        if content.startswith(_UTF_16):
            return content.decode("utf-16"), []
        return content.decode("utf-8-sig"), []
    except UnicodeDecodeError as error:
        if b"\0" in content:
            raise foreign from error
    try:
        text = content.decode(FALLBACK_ENCODING)
    except UnicodeDecodeError as error:
        raise foreign from error
    return text, [
        f"{source.name} is not UTF-8: read as Windows code page 1252; if names of classes look "
        "wrong, save it as CSV UTF-8"
    ]


def _images(source: Path, text: str) -> Iterator[ListedImage]:
    if text.startswith("sep="):  # Excel's own first line
        text = text.partition("\n")[2]
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)  # spreadsheets write that of their country
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    columns = [name.strip().casefold() for name in next(reader, [])]
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise SourceError(
            f"{source}: has no column {' and no column '.join(missing)}; a CSV source starts with "
            "the line: path,label"
        )
    finder = _Finder(source.parent)
    for values in reader:
        if not any(value.strip() for value in values):
            continue
        row = dict(zip(columns, values, strict=False))
        for name in REQUIRED:
            if name not in row or (name == "path" and not row[name].strip()):
                raise SourceError(f"{source}, line {reader.line_num}: has no {name}")
        yield ListedImage(
            path=finder.find(row["path"]),
            label=normalized(row["label"]),
            group=normalized(row.get("group", "")),
        )


class _Finder:
    """Finds the files that the paths of a table mean.

    Parameters
    ----------
    root : Path
        What the paths are relative to.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names: dict[Path, dict[str, str]] = {}

    def find(self, written: str) -> str:
        """Return the path of the file, relative to the root; as it is written if there is none."""
        stripped = written.strip()
        if stripped == written and written.isascii() and "\\" not in written:
            return written  # whether it exists is seen when it is read
        for candidate in (written, stripped, stripped.replace("\\", "/")):
            if (self._root / candidate).exists():
                return candidate
            existing = self._in_other_form(candidate)
            if existing is not None:
                return existing
        return stripped

    def _in_other_form(self, path: str) -> str | None:
        """Return the path of an existing file whose names are the same once normalized."""
        existing = PurePosixPath()
        for part in PurePosixPath(path).parts:
            folder = self._root / existing
            name: str | None = part
            if not (folder / part).exists():
                name = self._names_in(folder).get(normalized(part))
            if name is None:
                return None
            existing /= name
        return str(existing)

    def _names_in(self, folder: Path) -> dict[str, str]:
        """Return the names in a folder by their normalized forms."""
        if folder not in self._names:
            try:
                names = {normalized(path.name): path.name for path in folder.iterdir()}
            except OSError:
                names = {}
            self._names[folder] = names
        return self._names[folder]
