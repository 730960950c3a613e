"""Images that the commands leave out or keep together, by a list of paths."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cnncodes import CodeStore
from cnncodes.errors import SourceError
from cnncodes.head.groups import groups_of
from cnncodes.head.split import split_by_class
from cnncodes.images.path_lists import PathList
from tests.helpers import info_of, write_codes

TABLE = "a,b,kind,score\n0.png,2.png,same,1.0000\n0.png,4.png,near,0.9000\n"


def write(path, text):
    path.write_text(text, "utf-8")
    return path


@pytest.fixture
def codes(tmp_path):
    """Two classes of 40 images of noise: each second image of a class is nearly the one before."""
    X = np.random.default_rng(0).standard_normal((80, 200)).astype(np.float32)
    X[2::4], X[3::4] = X[::4] + 0.01, X[1::4] + 0.01
    return write_codes(tmp_path / "codes.h5", X, np.arange(80) % 2)


@pytest.fixture
def pairs(tmp_path):
    rows = [f"{row}.png,{row + 2}.png,near,0.99" for row in range(80) if row % 4 < 2]
    return write(tmp_path / "pairs.csv", "\n".join(["a,b,kind,score", *rows, ""]))


def test_column_b_of_a_table_and_each_line_of_a_list_are_meant(tmp_path):
    paths = [f"{row}.png" for row in range(6)]
    table = PathList(write(tmp_path / "overlap.csv", TABLE), "exclude")
    assert table.among(paths) == [2, 4]
    assert table.pairs_among(paths) == [(0, 2), (0, 4)]
    plain = PathList(write(tmp_path / "list.txt", "3.png\n\n 1.png \nother.png\n"), "exclude")
    assert plain.among(paths) == [1, 3]
    assert plain.note(2) == "2 images of the list list.txt are left out; 1 other of it is not here"


def test_list_may_have_backslashes_as_on_windows(tmp_path):
    paths = ["a/0.png", "a/b c/1.png", "a/2.png", "b\\3.png"]
    listing = PathList(write(tmp_path / "list.txt", "a\\b c\\1.png\r\nb\\3.png\r\n"), "exclude")
    assert listing.among(paths) == [1, 3]
    assert listing.note(2) == "2 images of the list list.txt are left out"


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_table_is_read_as_spreadsheets_save_it_again(tmp_path, delimiter):
    text = "\ufeff" + TABLE.replace(",", delimiter).replace("\n", "\r\n")
    paths = [f"{row}.png" for row in range(6)]
    table = PathList(write(tmp_path / "overlap.csv", text), "exclude")
    assert table.among(paths) == [2, 4]
    assert table.pairs_among(paths) == [(0, 2), (0, 4)]


def test_names_that_a_table_escapes_are_recognised(tmp_path):
    table = write(tmp_path / "overlap.csv", 'a,b,kind,score\nx,"\'=1,\\n.png",same,1\n')
    assert PathList(table, "exclude").among(["y.png", "=1,\n.png"]) == [1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ("\n \n", "names no image"),
        ("a,b,kind,score\n", "names no image, so leave --exclude FILE out"),
        ("absent.png\n", "such as absent.png, is in this source; write paths as they are in the"),
        ("a,b\n0.png,absent.png\n", "such as absent.png, is in this source; of an overlap.csv"),
        (b"\xff\xfe\x00", "not a text file in UTF-8"),
    ],
)
def test_useless_list_is_refused(tmp_path, codes, run, content, message):
    path = tmp_path / "list"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    error = run("train", codes, "-o", tmp_path / "h.onnx", "--exclude", path, exit_code=1).stderr
    assert message in error


def test_pairs_of_another_source_are_refused(tmp_path):
    with pytest.raises(SourceError, match="none of its 2 pairs is within this source"):
        PathList(write(tmp_path / "overlap.csv", TABLE), "keep_together").pairs_among(["2.png"])
    with pytest.raises(SourceError, match="has no pairs of images"):
        PathList(write(tmp_path / "list.txt", "2.png"), "keep_together").pairs_among(["2.png"])


def test_train_leaves_the_images_out(tmp_path, codes, pairs, run):
    options = ("-o", tmp_path / "head.onnx", "--exclude", pairs, "--json")
    result = json.loads(run("train", codes, *options).stdout)
    assert result["train"]["n_images"] + result["test"]["n_images"] == 40
    assert result["notes"][0] == "40 images of the list pairs.csv are left out"
    assert result["test"]["accuracy"] < 0.9


def test_train_keeps_pairs_on_one_side(tmp_path, codes, pairs, run):
    head = tmp_path / "head.onnx"
    options = ("-o", head, "--keep-together", pairs, "--json")
    result = json.loads(run("train", codes, *options).stdout)
    assert result["train"]["n_images"] + result["test"]["n_images"] == 80
    assert result["notes"] == ["images of a pair of pairs.csv stay on one side of the split"]
    assert result["test"]["accuracy"] < 0.85, "with near copies on both sides it is higher"
    with CodeStore.open(codes) as store:
        groups = groups_of(store, PathList(pairs, "keep_together"))
        assert (groups[2::4] == groups[::4]).all()
        assert len(np.unique(groups)) == 40
        parts = split_by_class(store.labels, **info_of(head).training["split"], groups=groups)
    assert not set(groups[parts.train]) & set(groups[parts.test])
    assert len(parts.train) == result["train"]["n_images"]
    with pairs.open("a") as file:
        file.write("gone.png,0.png\n")
    result = json.loads(run("train", codes, *options, "--overwrite").stdout)
    assert result["notes"] == [
        "images of a pair of pairs.csv stay on one side of the split; 1 of its 41 pairs is not "
        "within these images"
    ]


def test_curve_has_both(tmp_path, codes, pairs, run):
    for option, n_test in (("--exclude", 12), ("--keep-together", 24)):
        output = ("-o", tmp_path / f"{option}.json", "--per-class", "4", "--seeds", 1, "--json")
        (curve,) = json.loads(run("curve", codes, option, pairs, *output).stdout)["curves"]
        assert curve["n_test"] == n_test


def test_evaluate_leaves_the_images_out(tmp_path, codes, pairs, run):
    head = tmp_path / "head.onnx"
    run("train", codes, "-o", head)
    options = ("--exclude", pairs, "--include-training", "--json")
    result = json.loads(run("evaluate", head, codes, *options).stdout)
    assert result["figures"]["n_images"] == 40
    assert "40 images of the list pairs.csv are left out" in result["notes"]


def test_quantize_leaves_the_images_out(tmp_path, small_backbone, photos, run):
    paths = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.png"))
    excluded = write(tmp_path / "list.txt", "\n".join(paths[16:]))
    options = ("-o", tmp_path / "int8.onnx", "--exclude", excluded, "--json")
    result = json.loads(run("quantize", small_backbone, "--images", photos, *options).stdout)
    assert result["n_calibration"] == 8
    assert any("of the list list.txt are left out" in note for note in result["notes"])
