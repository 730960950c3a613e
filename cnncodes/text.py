"""Text for messages: names of files and classes may hold any character."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

NAMES_LISTED, NAME_LENGTH = 3, 80
_FORMULA = re.compile(r"[=+@-](?![\d.]*$)")  # -1 is a number, and - standard input


def shown(text: str) -> str:
    """Escape control characters and undecodable bytes, which a terminal must not get."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or the name of its type where it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def shortened(text: str, most: int) -> str:
    """Return a text, cut off after `most` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def listed(names: Sequence[str]) -> str:
    """Return the first names, each shortened, with an ellipsis if there are more."""
    first = [shortened(name, NAME_LENGTH) for name in names[:NAMES_LISTED]]
    return ", ".join(first) + (", …" if len(names) > NAMES_LISTED else "")


def similar(name: str, names: Iterable[str]) -> list[str]:
    """Return up to 3 of the names that are spelt like a name in any case, the nearest first."""
    from difflib import get_close_matches  # only for errors

    return get_close_matches(name.lower(), names, n=3, cutoff=0.6)


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number and its noun, in the plural where it is not 1."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def class_nouns(*, several: bool) -> tuple[str, str]:
    """Return the noun of a class, which is a label where images may have several; and its plural.

    For `counted`.
    """
    return ("label", "labels") if several else ("class", "classes")


def views_text(n_images: int, n_views: int) -> str:
    """Return a number of images, and of the views of each where there are several."""
    images = counted(n_images, "image")
    return images if n_views == 1 else f"{images} × {n_views} views"


def csv_cell(text: str) -> str:
    """Escape text for a CSV file, with an apostrophe before what a spreadsheet would compute."""
    return f"'{shown(text)}" if _FORMULA.match(text) else shown(text)


def normalized(name: str) -> str:
    """Return a name stripped of blanks, in composed Unicode (NFC).

    macOS writes decomposed names, other systems composed ones; both look the same.
    """
    return unicodedata.normalize("NFC", name.strip())


def case_twins(names: Iterable[str]) -> list[list[str]]:
    """Return the names that differ in case alone, such as Cat and cat, together."""
    spellings: dict[str, list[str]] = {}
    for name in names:
        spellings.setdefault(name.casefold(), []).append(name)
    return [alike for alike in spellings.values() if len(alike) > 1]


def value_text(value: Any) -> str:
    """Format a value of JSON types as one line; control characters are escaped."""
    if isinstance(value, float):
        return f"{value:g}" if value.is_integer() else f"{value:.4g}"  # 10000, not 1e+04
    if isinstance(value, dict):
        return ", ".join(
            f"{shown(key)} ({value_text(each)})"
            if isinstance(each, dict)
            else f"{shown(key)} {value_text(each)}"
            for key, each in value.items()
            if each is not None
        )
    if isinstance(value, list):
        return ", ".join(value_text(each) for each in value)
    return shown(value) if isinstance(value, str) else json.dumps(value)
