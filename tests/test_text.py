from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cnncodes.text import shown


def test_escapes_what_a_terminal_must_not_get() -> None:
    assert shown("a\nb\x1b[31m\udcff\u202e") == "a\\nb\\x1b[31m\\udcff\\u202e"


def test_leaves_what_people_write() -> None:
    assert shown("Käse 猫.jpg") == "Käse 猫.jpg"


@given(st.text(st.characters()))
def test_whatever_comes_is_printable(text: str) -> None:
    assert shown(text).isprintable()
