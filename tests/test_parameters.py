from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from cnncodes.errors import ParameterError
from cnncodes.parameters import Real, Whole, as_path, as_paths, check_choice, check_class_weight


class BytesPath:
    def __fspath__(self) -> bytes:
        return b"f\xff"


def test_paths_of_any_kind_are_paths() -> None:
    assert as_path("a/b", "path") == Path("a/b")
    assert as_path(Path("a/b"), "path") == Path("a/b")
    assert as_path(np.str_("a/b"), "path") == Path("a/b")
    assert os.fsencode(as_path(BytesPath(), "path")) == b"f\xff"


@pytest.mark.parametrize(
    "value", [None, 3, b"a", ["a"], object()], ids=lambda each: type(each).__name__
)
def test_what_is_no_path_is_refused(value: object) -> None:
    with pytest.raises(ParameterError, match=r"^path must be a str or a Path, not "):
        as_path(value, "path")


@pytest.mark.parametrize("kind", [list, tuple, iter, np.array, dict.fromkeys])
def test_several_paths_of_any_kind(kind: type) -> None:
    assert list(as_paths(kind(["a", "b"]), "paths")) == [Path("a"), Path("b")]


@pytest.mark.parametrize("value", ["photo.jpg", b"photo.jpg", Path("photo.jpg")])
def test_one_path_is_not_several(value: object) -> None:
    with pytest.raises(ParameterError, match="paths must be several paths, not one"):
        as_paths(value, "paths")


@pytest.mark.parametrize("value", [None, 3])
def test_what_has_no_paths_is_refused(value: object) -> None:
    with pytest.raises(ParameterError, match="paths must be a list of paths, not "):
        as_paths(value, "paths")


def test_what_is_no_path_among_paths_is_refused() -> None:
    paths = as_paths(["a", None], "paths")
    assert next(paths) == Path("a")
    with pytest.raises(ParameterError, match="each of paths must be a str or a Path, not NoneType"):
        next(paths)


TOP = Whole(1, 10)
HALF_OPEN = Real(0, 1, least_open=True)


def test_whole_numbers_of_a_range_are_let_through() -> None:
    assert TOP.check(1, "top") == 1
    assert TOP.check(10, "top") == 10
    assert type(TOP.check(np.int64(3), "top")) is int
    assert TOP.check_or_none(None, "top") is None
    assert TOP.check_or_none(3, "top") == 3


@pytest.mark.parametrize("value", [0, -1, 11, np.int64(11), 2**64])
def test_whole_numbers_out_of_range_are_refused(value: int) -> None:
    with pytest.raises(ParameterError, match=f"^top must be from 1 to 10, not {value}$"):
        TOP.check(value, "top")


@pytest.mark.parametrize("value", [1.0, "1", None, True, np.True_, np.array([1, 2])])
def test_what_is_no_whole_number_is_refused(value: object) -> None:
    with pytest.raises(ParameterError, match=r"^top must be a whole number, not "):
        TOP.check(value, "top")


def test_a_number_too_long_to_be_written_out_is_refused_in_one_line() -> None:
    for among in (TOP, HALF_OPEN):
        with pytest.raises(ParameterError, match=r"not a number of 33,220 bits$"):
            among.check(10**10_000, "number")


def test_several_numbers_are_sorted_and_each_once() -> None:
    assert TOP.check_each([3, 1, np.int64(3)], "sizes") == (1, 3)
    assert TOP.check_each(iter([2]), "sizes") == (2,)
    for value in ((), [0], [1, "2"], "12", 3, None):
        with pytest.raises(ParameterError, match="sizes must "):
            TOP.check_each(value, "sizes")


@pytest.mark.parametrize("value", [1e-300, 1, 0.5, np.float32(0.5), Fraction(1, 4)])
def test_numbers_of_a_range_are_let_through(value: float) -> None:
    assert HALF_OPEN.check(value, "share") == value
    assert type(HALF_OPEN.check(value, "share")) is float


@pytest.mark.parametrize("value", [0, -0.0, 1.5, float("nan"), float("inf"), np.float32("nan")])
def test_numbers_out_of_range_are_refused(value: float) -> None:
    with pytest.raises(ParameterError, match=r"^share must be above 0 and at most 1, not "):
        HALF_OPEN.check(value, "share")


@pytest.mark.parametrize("value", ["0.5", None, True, 1j, np.array([0.5])])
def test_what_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(ParameterError, match=r"^share must be a number, not "):
        HALF_OPEN.check(value, "share")


def test_choices_are_named_in_the_error() -> None:
    assert check_choice("b", ("a", "b", "c"), "letter") == "b"
    with pytest.raises(ParameterError, match=r"^letter must be 'a', 'b' or 'c', not 'd'$"):
        check_choice("d", ("a", "b", "c"), "letter")
    with pytest.raises(ParameterError, match=r"not 'InceptionV3'; did you mean 'inception_v3'\?$"):
        check_choice("InceptionV3", ("vgg16", "inception_v3"), "name")
    with pytest.raises(ParameterError, match=r"^letter must be 'a', not \['a'\]$"):
        check_choice(["a"], ("a",), "letter")
    assert check_class_weight(None) is None
    assert check_class_weight("balanced") == "balanced"
    with pytest.raises(ParameterError, match=r"^class_weight must be 'balanced', not 'x'$"):
        check_class_weight("x")
