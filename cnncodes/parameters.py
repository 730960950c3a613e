"""What a program passes to a function, checked before anything is done with it."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cnncodes.errors import ParameterError


def as_path(value: Any, name: str) -> Path:
    """Return a path, refusing what is none.

    Parameters
    ----------
    value : str or os.PathLike
        What was passed. Not bytes, which are the content of a file in some places.
    name : str
        The parameter, named in the error.

    Returns
    -------
    Path
        The same path.

    Raises
    ------
    ParameterError
        It is of another type.
    """
    if not isinstance(value, str | os.PathLike):
        raise ParameterError(f"{name} must be a str or a Path, not {type(value).__name__}")
    return Path(os.fsdecode(value))


def as_paths(values: Any, name: str) -> Iterator[Path]:
    """Return paths one by one, refusing what are none.

    Parameters
    ----------
    values : iterable of str or os.PathLike
        What was passed. A single path is refused, since a str would give its letters.
    name : str
        The parameter, named in errors.

    Returns
    -------
    iterator of Path
        The same paths. It raises ParameterError where it comes to something else.

    Raises
    ------
    ParameterError
        It is a single path, or not iterable.
    """
    if isinstance(values, str | bytes | os.PathLike):
        raise ParameterError(f"{name} must be several paths, not one; put it into a list")
    if not isinstance(values, Iterable):
        raise ParameterError(f"{name} must be a list of paths, not {type(values).__name__}")
    return (as_path(each, f"each of {name}") for each in values)


def as_count(value: Any, name: str) -> int:
    """Return a whole number, refusing one below 1 and what is none.

    Parameters
    ----------
    value : int
        What was passed; an integer of numpy will do.
    name : str
        The parameter, named in the error.

    Returns
    -------
    int
        The same number.

    Raises
    ------
    ParameterError
        It is below 1, or of another type.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise ParameterError(f"{name} must be a whole number, not {type(value).__name__}") from None
    if number < 1:
        raise ParameterError(f"{name} must be 1 or more, not {number}")
    return number
