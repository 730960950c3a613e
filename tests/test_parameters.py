from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cnncodes.errors import ParameterError
from cnncodes.parameters import as_count, as_path, as_paths


class BytesPath:
    def __fspath__(self) -> bytes:
        return b"f\xff"


def test_paths_of_any_kind_are_paths() -> None:
    assert as_path("a/b", "path") == Path("a/b")
    assert as_path(Path("a/b"), "path") == Path("a/b")
    assert as_path(np.str_("a/b"), "path") == Path("a/b")
    assert os.fsencode(as_path(BytesPath(), "path")) == b"f\xff"


@pytest.mark.parametrize("value", [None, 3, b"a", ["a"], object()], ids=repr)
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


def test_counts_are_whole_and_above_0() -> None:
    assert as_count(3, "top") == 3
    assert type(as_count(np.int64(3), "top")) is int
    for value in (0, -1):
        with pytest.raises(ParameterError, match=f"top must be 1 or more, not {value}"):
            as_count(value, "top")
    for value in (1.0, "1", None):
        with pytest.raises(ParameterError, match="top must be a whole number, not "):
            as_count(value, "top")
