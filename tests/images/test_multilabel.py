"""Tables whose images have more than one label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnncodes.errors import SourceError
from cnncodes.images.multilabel import from_matrix, label_numbers, label_texts, to_matrix
from cnncodes.images.sources import UNLABELLED, Source, find_images
from tests.helpers import write_images, write_table


def read(folder: Path, *lines: str) -> Source:
    return find_images(write_table(folder, "\n".join(lines)))


def test_labels_joined_by_semicolons(tmp_path: Path) -> None:
    source = read(tmp_path, "path,label", "a.jpg,rust; dent", "b.jpg,dent", "c.jpg,;", "d.jpg,")
    assert source.class_names == ("dent", "rust")
    assert source.flags == ("11", "10", "00", "??")
    assert set(source.labels) == {UNLABELLED}
    assert source.class_counts() == {"dent": 2, "rust": 1}
    assert source.n_unlabelled == 1
    several, joined = source.notes
    assert several == "more than one label per image: 2 labels, 0.8 per image"
    assert joined.startswith("the label of 1 image joins several with ;, such as rust; dent: ")


@pytest.mark.parametrize("first", ["cat;", ";"])
def test_one_semicolon_makes_labels_of_all(tmp_path: Path, first: str) -> None:
    source = read(tmp_path, "path,label", f"a.jpg,{first}", "b.jpg,cat", "c.jpg,dog", "d.jpg,;")
    assert source.class_names == ("cat", "dog")
    assert source.flags == ("10" if "cat" in first else "00", "10", "01", "00")
    assert source.notes[0].startswith("more than one label per image: 2 labels")


def test_columns_of_labels(tmp_path: Path) -> None:
    source = read(
        tmp_path, "Path,Label:Rust,label:dent,note", "a.jpg,1,0,x", "b.jpg,,1.0,y", "c.jpg,0.0,0"
    )
    assert source.class_names == ("Rust", "dent")
    assert source.flags == ("10", "?1", "00")
    assert "1 column not used: note" in source.notes[0]
    assert source.notes[1] == "more than one label per image: 2 labels, 0.7 per image"


def test_table_without_columns_of_labels_is_read_by_its_zeros_and_ones(tmp_path: Path) -> None:
    source = read(
        tmp_path,
        "path,id,Rust,weight,dent,blank",
        "a.jpg,1,1,1,0,",
        "b.jpg,2,,1,1,",
    )
    assert source.class_names == ("Rust", "dent")
    assert source.flags == ("10", "?1")
    assert source.notes[0].startswith("no column label: the columns with nothing but 0 and 1")
    assert source.notes[0].endswith(": Rust, dent")


@pytest.mark.parametrize("prefix", ["", "label:"])
def test_columns_of_true_and_false(tmp_path: Path, prefix: str) -> None:
    source = read(tmp_path, f"path,{prefix}a,{prefix}b", "1.png,True,FALSE", "2.png,,true")
    assert source.class_names == ("a", "b")
    assert source.flags == ("10", "?1")


def test_semicolons_between_values_are_no_labels(tmp_path: Path) -> None:
    source = read(tmp_path, "path;label", "a.jpg;cat", "b.jpg;dog")
    assert source.flags == ()
    assert source.labels == (0, 1)
    assert source.notes == ()


def test_folder_with_a_semicolon_is_one_class(tmp_path: Path) -> None:
    write_images(tmp_path, "a;b/1.png", "c/1.png")
    source = find_images(tmp_path)
    assert source.class_names == ("a;b", "c")
    assert source.flags == ()
    assert "look like several labels in one" in source.notes[0]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (("path,label:a", "x.jpg,2"), "line 2: the column of the label a must have 1, 0, or"),
        (("path,label,label:a", "x.jpg,b,1"), "has a column label and columns such as label:a"),
        (("path,label:a,label: a", "x.jpg,1,1"), "two columns of labels have one name"),
        (("path,label:", "x.jpg,1"), "two columns of labels have one name"),
        (("path,a", "x.jpg,3"), "has no column label"),
        (("path,a", "x.jpg,0"), "has no column label"),
        (("path,a,b", "x.jpg,x,"), "or has a column of 1, 0 or nothing for each label"),
        (("label:a", "1"), "has no column path"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, lines: tuple[str, ...], reason: str) -> None:
    with pytest.raises(SourceError, match=r"list\.csv") as caught:
        read(tmp_path, *lines)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.lists(st.text("01?", min_size=3, max_size=3), min_size=1, max_size=20))
def test_matrix_holds_what_it_was_made_from(flags: list[str]) -> None:
    matrix = to_matrix(flags, 3)
    assert matrix.dtype == np.uint8
    assert from_matrix(matrix) == flags
    assert sum(number >= 0 for number in label_numbers(flags)) == (matrix == 1).sum()
    assert len(set(label_texts([], "abc", flags))) == len(set(flags))
