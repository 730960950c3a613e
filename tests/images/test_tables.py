"""CSV files as spreadsheets of any country and system write them."""

from __future__ import annotations

import unicodedata
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnncodes import CodeStore
from cnncodes.errors import SourceError
from cnncodes.images.sources import find_images
from tests.conftest import Run
from tests.helpers import IMAGE, find_labelled, write_images, write_table

ROWS = [("cat/a.jpg", "Kätzchen"), ("dog/b.jpg", "dog")]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path, *(path for path, _ in ROWS))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "header", ["path{}label", "Path{}LABEL", '"path" {} "label"', " path{}label "]
)
def test_reads_what_spreadsheets_write(
    images: Path, encoding: str, delimiter: str, end: str, header: str
) -> None:
    lines = [header.format(delimiter), *(delimiter.join(row) for row in ROWS)]
    source = write_table(images, (end.join(lines) + end).encode(encoding))
    assert find_labelled(source) == ROWS
    notes = find_images(source).notes
    assert [note.startswith("list.csv is not UTF-8: read as Windows") for note in notes] == (
        [True] if encoding == "cp1252" else []
    )


@pytest.mark.parametrize("bom", [b"\xff\xfe", b"\xfe\xff"])
def test_reads_either_byte_order(images: Path, bom: bytes) -> None:
    text = "path,label\ncat/a.jpg,Kätzchen\ndog/b.jpg,dog\n"
    encoding = "utf-16-le" if bom == b"\xff\xfe" else "utf-16-be"
    assert find_labelled(write_table(images, bom + text.encode(encoding))) == ROWS


@pytest.mark.parametrize(
    "content",
    [
        "path,label\ncat\\a.jpg,Kätzchen\ndog\\b.jpg,dog\n",
        "path,label\n.\\cat\\a.jpg,Kätzchen\n.\\dog\\b.jpg,dog\n",
        'path,label\n" cat/a.jpg ","Kätzchen "\n"dog/b.jpg" , " dog"\n',
        "path,label\ncat/a.jpg,Kätzchen\ndog/b.jpg,dog\n,\n , \n\n",
        "sep=;\npath;label\ncat/a.jpg;Kätzchen\ndog/b.jpg;dog\n",
    ],
)
def test_finds_the_files_that_are_meant(images: Path, content: str) -> None:
    source = find_images(write_table(images, content))
    assert [file.read_bytes() for file in source.files()] == [IMAGE, IMAGE]
    assert source.class_names == ("Kätzchen", "dog")


def test_backslash_in_a_name_is_kept_where_the_file_exists(tmp_path: Path) -> None:
    (tmp_path / "a\\b.jpg").write_bytes(IMAGE)
    assert find_labelled(write_table(tmp_path, "path,label\na\\b.jpg,cat\n")) == [
        ("a\\b.jpg", "cat")
    ]


@pytest.mark.parametrize("written", ["NFC", "NFD"])
@pytest.mark.parametrize("stored", ["NFC", "NFD"])
def test_finds_files_in_the_other_unicode_form(tmp_path: Path, written: str, stored: str) -> None:
    def path_in(form: str) -> str:
        return unicodedata.normalize(form, "Bären/Größe/ä.jpg")

    write_images(tmp_path, path_in(stored))
    label = unicodedata.normalize(written, "Bär")
    source = find_images(
        write_table(tmp_path, f"path,label\n{path_in(written)},{label}\nx.jpg,Bär\n")
    )
    assert source.paths[0] == path_in(stored)
    assert source.class_names == ("Bär",)


def test_path_without_a_file_stays_as_it_is_written(tmp_path: Path) -> None:
    names = ["nowhere\\ä.jpg", "größe.jpg", "/absolute/ü.jpg", "a\0b.jpg"]
    rows = "".join(f"{name},cat\n" for name in names)
    assert [
        path for path, _ in find_labelled(write_table(tmp_path, f"path,label\n{rows}"))
    ] == names


def test_group_is_read_and_stored(
    run: Run, small_backbone: Path, photos: Path, tmp_path: Path
) -> None:
    names = [path.relative_to(photos) for path in sorted(photos.rglob("*.png"))[:4]]
    lines = [
        "path,label,Group",
        *(
            f"{photos / name},{name.parent},{group}"
            for name, group in zip(names, ("p1", "p1", "", " p2 "), strict=True)
        ),
    ]
    source = write_table(tmp_path, "\n".join(lines))
    assert find_images(source).groups == ("p1", "p1", "", "p2")
    run("extract", small_backbone, source, "-o", tmp_path / "codes.h5")
    with CodeStore.open(tmp_path / "codes.h5") as store:
        assert store.groups == ["p1", "p1", "", "p2"]


@pytest.mark.parametrize(
    ("labels", "noted"),
    [
        (["cat|dog", "cat", "dog"], "1 of 3 labels look like several labels in one: cat|dog;"),
        (["cat, dog", "cat", "dog"], "1 of 3 labels look like several labels in one: cat, dog;"),
        (["Rome, Italy", "Paris, France"], ""),
        (["|", "a|"], ""),
        (["cat", "dog"], ""),
    ],
)
def test_labels_that_hold_several_are_noticed(
    tmp_path: Path, labels: list[str], noted: str
) -> None:
    rows = "".join(f'{number}.jpg\t"{label}"\n' for number, label in enumerate(labels))
    source = find_images(write_table(tmp_path, f"path\tlabel\n{rows}"))
    assert set(source.class_names) == set(labels)
    assert [note.startswith(noted) for note in source.notes] == ([True] if noted else [])


@pytest.mark.parametrize(
    ("content", "notes"),
    [
        ("path,label,group_id\na.jpg,cat,1\n", ["1 column not used: group_id; images that belong"]),
        ("path,label,group,x,y\na.jpg,cat,1,2,3\n", ["2 columns not used: x, y"]),
        ("path,label\na.jpg,cat,dog\nb.jpg,cat\n", ["1 row with more values than columns"]),
        ("path,label,\na.jpg,cat,\n", []),
        ("path,label,\na.jpg,cat,dog\nb.jpg,cat,\n", ["1 row with more values than columns"]),
        ("path,label\na.jpg,cat\nb.jpg,NA\n", ["taken for names of classes: NA; where a label"]),
        (",path,label\n1,a.jpg,cat\n2,b.jpg,cat\n", []),
    ],
)
def test_what_is_not_used_of_a_table_is_reported(
    tmp_path: Path, content: str, notes: list[str]
) -> None:
    reported = find_images(write_table(tmp_path, content)).notes
    assert len(reported) == len(notes)
    assert all(line.startswith(note) for line, note in zip(reported, notes, strict=True))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("path,label,label\na.jpg,cat,dog\n", ": has 2 columns label; leave one"),
        ('path,label\na.jpg,"cat\nb.jpg,dog\n', ", line 3: has a line break in its label; is a"),
        ('path,label\n"a.jpg,cat\nb.jpg",dog\n', ", line 3: has a line break in its path; is a"),
        (
            'path,label,size\na.jpg,cat,3\nb.jpg,cat,"5 cm\nc.jpg,dog,4\nd.jpg,dog,4\n',
            ", line 3: a value goes on over rows to line 5; is a quote not closed?",
        ),
        (
            'size,path,label\n3,a.jpg,cat\n"5 cm,b.jpg,cat\n4,c.jpg,dog\n"4 cm,d.jpg,dog\n',
            ", line 3: a value goes on over rows to line 5; is a quote not closed?",
        ),
    ],
)
def test_tables_that_contradict_themselves_are_refused(
    tmp_path: Path, content: str, reason: str
) -> None:
    source = write_table(tmp_path, content)
    with pytest.raises(SourceError) as caught:
        find_images(source)
    assert str(caught.value).startswith(f"{source}{reason}")


@pytest.mark.parametrize(
    ("labels", "hint"),
    [("cat,cat,", ""), ("cat,dog,", "; several labels of an image are joined by ; in one row")],
)
def test_images_that_are_listed_again_are_named(tmp_path: Path, labels: str, hint: str) -> None:
    paths = ("a b.jpg", "a b.jpg", "c.jpg")
    rows = [f"{path},{label}" for path, label in zip(paths, labels.split(","), strict=True)]
    source = write_table(tmp_path, "\n".join(["path,label", *rows]))
    expected = f"1 image is listed more than once, such as a b.jpg{hint}"
    assert find_images(source).notes == (expected,)


def test_remarks_of_several_lines_are_read(tmp_path: Path) -> None:
    rows = [f'{name}.jpg,{name},"left, right, top\nsee scan.png, too"\n' for name in "ab"]
    source = write_table(tmp_path, "path,label,remark\n" + "".join(rows))
    assert find_labelled(source) == [("a.jpg", "a"), ("b.jpg", "b")]


@pytest.mark.parametrize(
    "start", ["SEP=;\r\npath;label\n", '"sep=;"\npath;label\n', "\n\npath;label;a,b,c,d,e\n"]
)
def test_finds_the_delimiter(images: Path, start: str) -> None:
    assert find_labelled(write_table(images, start + "cat/a.jpg;Kätzchen\ndog/b.jpg;dog\n")) == ROWS


def test_reads_pipes_and_utf_16_without_a_mark(images: Path) -> None:
    content = "path|label\ncat/a.jpg|Kätzchen\ndog/b.jpg|dog\n"
    for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
        assert find_labelled(write_table(images, content.encode(encoding))) == ROWS


@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.mktemp("tables")
    for start in (b"", b"path,label\n", "path,label\n".encode("utf-16")):
        source = write_table(folder, start + content)
        with suppress(SourceError):
            assert len(find_images(source).paths) > 0
