"""How much an image counts in training, and how probable its label is.

Both are columns of a CSV source. They are used in training and never in testing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from cnncodes.bounds import MAX_WEIGHT
from cnncodes.errors import SourceError
from cnncodes.text import shown

WEIGHT, PROBABILITY = "weight", "probability"
COLUMNS = (WEIGHT, PROBABILITY)


class Range(NamedTuple):
    """The values that a column may have.

    Attributes
    ----------
    has : callable
        Whether a number is one of them.
    text : str
        The same in words.
    """

    has: Callable[[float], bool]
    text: str


RANGES = {
    WEIGHT: Range(lambda value: 0 <= value <= MAX_WEIGHT, f"a number from 0 to {MAX_WEIGHT:,}"),
    PROBABILITY: Range(lambda value: 0 < value <= 1, "a number above 0 and at most 1"),
}


def parse_value(text: str, name: str, where: str, *, comma: bool) -> float | None:
    """Read a value of a column.

    Parameters
    ----------
    text : str
        As it is written.
    name : {"weight", "probability"}
        The column.
    where : str
        File and line, the beginning of an error.
    comma : bool
        Whether a comma may stand for the decimal point.

    Returns
    -------
    float or None
        The value; None where nothing is written.

    Raises
    ------
    SourceError
        It is no number of the column's range.
    """
    written = text.strip()
    if not written:
        return None
    try:
        value = float(written.replace(",", ".") if comma else written)
    except ValueError:
        value = math.nan
    if not RANGES[name].has(value):
        hint = ""
        if name == PROBABILITY and value == 0:
            hint = "; it is that of the image's own label, so label it with another class"
        raise SourceError(
            f"{where}: {name} must be {RANGES[name].text}, not {shown(written[:40])}{hint}"
        )
    return value


def filled(values: Iterable[float | None]) -> tuple[float, ...]:
    """Return a value for each image, 1 where it has none; nothing if no image has one."""
    values = list(values)
    if all(value is None for value in values):
        return ()
    return tuple(1.0 if value is None else value for value in values)
