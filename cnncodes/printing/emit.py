"""Results as text or JSON, and notes on standard error."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, is_dataclass
from typing import Any, TypeVar

import click

from cnncodes.models.description import is_random
from cnncodes.streams import write_as_utf8
from cnncodes.text import shown

Result = TypeVar("Result")


def print_json(value: Any) -> None:
    """Print a value as JSON; other types, such as paths, as text."""
    write_as_utf8()
    click.echo(json.dumps(value, default=str, indent=2))


def emit(
    result: Result,
    as_json: bool,
    print_text: Callable[[Result], None],
    to_json: Callable[[Result], Any] | None = None,
) -> None:
    """Print the result of a command for people, or as JSON.

    Parameters
    ----------
    result : object
        A dataclass, a list of dataclasses or JSON types.
    as_json : bool
        Whether JSON is asked for.
    print_text : callable
        Prints the result for people.
    to_json : callable, optional
        Returns the result as JSON types, where its fields are not what is printed.
    """
    if not as_json:
        print_text(result)
    elif to_json is not None:
        print_json(to_json(result))
    else:
        print_json(_plain(result))


def _plain(result: Any) -> Any:
    if isinstance(result, list):
        return [_plain(each) for each in result]
    return asdict(result) if is_dataclass(result) and not isinstance(result, type) else result


def print_note(note: str) -> None:
    """Print a note on standard error, beside a result on standard output."""
    click.echo(f"note: {shown(note)}", err=True)


def caution(weights: str) -> str:
    """Mark metrics of random weights, which do not carry over to trained ones."""
    return "  (random weights)" if is_random(weights) else ""


def shape_text(shape: Iterable[int]) -> str:
    """Write the lengths of the axes of an array with a multiplication sign."""
    return " × ".join(map(str, shape))
