"""What a file is, and which command takes it; tests/e2e/test_wrong_kind.py asks every command."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cnncodes.errors import FileFormatError, SourceError
from cnncodes.models.kinds import KINDS, check_kind, find_kind, needing
from tests.helpers import HEAD_INFO, IMAGE, VGG16_INFO

HERE = Path("here.onnx")


@pytest.mark.parametrize("name", ["nothing", "a-pipe", "empty"])
def test_what_cannot_be_read_has_no_kind(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "a-pipe")
    assert find_kind(tmp_path / name) is None


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x89HDF\r\n\x1a\nnothing behind", "damaged"),
        (b"PK\x03\x04 cut off", "zip"),
        (b"cnncodes-j1\n", "journal"),
        (b'{"kind": "curve"', "text"),
        (b'{"kind": "curve"}', "curve"),
        (b'{"kind": ["curve"]}', "text"),
        (b"[" * 100_000, "text"),
        ("é".encode() * 4000, "text"),
        (b"x" + "é".encode() * 4000, "text"),
        ("é".encode("latin-1") * 4000, "unknown"),
        (bytes(range(256)) * 20, "unknown"),
        (IMAGE, "image"),
    ],
)
def test_kind_by_content(tmp_path: Path, content: bytes, kind: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert find_kind(path) == KINDS[kind]


def test_photographs_deep_in_a_folder_count(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "notes").write_text("none")
    os.mkfifo(tmp_path / "a" / "pipe")
    assert find_kind(tmp_path) == KINDS["folder"]
    (tmp_path / "a" / "b" / "photo").write_bytes(IMAGE)
    assert find_kind(tmp_path) == KINDS["images"]


def test_error_stays_where_the_reader_has_more_to_report(tmp_path: Path) -> None:
    path = tmp_path / "photo"
    path.write_bytes(IMAGE)
    with (
        pytest.raises(FileFormatError, match="mine"),
        needing(path, ("image",), "a codes file", "extract"),
    ):
        raise FileFormatError("mine")
    with (
        pytest.raises(SourceError, match=r"photo: is an image \(.*\), not a codes file; extract$"),
        needing(path, ("codes",), "a codes file", "extract", error=SourceError),
    ):
        raise FileFormatError("mine")


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("backbone", "cnncodes export"),
        ("head", "cnncodes train"),
        ("app", "cnncodes bundle"),
    ],
)
def test_foreign_model_is_refused_with_the_remedy(kind, remedy):
    with pytest.raises(FileFormatError) as caught:
        check_kind({"author": "another"}, HERE, kind)
    assert str(caught.value).startswith("here.onnx: is an ONNX model of another program ")
    assert str(caught.value).endswith(remedy)


@pytest.mark.parametrize("number", ["2", "10", "", "1.0"])
def test_another_format_is_refused(number):
    metadata = HEAD_INFO.to_metadata("head") | {"cnncodes.format": number}
    with pytest.raises(FileFormatError) as caught:
        check_kind(metadata, HERE, "head")
    said = str(caught.value)
    assert said.startswith(f"here.onnx: is in format '{number}', this release reads format 1")
    assert said.endswith("install a newer cnncodes")


@pytest.mark.parametrize(
    ("made_with", "remedy"),
    [
        ("cnncodes 7.1.0rc1, onnx 2.0", "cnncodes 7.1.0rc1, with which it was made, or later"),
        ("cnncodes 7.1.0", "cnncodes 7.1.0, with which it was made, or later"),
        ("cnncodes from evil.example", "a newer cnncodes"),
        ("another 7.1.0", "a newer cnncodes"),
    ],
)
def test_release_that_reads_a_later_format_is_named(made_with, remedy):
    entries = {"cnncodes.format": "2", "cnncodes.created_with": made_with}
    with pytest.raises(FileFormatError) as caught:
        check_kind(HEAD_INFO.to_metadata("head") | entries, HERE, "head")
    assert str(caught.value).endswith(f"; install {remedy}")


@pytest.mark.parametrize(
    ("found", "needed", "said"),
    [
        (
            "head",
            "app",
            "is a head (evaluate and bundle take it), not an app; make one",
        ),
        (
            "app",
            "head",
            "is an app (predict, evaluate and bench take it), not a head; make one",
        ),
        (
            "head",
            "backbone",
            "is a head (evaluate and bundle take it), not a backbone; make one",
        ),
    ],
)
def test_another_kind_is_refused(found, needed, said):
    with pytest.raises(FileFormatError) as caught:
        check_kind(HEAD_INFO.to_metadata(found), HERE, needed)
    assert str(caught.value).startswith(f"here.onnx: {said} with: cnncodes ")


def test_any_of_several_kinds_will_do():
    for kind in ("head", "app"):
        check_kind(HEAD_INFO.to_metadata(kind), HERE, "head", "app")
    with pytest.raises(FileFormatError, match=r"is a backbone .*, not a head or an app; "):
        check_kind(VGG16_INFO.to_metadata(), HERE, "head", "app")


def test_model_of_no_kind_is_refused():
    with pytest.raises(FileFormatError, match=r"here\.onnx: .*not a head"):
        check_kind({"cnncodes.format": "1"}, HERE, "head")
