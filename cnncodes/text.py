"""Text from elsewhere, made fit to be shown: names of files and classes may hold anything."""

from __future__ import annotations


def shown(text: str) -> str:
    """Escape what a terminal must not be sent: control characters and undecodable bytes."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )
