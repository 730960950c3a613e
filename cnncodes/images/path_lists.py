"""Lists of images by their paths: ``overlap.csv`` of `cnncodes overlap`, or a path in each line."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from cnncodes.errors import SourceError
from cnncodes.files import check_filled
from cnncodes.images.tables import delimiter_of
from cnncodes.parameters import as_path
from cnncodes.text import counted, csv_cell, shown

MAX_BYTES = 2**28
COLUMNS = ("a", "b")  # the first ones of overlap.csv
_TABLE = "overlap.csv of cnncodes overlap"
_REMEDY = f"name {_TABLE}, or a text file with a path in each line"


class PathList:
    """Images of a source, by their paths in it.

    Parameters
    ----------
    path : str or Path
        ``overlap.csv``, whose images are those of column b: images of the second collection, or,
        where one was compared with itself, all but the first of images that are copies of each
        other. Or a text file in UTF-8 with a path in each line, by slashes or backslashes.
    parameter : str
        Name of the parameter, for errors.

    Raises
    ------
    SourceError
        The file cannot be read or names no image.
    """

    def __init__(self, path: str | Path, parameter: str) -> None:
        self.path = path = as_path(path, parameter)
        if check_filled(path, _REMEDY, error=SourceError).st_size > MAX_BYTES:
            raise SourceError(f"{path}: is too large for a list of paths; {_REMEDY}")
        try:
            text = path.read_text("utf-8-sig")
        except UnicodeDecodeError as error:
            raise SourceError(f"{path}: is not a text file in UTF-8; {_REMEDY}") from error
        except OSError as error:
            raise SourceError(f"{path}: cannot be read ({error.strerror}); {_REMEDY}") from error
        try:
            self._pairs, names = _parsed(text)
        except csv.Error as error:
            raise SourceError(f"{path}: is not a readable CSV file ({error})") from error
        self._names = frozenset(names)
        # A list from Windows; in a table a backslash begins an escaped letter.
        slashed = () if self._pairs else (name.replace("\\", "/") for name in names)
        self._slashed = frozenset(slashed)
        if not self._names:
            raise SourceError(f"{path}: names no image, so leave {parameter}='FILE' out")

    def among(self, paths: Sequence[str]) -> list[int]:
        """Return the increasing indices of the images among those of a source.

        Raises
        ------
        SourceError
            There are none: the list is of another source.
        """
        # A table has paths escaped, a list as they are.
        rows = [
            row
            for row, path in enumerate(paths)
            if path in self._names or path in self._slashed or csv_cell(path) in self._names
        ]
        if not rows:
            if self._pairs:
                remedy = (
                    "of an overlap.csv the images of column b count, so name this source second "
                    "when you make it"
                )
            else:
                example = shown(min(paths, default="NAME"))
                remedy = f"write paths as they are in the source, such as {example}"
            raise SourceError(
                f"{self.path}: none of its {counted(len(self._names), 'image')}, such as "
                f"{shown(min(self._names))}, is in this source; {remedy}"
            )
        return rows

    def pairs_among(self, paths: Sequence[str]) -> list[tuple[int, int]]:
        """Return the pairs of which both images are in a source, as indices.

        Raises
        ------
        SourceError
            The file has no pairs, or none of this source.
        """
        if not self._pairs:
            raise SourceError(f"{self.path}: has no pairs of images; name {_TABLE}")
        rows = {csv_cell(path): row for row, path in enumerate(paths)}
        pairs = [(rows[a], rows[b]) for a, b in self._pairs if a in rows and b in rows]
        if not pairs:
            raise SourceError(
                f"{self.path}: none of its {counted(len(self._pairs), 'pair')} is within this "
                "source; compare it with itself: cnncodes overlap SOURCE"
            )
        return pairs

    def note_on_pairs(self, paths: Sequence[str]) -> str:
        """Describe what `pairs_among` found in a source, and how many pairs it did not find."""
        note = f"images of a pair of {self.path.name} stay on one side of the split"
        if rest := len(self._pairs) - len(self.pairs_among(paths)):
            pairs = counted(len(self._pairs), "pair")
            note += (
                f"; {rest:,} of its {pairs} {'is' if rest == 1 else 'are'} not within these images"
            )
        return note

    def note(self, n_excluded: int) -> str:
        """Describe the number of images that were left out."""
        are = "is" if n_excluded == 1 else "are"
        note = f"{counted(n_excluded, 'image')} of the list {self.path.name} {are} left out"
        if rest := len(self._names) - n_excluded:
            note += f"; {counted(rest, 'other')} of it {'is' if rest == 1 else 'are'} not here"
        return note


def _parsed(text: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the pairs of images in a table, and the names of the images that are meant."""
    delimiter = delimiter_of(text, COLUMNS)  # which one depends on the spreadsheet that saved it
    if delimiter is None:
        return [], [line.strip() for line in text.splitlines() if line.strip()]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows = [row for row in reader if len(row) >= 2][1:]
    return [(row[0], row[1]) for row in rows], [row[1] for row in rows]
