r"""List the images of a CSV file, as spreadsheets of any locale and system write it.

The columns are ``path``, ``label`` and perhaps ``group``, ``weight`` and ``probability``; others
are ignored, but for those of `multilabel`, one for each of several labels. Names of columns may
be in capitals; blanks around values, empty rows, and ``;`` or a tab between values are accepted.
The text is UTF-8, UTF-16 or, by default, Windows code page 1252. Paths are relative to the file's
folder; one that is not found as it is written is looked for with ``/`` for ``\``, and with names
in the other Unicode form.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from cnncodes.bounds import MAX_GROUP_LENGTH, MAX_PATH_LENGTH, fault_of_text
from cnncodes.errors import SourceError
from cnncodes.files import check_filled, exists
from cnncodes.image_formats import SIGNATURE_LENGTH, is_image
from cnncodes.images.folders import ListedImage
from cnncodes.images.multilabel import LabelColumns
from cnncodes.images.weighting import COLUMNS, parse_value
from cnncodes.text import counted, listed, normalized, shown

MAX_BYTES = 2**28
PATH, GROUP = "path", "group"
REQUIRED = (PATH, "label")
KNOWN = (*REQUIRED, GROUP, *COLUMNS)
# What Orange, pandas and R read, and often write, as a missing value.
MISSING = {".", "?", "~", "#N/A", "N/A", "NA", "NULL", "NaN", "None", "nan", "null"}
DELIMITERS = ",;\t|"  # which one a spreadsheet writes depends on its locale
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*[\r\n]+', re.IGNORECASE)
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
        The file cannot be read, is no CSV file, or a row has no path, no label, or a weight or
        probability out of range.
    """
    n_bytes = check_filled(source, "list the images in it", error=SourceError).st_size
    if n_bytes > MAX_BYTES:
        raise _foreign(source)
    try:
        with source.open("rb") as file:
            content = file.read(n_bytes + 1)
    except OSError as error:
        raise SourceError(f"{source}: cannot be read ({error.strerror})") from error
    text, notes = _decoded(source, content)
    try:
        return list(_images(source, text, notes)), notes
    except csv.Error as error:
        raise SourceError(f"{source}: not a readable CSV file ({error})") from error


def delimiter_of(text: str, columns: Sequence[str]) -> str | None:
    """Return the delimiter by which the first line begins with these columns, in any case.

    It is None where it does not.
    """
    first = text.splitlines()[:1]
    for delimiter in DELIMITERS:
        cells = next(csv.reader(first, delimiter=delimiter), [])
        if [cell.strip().casefold() for cell in cells[: len(columns)]] == list(columns):
            return delimiter
    return None


def _foreign(source: Path) -> SourceError:
    return SourceError(
        f"{source}: neither a folder nor a CSV file; give a folder of images or a CSV file with "
        "the columns path and label"
    )


def _decoded(source: Path, content: bytes) -> tuple[str, list[str]]:
    begins_as_text = any(content[:4])  # in any encoding
    if not begins_as_text or is_image(content[:SIGNATURE_LENGTH]):
        raise _foreign(source)
    try:
        if content.startswith(_UTF_16):
            return content.decode("utf-16"), []
        if b"\0" in content[:2]:  # UTF-16 without a mark of its byte order
            return content.decode("utf-16-be" if content[:1] == b"\0" else "utf-16-le"), []
        return content.decode("utf-8-sig"), []
    except UnicodeDecodeError as error:
        if b"\0" in content:
            raise _foreign(source) from error
    try:
        text = content.decode(FALLBACK_ENCODING)
    except UnicodeDecodeError as error:
        raise _foreign(source) from error
    return text, [
        f"{source.name} is not UTF-8: read as Windows code page 1252; if names of classes look "
        "wrong, save it as CSV UTF-8"
    ]


def _images(source: Path, text: str, notes: list[str]) -> Iterator[ListedImage]:
    """Yield the images of the rows, and add unused parts of the table to `notes`."""
    declared = _SEPARATOR_LINE.match(text)  # Excel's own first line
    rest = text[declared.end() :] if declared else text
    delimiters = declared[1] if declared else DELIMITERS
    delimiter, (reader, columns, header) = max(
        ((delimiter, _opened(rest, delimiter)) for delimiter in delimiters),
        key=lambda opened: (len({*REQUIRED} & {*opened[1][1]}), len(opened[1][1])),
    )
    of_labels = LabelColumns.of(source, header, lambda: _opened(rest, delimiter)[0])
    required = REQUIRED if of_labels is None else (PATH,)
    _check_columns(source, columns, required)
    if of_labels is not None:
        notes += of_labels.notes
    notes += _notes_on_columns(columns, () if of_labels is None else of_labels.indices)
    width = 1 + max(index for index, name in enumerate(columns) if name)
    finder, n_long, end = _Finder(source.parent), 0, reader.line_num
    for values in reader:
        first, end = end + 1, reader.line_num
        if not any(value.strip() for value in values):
            continue
        row, line = dict(zip(columns, values, strict=False)), f"{source}, line {reader.line_num}"
        for name in required:
            if name not in row or (name == PATH and not row[name].strip()):
                raise SourceError(f"{line}: has no {name}")
            if len(row[name].splitlines()) > 1:
                raise SourceError(f"{line}: has a line break in its {name}; is a quote not closed?")
        if end > first and _holds_rows(values, columns.index(PATH), delimiter):
            raise SourceError(
                f"{source}, line {first}: a value goes on over rows to line {end}; is a quote not "
                "closed?"
            )
        for name, most in ((PATH, MAX_PATH_LENGTH), (GROUP, MAX_GROUP_LENGTH)):
            if fault := fault_of_text(row.get(name, ""), f"a {name}", most):
                raise SourceError(f"{line}: {fault}")
        is_long = any(value.strip() for value in values[width:])
        if is_long and delimiter == "," and {*COLUMNS} & {*columns}:
            raise SourceError(
                f"{line}: has more values than columns; write decimals with a point, or ; between "
                "the values"
            )
        weight, probability = (
            parse_value(row.get(name, ""), name, line, comma=delimiter != ",") for name in COLUMNS
        )
        n_long += is_long
        yield ListedImage(
            path=finder.find(row[PATH]),
            label="" if of_labels else normalized(row["label"]),
            group=normalized(row.get(GROUP, "")),
            weight=weight,
            probability=probability,
            flags=of_labels.read(values, line) if of_labels else "",
            flag_names=of_labels.names if of_labels else (),
        )
    if n_long:
        notes.append(f"{counted(n_long, 'row')} with more values than columns: these are not used")


def _holds_rows(values: Sequence[str], path_index: int, delimiter: str) -> bool:
    """Return whether a line inside a value has a path with the ending of the row's own."""
    suffix = PurePosixPath(values[path_index].strip()).suffix.casefold()
    inner = (line for value in values for line in value.splitlines()[1:])
    rows = csv.reader(inner, delimiter=delimiter, skipinitialspace=True)
    paths = (row[path_index].strip() for row in rows if len(row) > path_index + 1)
    return bool(suffix) and any(path.casefold().endswith(suffix) for path in paths)


def _opened(text: str, delimiter: str) -> tuple[Any, list[str], list[str]]:
    """Return a reader positioned after the header, and the columns, in lower case and as named."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    header = next((values for values in reader if any(value.strip() for value in values)), [])
    names = [name.strip() for name in header]
    return reader, [name.casefold() for name in names], names


def _check_columns(source: Path, columns: Sequence[str], required: Sequence[str]) -> None:
    """Refuse a table without the columns that are needed, or with one of them twice."""
    missing = [name for name in required if name not in columns]
    if missing:
        there = listed([shown(name) for name in columns])
        several = "" if PATH in missing else ", or has a column of 1, 0 or nothing for each label"
        raise SourceError(
            f"{source}: has no column {' and no column '.join(missing)} (but {there or 'none'}); a "
            f"CSV source starts with the line: path,label{several}"
        )
    for name in KNOWN:
        if columns.count(name) > 1:
            raise SourceError(f"{source}: has {columns.count(name)} columns {name}; leave one")


def _notes_on_columns(columns: Sequence[str], of_labels: Sequence[int] = ()) -> list[str]:
    """Name the columns that are not used."""
    used = {*KNOWN, *(columns[index] for index in of_labels)}
    others = [shown(name) for name in columns if name and name not in used]
    if not others:
        return []
    hint = "" if GROUP in columns else "; images that belong together are named in a column group"
    return [f"{counted(len(others), 'column')} not used: {listed(others)}{hint}"]


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
            return written  # a missing file is reported when it is read
        for candidate in (written, stripped, stripped.replace("\\", "/")):
            if exists(self._root / candidate):
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
            if not exists(folder / part):
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
