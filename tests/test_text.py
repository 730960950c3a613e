from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnncodes.text import listed, shortened, shown


def test_escapes_what_a_terminal_must_not_get() -> None:
    assert shown("a\nb\x1b[31m\udcff\u202e") == "a\\nb\\x1b[31m\\udcff\\u202e"


def test_leaves_what_people_write() -> None:
    assert shown("Käse 猫.jpg") == "Käse 猫.jpg"


@given(st.text(st.characters()))
def test_whatever_comes_is_printable(text: str) -> None:
    assert shown(text).isprintable()


@pytest.mark.parametrize(
    ("names", "expected"),
    [([], ""), (["a"], "a"), (["a", "b", "c"], "a, b, c"), (["a", "b", "c", "d"], "a, b, c, …")],
)
def test_only_the_first_names_are_listed(names: list[str], expected: str) -> None:
    assert listed(names) == expected


def test_long_texts_are_cut_off() -> None:
    assert shortened("abc", 3) == "abc"
    assert shortened("abcd", 3) == "ab…"
    assert listed(["a" * 4096, "b"]) == "a" * 79 + "…, b"
