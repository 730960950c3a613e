"""Options whose text is checked when it is parsed: numbers by the ranges of `parameters`, files."""

from __future__ import annotations

import math
import os
from typing import Any

import click

from cnncodes.parameters import STRENGTH, Real, Whole


def whole(among: Whole) -> click.IntRange:
    """Return the type of an option that is a whole number of a range."""
    return click.IntRange(among.least, among.most)


class Number(click.FloatRange):
    """A number of a range; click itself lets NaN through.

    Parameters
    ----------
    among : Real
        The range.
    """

    def __init__(self, among: Real) -> None:
        super().__init__(among.least, among.most, among.least_open, among.most_open)

    def convert(self, value: Any, param: Any, ctx: click.Context | None) -> float:
        """Turn what was typed into a number."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a valid number", param, ctx)
        return number


class OutputPath(click.Path):
    """A file to write: `pathlib` drops a slash at the end, which only a folder can have."""

    def convert(self, value: Any, param: Any, ctx: click.Context | None) -> Any:
        """Turn what was typed into a path."""
        text = os.fsdecode(value)
        if text.endswith((os.sep, os.altsep or os.sep)):
            self.fail(f"{text!r} names a folder; name a file", param, ctx)
        return super().convert(value, param, ctx)


class Strength(click.ParamType):  # type: ignore[type-arg]
    """A number of `STRENGTH`, or ``auto``."""

    name = "auto|number"

    def convert(self, value: Any, param: Any, ctx: click.Context | None) -> Any:
        """Turn what was typed into a number."""
        if value == "auto":
            return value
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if number not in STRENGTH:
            ends = f"from {STRENGTH.least:g} to {STRENGTH.most:g}"
            self.fail(f"{value!r} is neither auto nor a number {ends}", param, ctx)
        return number


class Sizes(click.ParamType):  # type: ignore[type-arg]
    """Whole numbers of a range, separated by commas; sorted, each once.

    Parameters
    ----------
    among : Whole
        The range.
    """

    name = "N,N,…"

    def __init__(self, among: Whole) -> None:
        self._among = among

    def convert(self, value: Any, param: Any, ctx: click.Context | None) -> Any:
        """Turn what was typed into numbers."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = {int(each) for each in value.split(",")}
        except ValueError:
            numbers = set()
        if not numbers or not all(number in self._among for number in numbers):
            ends = f"from {self._among.least:,} to {self._among.most:,}"
            wanted = f"whole numbers {ends}, such as 5,10,20"
            self.fail(f"{value!r} is not a list of {wanted}", param, ctx)
        return tuple(sorted(numbers))
