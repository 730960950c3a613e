"""The folder of an overlap: the table and the page."""

from __future__ import annotations

import re

from cnncodes.overlap.overlap import find_overlap
from cnncodes.overlap.pairs import OverlapFolder


def test_page_shows_both_images_of_each_pair_and_loads_nothing(originals, copies, tmp_path, run):
    (copies / "equal.png").rename(copies / "<b>&.png")
    run("overlap", originals, copies, "-o", tmp_path / "found")
    page = (tmp_path / "found" / "index.html").read_text("utf-8")
    assert page.count("data:image/jpeg;base64,") == 18
    assert "&lt;b&gt;&amp;.png" in page
    assert "<b>" not in page
    assert not re.search(r"<script|https?:", page)


def test_page_without_copies(originals, tmp_path, run):
    run("overlap", originals, "-o", tmp_path / "found")
    assert "There are none" in (tmp_path / "found" / "index.html").read_text("utf-8")


def test_earlier_pairs_are_replaced_only_if_asked(originals, tmp_path, run):
    run("overlap", originals, "-o", tmp_path / "found")
    message = run("overlap", originals, "-o", tmp_path / "found", exit_code=1).stderr
    assert "--overwrite" in message
    run("overlap", originals, "-o", tmp_path / "found", "--overwrite")
    (tmp_path / "file").write_text("mine")
    message = run("overlap", originals, "-o", tmp_path / "file", exit_code=1).stderr
    assert "is not a folder; name a folder for the pairs" in message


def test_absent_image_is_named_on_the_page(originals, copies, tmp_path):
    overlap = find_overlap(originals, copies)
    (copies / "equal.png").unlink()
    OverlapFolder(tmp_path / "found").write(overlap)
    assert "image not found" in (tmp_path / "found" / "index.html").read_text("utf-8")
