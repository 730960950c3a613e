"""Tables by which classes get other names, or one name together, or are left out."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

from cnncodes.errors import SourceError
from cnncodes.files import check_filled
from cnncodes.images.tables import delimiter_of
from cnncodes.models.metadata import HeadInfo
from cnncodes.parameters import as_path
from cnncodes.text import case_twins, listed, shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_BYTES = 2**24
COLUMNS = ["from", "to"]
ENTRY = "classes"  # of `HeadInfo.training`
_REMEDY = "name a CSV file in UTF-8 with the columns from and to"


@dataclass(frozen=True)
class ClassMap:
    """New names of classes.

    Attributes
    ----------
    path : Path
        The file that they are from; named in notes and errors.
    names : dict of str to str
        The new name of each listed class, empty where it is left out. Classes that are not listed
        keep their names.
    is_checked : bool
        Whether each listed class must be one of the data.
    """

    path: Path
    names: Mapping[str, str]
    is_checked: bool = True

    @classmethod
    def read(cls, path: str | Path) -> ClassMap:
        """Read a table.

        Parameters
        ----------
        path : str or Path
            A CSV file in UTF-8 with the columns from and to: the name of a class, and its new
            one; with what spreadsheets write between them, such as ``;``. Classes with one new
            name are merged; with an empty one a class is left out.

        Raises
        ------
        SourceError
            The file cannot be read, lists a class twice, or renames a new name again.
        """
        path = as_path(path, "classes")
        names: dict[str, str] = {}
        for number, row in enumerate(_rows(path), start=2):
            if len(row) != len(COLUMNS) or not row[0]:
                raise SourceError(
                    f"{path}: row {number} is not the name of a class and its new one; {_REMEDY}"
                )
            if row[0] in names:
                raise SourceError(f"{path}: lists {shown(row[0])} twice; list each class once")
            names[row[0]] = row[1]
        for old, new in names.items():
            if names.get(new, new) != new:
                raise SourceError(
                    f"{path}: renames {shown(old)} to {shown(new)}, which it renames too; give the "
                    "last name of each class"
                )
        if not names:
            raise SourceError(f"{path}: lists no class, so leave classes='FILE' out")
        return cls(path, names)

    @classmethod
    def of_head(cls, path: Path, info: HeadInfo) -> ClassMap | None:
        """Return the names that the training of a head gave to classes, None without any."""
        recorded = info.training.get(ENTRY)
        if not isinstance(recorded, dict) or not recorded:
            return None
        names = {name: str(new) for name, new in recorded.items() if name not in info.labels}
        return cls(path, names, is_checked=False)

    def renamed(
        self, names: Sequence[str], labels: NDArray[np.int32]
    ) -> tuple[list[str], NDArray[np.int32], list[str]]:
        """Return names and labels of images with the new names.

        Parameters
        ----------
        names : sequence of str
            The classes.
        labels : ndarray of int32, shape (n_rows,)
            Indices into `names`, −1 for an image without a label.

        Returns
        -------
        names : list of str
            The new names, each once.
        labels : ndarray of int32, shape (n_rows,)
            Indices into these; −1 for images of classes that are left out, too.
        notes : list of str
            Reports what was renamed, merged and left out.

        Raises
        ------
        SourceError
            A listed class is not among `names`.
        """
        import numpy as np

        unknown = [name for name in self.names if name not in set(names)]
        if unknown and self.is_checked:
            raise SourceError(
                f"{self.path}: lists {listed(unknown)}, but the classes are {listed(list(names))}; "
                "correct the column from"
            )
        new_names = [self.names.get(name, name) for name in names]
        kept = [name for name in dict.fromkeys(new_names) if name]
        if self.is_checked:
            self._refuse_case_twins(kept)
        numbers = {name: number for number, name in enumerate(kept)}
        columns = np.array([*(numbers.get(name, -1) for name in new_names), -1], np.int32)
        return kept, columns[labels], self._notes(names, new_names)

    def apply(self, store: Any) -> list[str]:
        """Give the classes of an open `CodeStore` their new names; return the notes."""
        names, labels, notes = self.renamed(store.class_names, store.labels)
        store.class_names, store.labels = names, labels
        return notes

    def _refuse_case_twins(self, names: Sequence[str]) -> None:
        """Refuse a new name such as Cat beside cat, as `find_images` does."""
        made = {new.casefold() for new in self.names.values()}
        for alike in case_twins(names):
            if alike[0].casefold() in made:
                raise SourceError(
                    f"{self.path}: makes the classes {' and '.join(shown(name) for name in alike)},"
                    " which differ only in case or in the form of letters; correct the column to"
                )

    def _notes(self, names: Sequence[str], new_names: list[str]) -> list[str]:
        members: dict[str, list[str]] = {}
        for old, new in zip(names, new_names, strict=True):
            members.setdefault(new, []).append(old)
        left_out = members.pop("", [])
        renamed = [
            f"{old[0]} to {new}" for new, old in members.items() if len(old) == 1 and old != [new]
        ]
        merged = [f"{' and '.join(old)} to {new}" for new, old in members.items() if len(old) > 1]
        notes = []
        for what, which in (("renamed", renamed), ("merged", merged)):
            if which:
                notes.append(f"classes {what} by {self.path.name}: {listed(which)}")
        if left_out:
            notes.append(
                f"classes left out by {self.path.name}, whose images count as without a label: "
                f"{listed(left_out)}"
            )
        return notes


def recorded_names(info: HeadInfo, names: Sequence[str]) -> list[str]:
    """Return names of classes as those of a head, whose training may have renamed them."""
    recorded = ClassMap.of_head(Path(), info)
    return list(names) if recorded is None else [recorded.names.get(n) or n for n in names]


def _rows(path: Path) -> list[list[str]]:
    """Return the cells of a table after its header."""
    if check_filled(path, _REMEDY, error=SourceError).st_size > MAX_BYTES:
        raise SourceError(f"{path}: is too large for a table of classes; {_REMEDY}")
    try:
        text = path.read_text("utf-8-sig")
        delimiter = delimiter_of(text, COLUMNS) or ","
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        rows = [[normalize("NFC", cell.strip()) for cell in row] for row in reader]
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: is not a text file in UTF-8; {_REMEDY}") from error
    except (OSError, csv.Error) as error:
        raise SourceError(f"{path}: cannot be read ({error}); {_REMEDY}") from error
    # Spreadsheets write empty columns and rows that once held something.
    n_columns = max((i for row in rows for i, cell in enumerate(row, 1) if cell), default=0)
    cells = [row[: max(n_columns, len(COLUMNS))] for row in rows if any(row)]
    if not cells or [cell.casefold() for cell in cells[0]] != COLUMNS:
        raise SourceError(f"{path}: does not begin with the columns from,to; {_REMEDY}")
    return cells[1:]
