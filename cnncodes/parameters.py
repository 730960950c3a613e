"""The parameters of public functions, checked before any work.

Each number has one range, for all functions and the command line: wider than anyone needs, and
narrow enough that every value in it can be computed and stored.
"""

from __future__ import annotations

import numbers
import operator
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnncodes.bounds import NORMALIZATIONS
from cnncodes.errors import ParameterError
from cnncodes.text import similar

MAX_SHOWN_BITS = 128
VIEWS = {"none": 1, "hflip": 2, "hvflip": 4, "d4": 8}  # views of an image, by augmentation


def as_path(value: Any, name: str) -> Path:
    """Return a value as a path.

    Parameters
    ----------
    value : str or os.PathLike
        The value. Bytes are refused: some functions take them as the content of a file.
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
    """Return values as paths, one by one.

    Parameters
    ----------
    values : iterable of str or os.PathLike
        The values. A single path is refused: a str would be split into its characters.
    name : str
        The parameter, named in errors.

    Returns
    -------
    iterator of Path
        The paths. It raises ParameterError at a value of another type.

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


def one_or_more_paths(value: Any, name: str) -> list[Path]:
    """Return a path, or several of them, as a list that is not empty.

    Raises
    ------
    ParameterError
        A value is no path, or there is none.
    """
    if isinstance(value, str | bytes | os.PathLike) or not isinstance(value, Iterable):
        return [as_path(value, name)]
    paths = list(as_paths(value, name))
    if not paths:
        raise ParameterError(f"{name} must name one file or more")
    return paths


def check_choice(value: Any, choices: Sequence[str], name: str) -> str:
    """Return a value if it is one of `choices`.

    Parameters
    ----------
    value : str
        The value.
    choices : sequence of str
        The allowed values.
    name : str
        The parameter, named in the error.

    Returns
    -------
    str
        The same value.

    Raises
    ------
    ParameterError
        It is another value, or no str.
    """
    if not isinstance(value, str) or value not in choices:
        words = [repr(each) for each in choices]
        wanted = " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
        near = similar(value, choices) if isinstance(value, str) else []
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise ParameterError(f"{name} must be {wanted}, not {value!r:.40}{meant}")
    return value


def check_class_weight(class_weight: Any) -> str | None:
    """Return a weighting of classes: ``"balanced"``, or None, which stands for equal weights.

    Raises
    ------
    ParameterError
        It is neither.
    """
    if class_weight is None:
        return None
    return check_choice(class_weight, ("balanced",), "class_weight")


@dataclass(frozen=True)
class Whole:
    """A range of whole numbers.

    Attributes
    ----------
    least, most : int
        Its bounds, inclusive.
    """

    least: int
    most: int

    def __contains__(self, number: int) -> bool:
        """Whether a number is in the range."""
        return self.least <= number <= self.most

    def check(self, value: Any, name: str) -> int:
        """Return a value as a number of this range.

        Parameters
        ----------
        value : int
            The value; may be an integer of numpy.
        name : str
            The parameter, named in the error.

        Returns
        -------
        int
            The same number.

        Raises
        ------
        ParameterError
            It is out of range, or no whole number. A bool is refused.
        """
        # Older releases of numpy take a bool of theirs for an index, with a warning.
        is_bool = type(value).__name__ in ("bool", "bool_")
        try:
            number = None if is_bool else operator.index(value)
        except TypeError:
            number = None
        if number is None:
            raise ParameterError(f"{name} must be a whole number, not {type(value).__name__}")
        if number not in self:
            ends = f"from {self.least:,} to {self.most:,}"
            raise ParameterError(f"{name} must be {ends}, not {_shown(number)}")
        return number

    def check_or_none(self, value: Any, name: str) -> int | None:
        """Return a number as `check` does, or None, which stands for a default."""
        return None if value is None else self.check(value, name)

    def check_each(self, values: Any, name: str) -> tuple[int, ...]:
        """Return values as numbers of this range, sorted and each once.

        Parameters
        ----------
        values : iterable of int
            The value.
        name : str
            The parameter, named in the error.

        Returns
        -------
        tuple of int
            One or more.

        Raises
        ------
        ParameterError
            There are none, or `check` refuses one.
        """
        if isinstance(values, str | bytes) or not isinstance(values, Iterable):
            raise ParameterError(f"{name} must be a list of numbers, not {type(values).__name__}")
        checked = tuple(sorted({self.check(each, f"each of {name}") for each in values}))
        if not checked:
            raise ParameterError(f"{name} must hold a number or more")
        return checked


@dataclass(frozen=True)
class Real:
    """A range of numbers.

    Attributes
    ----------
    least, most : float
        Its bounds.
    least_open, most_open : bool
        Whether that bound is exclusive.
    """

    least: float
    most: float
    least_open: bool = False
    most_open: bool = False

    def __contains__(self, number: Any) -> bool:
        """Whether a number is in the range; NaN is not."""
        above = self.least < number if self.least_open else self.least <= number
        return bool(above and (number < self.most if self.most_open else number <= self.most))

    def check(self, value: Any, name: str) -> float:
        """Return a value as a number of this range.

        Parameters
        ----------
        value : float
            The value; may be an int or a number of numpy.
        name : str
            The parameter, named in the error.

        Returns
        -------
        float
            The same number.

        Raises
        ------
        ParameterError
            It is out of range, NaN, or no number. A bool is refused.
        """
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise ParameterError(f"{name} must be a number, not {type(value).__name__}")
        if value not in self:
            raise ParameterError(f"{name} must be {self}, not {_shown(value)}")
        return float(value)

    def __str__(self) -> str:
        lower = "above" if self.least_open else "at least"
        upper = "below" if self.most_open else "at most"
        return f"{lower} {self.least:g} and {upper} {self.most:g}"


def _shown(number: Any) -> str:
    """Return a number as text; Python refuses to convert a very large one."""
    if isinstance(number, int) and number.bit_length() > MAX_SHOWN_BITS:
        return f"a number of {number.bit_length():,} bits"
    return f"{number}"


COUNT = Whole(1, 10**9)  # of images or classes
SEED = Whole(0, 2**32 - 1)  # what numpy, scikit-learn and Keras accept
THREADS = Whole(1, 1024)
PORT = Whole(0, 65_535)
MAX_PIXELS = Whole(1, 10**12)
PARTS = Whole(1, 1_000_000)  # of a source
WHITE = Whole(1, 2**16 - 1)  # of 16 bits
INPUT_SIZE = Whole(32, 4096)  # pixels; some networks need more than 32
CODE_POOLS = ("none", "avg", "max", "avg+max", "grid2")  # described in models.pooling
CALIBRATION_IMAGES = Whole(8, 100_000)
NETWORK_BATCH = Whole(1, 4096)  # images
FIXED_BATCH = Whole(1, 256)  # images; fewer than that are filled up
SECONDS = Real(0, 86_400, least_open=True)
SHARE = Real(0, 1, most_open=True)
SIMILARITY = Real(0, 1, least_open=True)  # a cosine
REFUSED_SHARE = Real(0.001, 0.5)
TRAIN_FRACTION = Real(0, 1, least_open=True, most_open=True)
STANDARDIZE = "standardize"
# What a head may do to codes. Standardization is not in its graph, but in its weights.
WAYS = (*NORMALIZATIONS, STANDARDIZE, f"sqrt+{STANDARDIZE}")
VALIDATION_FRACTION = Real(0, 0.5)
TRAIN_SHARE = Real(0, 1, least_open=True)  # 1 where cross-validation measures
DRAWS = Whole(1, 1000)
# On points of mean squared length one. Logits differ by about C where it is small: below, that is
# what float32 rounds, and from 1e-38 on the penalty overflows. Above, weights no longer grow: the
# fit ends in the rounding of float32.
STRENGTH = Real(1e-6, 1e8)
# On points of any length.
STRENGTH_UNSCALED = Real(1e-30, 1e30)
EPOCHS = Whole(1, 10**6)
DESCENT_BATCH = Whole(1, 10**6)
# What float32 holds: descent itself finds out whether it diverges.
LEARNING_RATE = Real(1e-38, 3e38)
L2 = Real(0, 3e38)


def check_part(part: Any) -> tuple[int, int]:
    """Return the number of a part, from 1, and how many parts there are.

    Raises
    ------
    ParameterError
        It is no pair of whole numbers, or there is no such part.
    """
    if not isinstance(part, Sequence) or isinstance(part, str | bytes) or len(part) != 2:
        raise ParameterError(f"part must be two numbers such as (3, 8), not {part!r:.40}")
    count = PARTS.check(part[1], "the number of parts in part")
    number = PARTS.check(part[0], "the first number in part")
    if number > count:
        raise ParameterError(
            f"part must be one of (1, {count}) to ({count}, {count}), not ({number}, {count})"
        )
    return number, count
