"""Text from elsewhere, made fit to be shown: names of files and classes may hold anything."""

from __future__ import annotations

from collections.abc import Sequence

NAMES_LISTED = 3


def shown(text: str) -> str:
    """Escape what a terminal must not be sent: control characters and undecodable bytes."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def listed(names: Sequence[str]) -> str:
    """List the first names, and tell where there are more."""
    return ", ".join(names[:NAMES_LISTED]) + (", …" if len(names) > NAMES_LISTED else "")
