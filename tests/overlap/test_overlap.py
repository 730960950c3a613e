"""Copies between two collections and within one, through the command."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest

from cnncodes.errors import FileFormatError, SourceError
from cnncodes.overlap.overlap import find_overlap
from tests.helpers import write_codes
from tests.overlap.conftest import EDITS


def rows_of(folder):
    with (folder / "overlap.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def named(overlap):
    return [(overlap.a.paths[each.a], overlap.b.paths[each.b], each.kind) for each in overlap.pairs]


def test_each_edit_is_found_and_nothing_else(originals, copies, tmp_path, run):
    output = run("overlap", originals, copies, "-o", tmp_path / "found").stdout
    rows = rows_of(tmp_path / "found")
    assert {(row["a"], row["b"], row["kind"]) for row in rows} == {
        ("23.png", "equal.png", "same"),
        *((f"{2 * number:02}.png", f"{name}.jpg", "near") for number, name in enumerate(EDITS)),
    }
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert rows[0]["kind"] == "same"
    assert "9 pairs of copies, 1 of the same file and 8 near" in output


def test_order_of_the_collections_does_not_matter(originals, copies):
    there, back = find_overlap(originals, copies), find_overlap(copies, originals)
    assert {(a, b) for a, b, _ in named(there)} == {(b, a) for a, b, _ in named(back)}


def test_first_of_the_copies_in_one_collection_is_in_column_a(originals, run, tmp_path):
    for name in ("98.png", "99.png"):
        shutil.copy(originals / "05.png", originals / name)
    pairs = [("05.png", "98.png", "same"), ("05.png", "99.png", "same")]
    assert named(find_overlap(originals)) == pairs
    assert named(find_overlap(originals, originals)) == pairs
    result = json.loads(run("overlap", originals, "-o", tmp_path / "found", "--json").stdout)
    assert [(each["a"], each["b"], each["kind"]) for each in result["pairs"]] == pairs


def test_equal_files_are_not_doubted(originals, tmp_path):
    """Three copies of a file on both sides are nine pairs, of which three are listed."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for number in range(3):
            shutil.copy(originals / "05.png", tmp_path / folder / f"{number}.png")
    found = find_overlap(tmp_path / "a", tmp_path / "b")
    assert [each.kind for each in found.pairs] == ["same"] * 3
    assert found.notes == []


def test_images_of_one_colour_are_no_copies_of_each_other(tmp_path):
    from PIL import Image

    for name, colour in (("a.png", "white"), ("b.png", "black"), ("c.png", "red")):
        Image.new("RGB", (40, 30), colour).save(tmp_path / name)
    assert find_overlap(tmp_path).pairs == []


def test_unusable_images_are_reported(originals, copies, tmp_path, run):
    (copies / "broken.png").write_bytes(b"no image")
    output = run("overlap", originals, copies, "-o", tmp_path / "found").stdout
    assert "1 image cannot be compared, such as broken.png: not a JPEG" in output
    for path in originals.iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(SourceError, match="none of its images can be used"):
        find_overlap(originals)


def codes_with_copies(path):
    X = np.random.default_rng(0).random((60, 2, 2, 32)).astype(np.float32) ** 8
    X[40:50] = X[:10] * 1.1 + 0.001
    X[50:] = X[10:20, ::-1]  # mirrored or turned
    return write_codes(path, X, np.arange(60) % 2)


def test_codes_are_compared_by_their_cosine(tmp_path):
    overlap = find_overlap(codes_with_copies(tmp_path / "codes.h5"))
    assert overlap.by == "codes"
    assert {(each.a, each.b) for each in overlap.pairs} == {
        (number, 40 + number) for number in range(20)
    }


def test_codes_of_two_networks_are_refused(tmp_path):
    import h5py

    one = codes_with_copies(tmp_path / "one.h5")
    two = codes_with_copies(tmp_path / "two.h5")
    with h5py.File(two, "r+") as file:
        file.attrs["backbone_sha256"] = "cd" * 32
    with pytest.raises(FileFormatError, match="another network than"):
        find_overlap(one, two)


def test_many_pairs_are_doubted(tmp_path, run):
    X = np.ones((30, 1, 1, 32), np.float32)
    X += np.random.default_rng(0).random(X.shape) / 10
    path = write_codes(tmp_path / "codes.h5", X, np.arange(30) % 2)
    output = run("overlap", path, "-o", tmp_path / "found").stdout
    assert "435 near pairs are more than there are images" in output
    assert "use a higher threshold, or compare the images" in output


def test_threshold_decides(tmp_path, run):
    path = codes_with_copies(tmp_path / "codes.h5")
    assert (
        "threshold"
        in run("overlap", path, "-o", tmp_path / "x", "--threshold", 2, exit_code=2).stderr
    )
    assert len(find_overlap(path, threshold=0.999999).pairs) < 20
