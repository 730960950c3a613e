"""Images with more than one label, as tables list them.

Either the values of the column ``label`` join labels with ``;``, or each label has a column of its
own, ``label:NAME``, with 1 or true, 0 or false, or nothing where it is unknown. A table without any
column of labels is read by its columns that hold nothing but these.

Inside cnncodes the labels of an image are a text with a character for each label: `HAS`, `LACKS`
or `UNKNOWN`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cnncodes.errors import SourceError
from cnncodes.text import listed, normalized, shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HAS, LACKS, UNKNOWN = "1", "0", "?"
UNKNOWN_VALUE = 255  # in the matrix of a codes file
SEPARATOR = ";"
PREFIX = "label:"
# pandas writes 1.0 and True, R and spreadsheets TRUE.
_VALUES = {"1": HAS, "1.0": HAS, "true": HAS, "0": LACKS, "0.0": LACKS, "false": LACKS, "": UNKNOWN}
_OTHERS = ("path", "label", "group", "weight", "probability")  # columns that are never a label's


@dataclass(frozen=True)
class LabelColumns:
    """The columns of a table that each hold one label.

    Attributes
    ----------
    indices : tuple of int
        The columns.
    names : tuple of str
        Their labels.
    notes : list of str
        What was assumed.
    """

    indices: tuple[int, ...]
    names: tuple[str, ...]
    notes: list[str]

    @classmethod
    def of(
        cls, source: Path, header: Sequence[str], rows: Callable[[], Iterable[Sequence[str]]]
    ) -> LabelColumns | None:
        """Return those of a table; None where it has none.

        Parameters
        ----------
        source : Path
            The table, named in errors.
        header : sequence of str
            The names of the columns.
        rows : callable
            Returns the values of each row, for a table without named columns of labels.

        Raises
        ------
        SourceError
            The columns contradict each other.
        """
        keys = [name.casefold() for name in header]
        indices = [index for index, key in enumerate(keys) if key.startswith(PREFIX)]
        names = [normalized(header[index][len(PREFIX) :]) for index in indices]
        notes = []
        if indices and "label" in keys:
            raise SourceError(
                f"{source}: has a column label and columns such as {shown(header[indices[0]])}; "
                "leave one kind of them"
            )
        if not indices and "label" not in keys and "path" in keys:
            indices = _of_zeros_and_ones(keys, rows())
            names = [normalized(header[index]) for index in indices]
            notes = [
                "no column label: the columns with nothing but 0 and 1 are labels, of which an "
                f"image may have several: {listed([shown(name) for name in names])}"
            ]
        if not indices:
            return None
        if "" in names or len(set(names)) < len(names):
            raise SourceError(f"{source}: two columns of labels have one name, or one has none")
        return cls(tuple(indices), tuple(names), notes)

    def read(self, values: Sequence[str], line: str) -> str:
        """Return the labels of a row as text; `line` is named in errors."""
        flags = []
        for index, name in zip(self.indices, self.names, strict=True):
            value = values[index].strip() if index < len(values) else ""
            flag = _VALUES.get(value.casefold())
            if flag is None:
                raise SourceError(
                    f"{line}: the column of the label {shown(name)} must have 1, 0, or nothing "
                    f"where it is unknown, not {value!r:.40}"
                )
            flags.append(flag)
        return "".join(flags)


def _of_zeros_and_ones(keys: Sequence[str], rows: Iterable[Sequence[str]]) -> list[int]:
    candidates = {index for index, key in enumerate(keys) if key and key not in _OTHERS}
    with_one = set()
    for values in rows:
        for index, value in enumerate(values):
            if index in candidates:
                flag = _VALUES.get(value.strip().casefold())
                if flag is None:
                    candidates.discard(index)
                elif flag == HAS:
                    with_one.add(index)
        if not candidates:
            break
    return sorted(candidates & with_one)


def split_label(label: str) -> list[str]:
    """Return the labels that a text joins with ``;``."""
    parts = (normalized(part) for part in label.split(SEPARATOR))
    return list(dict.fromkeys(part for part in parts if part))


def flags_of(label: str, names: Sequence[str]) -> str:
    """Return a label that may join several as text; of an image without one all are unknown."""
    if not label:
        return UNKNOWN * len(names)
    own = split_label(label)
    return "".join(HAS if name in own else LACKS for name in names)


def names_in(flags: str, names: Sequence[str]) -> str:
    """Return the labels of an image, and those that are unknown with a ``?``, as one text."""
    parts = [name for name, flag in zip(names, flags, strict=True) if flag == HAS]
    parts += [f"{name}?" for name, flag in zip(names, flags, strict=True) if flag == UNKNOWN]
    return f"{SEPARATOR} ".join(parts)


def label_texts(labels: Sequence[int], names: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Return the label of each image as text, "" for none; with `flags` all of its labels."""
    if flags:
        return [names_in(each, names) for each in flags]
    with_none = (*names, "")  # label -1 means none
    return [with_none[label] for label in labels]


def label_numbers(flags: Iterable[str]) -> Iterator[int]:
    """Yield the index of each label of each image; −1 for an image of which all are unknown."""
    for each in flags:
        if HAS in each:
            yield from (index for index, flag in enumerate(each) if flag == HAS)
        elif LACKS not in each:
            yield -1


def to_matrix(flags: Sequence[str], n_labels: int) -> NDArray[np.uint8]:
    """Return labels as numbers, (n_images, n_labels): 1, 0, or `UNKNOWN_VALUE`."""
    import numpy as np  # a table is listed without it

    text = np.frombuffer("".join(flags).encode("ascii"), np.uint8).reshape(-1, n_labels)
    return np.where(text == ord(UNKNOWN), UNKNOWN_VALUE, text - ord(LACKS)).astype(np.uint8)


def from_matrix(matrix: NDArray[np.uint8]) -> list[str]:
    """Return what `to_matrix` was made from."""
    import numpy as np

    text = np.where(matrix == UNKNOWN_VALUE, ord(UNKNOWN), matrix + ord(LACKS)).astype(np.uint8)
    return [row.tobytes().decode("ascii") for row in text]


def several_text(flags: Sequence[str], n_labels: int) -> str:
    """Describe the labels of images, such as ``12 labels, 1.8 per image``."""
    n_per_image = sum(each.count(HAS) for each in flags) / max(len(flags), 1)
    labels = "1 label" if n_labels == 1 else f"{n_labels:,} labels"
    return f"more than one label per image: {labels}, {n_per_image:.1f} per image"
