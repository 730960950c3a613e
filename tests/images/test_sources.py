"""The images of a source, and their labels."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnncodes.errors import SourceError
from cnncodes.images.sources import find_images
from cnncodes.text import normalized
from tests.helpers import IMAGE, find_labelled, unprivileged, write_images, write_table

NULL_BYTES = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="csv of Python 3.10 refuses null bytes: one line of error"
)
BMP = b"BM" + bytes(12) + b"\x28\0\0\0"


def refusal(source: Path) -> str:
    with pytest.raises(SourceError) as caught:
        find_images(source)
    message = str(caught.value)
    assert message.startswith(str(source))
    return message


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("p" * 32_768 + ",cat,", "a path has 32,768 characters, and at most 32,767 can be used"),
        ("한" * 32_000 + ",cat,", "a path has 96,000 bytes, and at most 65,536 can be used"),
        ("a.jpg,cat," + "g" * 4097, "a group has 4,097 characters, and at most 4,096 can be used"),
        ("a.jpg," + "c" * 4097 + ",", "a label has 4,097 characters, and at most 4,096 can be"),
    ],
    ids=["path", "bytes", "group", "label"],
)
def test_texts_that_no_file_can_hold(tmp_path: Path, row: str, fault: str) -> None:
    source = write_table(tmp_path, f"path,label,group\nb.jpg,dog,\n{row}\n")
    message = refusal(source)
    line = "" if "label" in fault else ", line 3"
    assert message.startswith(f"{source}{line}: {fault}")
    assert len(message) < 200 + len(str(source))


@pytest.mark.parametrize(
    "path", ["ä" * 300, "ä" * 30_000, pytest.param("\0ä", marks=NULL_BYTES), "ä/" * 3000]
)
def test_path_of_a_table_that_no_system_knows_is_listed(tmp_path: Path, path: str) -> None:
    assert find_images(write_table(tmp_path, f"path,label\n{path},cat\n")).paths == (path,)


def test_longest_texts_that_a_file_can_hold(tmp_path: Path) -> None:
    row = ("p" * 32_767, "c" * 4096, "g" * 4096)
    source = find_images(write_table(tmp_path, f"path,label,group\n{','.join(row)}\n"))
    assert (source.paths[0], source.class_names[0], source.groups[0]) == row


def test_takes_labels_from_class_folders(tmp_path: Path) -> None:
    write_images(tmp_path, "dog/2.jpg", "cat/b.png", "dog/10.jpg", "cat/a.PNG")
    assert find_labelled(tmp_path) == [
        ("cat/a.PNG", "cat"),
        ("cat/b.png", "cat"),
        ("dog/10.jpg", "dog"),
        ("dog/2.jpg", "dog"),
    ]
    images = find_images(tmp_path)
    assert images.class_names == ("cat", "dog")
    assert images.files() == [tmp_path / path for path in images.paths]


def test_takes_the_label_from_the_topmost_folder(tmp_path: Path) -> None:
    write_images(tmp_path, "cat/old/2019/a.jpg", "cat/b.jpg", "dog/new/c.jpg")
    assert find_labelled(tmp_path) == [
        ("cat/b.jpg", "cat"),
        ("cat/old/2019/a.jpg", "cat"),
        ("dog/new/c.jpg", "dog"),
    ]


def test_gives_no_labels_in_a_flat_folder(tmp_path: Path) -> None:
    write_images(tmp_path, "b.jpg", "a.jpg", "C.jpg")
    assert find_labelled(tmp_path) == [("C.jpg", ""), ("a.jpg", ""), ("b.jpg", "")]
    assert find_images(tmp_path).class_names == ()


@pytest.mark.parametrize(
    "suffix",
    ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "dib", "gif", "tif", "tiff", "JPG"],
)
def test_lists_what_claims_to_be_an_image(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"text.{suffix}").write_text("no image")
    (tmp_path / f"empty.{suffix}").write_text("")
    assert find_labelled(tmp_path) == [(f"empty.{suffix}", ""), (f"text.{suffix}", "")]


@pytest.mark.parametrize(
    "start",
    [b"\xff\xd8\xff\xe0", IMAGE, b"RIFF1234WEBP", BMP, b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*"],
)
@pytest.mark.parametrize("name", ["photo", "photo.dat", "IMG.0001"])
def test_finds_images_by_content(tmp_path: Path, start: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(start)
    assert find_labelled(tmp_path) == [(name, "")]


def test_passes_over_what_is_no_image(tmp_path: Path) -> None:
    write_images(tmp_path, "a.jpg")
    for name in ("notes.txt", "Thumbs.db", "README", "empty"):
        (tmp_path / name).write_text("no image" if name != "empty" else "")
    assert find_labelled(tmp_path) == [("a.jpg", "")]


def test_passes_over_hidden_files_and_folders(tmp_path: Path) -> None:
    write_images(tmp_path, "cat/a.jpg", "cat/.b.jpg", "cat/.c/d.jpg", ".git/e.jpg", ".f.jpg")
    assert find_labelled(tmp_path) == [("cat/a.jpg", "cat")]


def test_passes_over_class_folders_without_images(tmp_path: Path) -> None:
    write_images(tmp_path, "cat/a.jpg")
    (tmp_path / "dog" / "empty").mkdir(parents=True)
    assert find_images(tmp_path).class_names == ("cat",)


def test_finds_flat_images_beside_folders_without_any(tmp_path: Path) -> None:
    write_images(tmp_path, "a.jpg")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("no image")
    assert find_labelled(tmp_path) == [("a.jpg", "")]


@pytest.mark.parametrize("folder", [".", "cat"])
def test_passes_over_pipes_and_lists_broken_links(tmp_path: Path, folder: str) -> None:
    write_images(tmp_path, f"{folder}/a.jpg")
    os.mkfifo(tmp_path / folder / "pipe.jpg")  # to open it would wait for ever
    (tmp_path / folder / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / folder / "self.jpg").symlink_to("self.jpg")
    names = [Path(path).name for path, _ in find_labelled(tmp_path)]
    assert names == ["a.jpg", "gone.jpg", "self.jpg"]  # links are listed, to be skipped later


def test_follows_links_to_images_and_class_folders(tmp_path: Path) -> None:
    elsewhere = write_images(tmp_path / "elsewhere", "a.jpg", "deeper/b.jpg")
    source = write_images(tmp_path / "source", "dog/c.jpg")
    (source / "cat").symlink_to(elsewhere)
    (source / "dog" / "d.jpg").symlink_to(elsewhere / "a.jpg")
    assert find_labelled(source) == [
        ("cat/a.jpg", "cat"),
        ("cat/deeper/b.jpg", "cat"),
        ("dog/c.jpg", "dog"),
        ("dog/d.jpg", "dog"),
    ]


def test_is_not_caught_in_a_loop_of_links(tmp_path: Path) -> None:
    write_images(tmp_path, "cat/a.jpg", "cat/deeper/b.jpg")
    (tmp_path / "cat" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "cat" / "deeper" / "loop").symlink_to("../deeper", target_is_directory=True)
    assert find_labelled(tmp_path) == [("cat/a.jpg", "cat"), ("cat/deeper/b.jpg", "cat")]


def test_ends_when_a_class_is_a_link_to_the_source(tmp_path: Path) -> None:
    write_images(tmp_path, "cat/a.jpg")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert ("cat/a.jpg", "cat") in find_labelled(tmp_path)


def test_refuses_images_beside_class_folders(tmp_path: Path) -> None:
    write_images(tmp_path, "cat/a.jpg", "stray.jpg", "another.jpg")
    assert "2 images beside the class folders (such as " in refusal(tmp_path)


@pytest.mark.parametrize("names", [("Cat", "cat"), ("STRASSE", "straße")])
def test_refuses_classes_that_differ_in_case(tmp_path: Path, names: tuple[str, str]) -> None:
    write_images(tmp_path, *(f"{name}/a.jpg" for name in names), "dog/b.jpg")
    expected = f"the classes {' and '.join(names)} differ only in case or in the form of letters; "
    assert expected in refusal(tmp_path)
    rows = "".join(f"{name}/a.jpg,{name}\n" for name in names)
    assert expected in refusal(write_table(tmp_path, f"path,label\n{rows}"))


@pytest.mark.parametrize("folders", [(), ("cat", "dog")])
def test_refuses_a_folder_without_images(tmp_path: Path, folders: tuple[str, ...]) -> None:
    for name in folders:
        (tmp_path / name).mkdir()
    (tmp_path / "notes.txt").write_text("no image")
    assert "no images in it (JPEG, PNG, WebP, AVIF, HEIC, " in refusal(tmp_path)


@pytest.mark.parametrize("name", ["ä" * 5000, pytest.param("a\0ä", marks=NULL_BYTES), "ä/" * 3000])
def test_lists_a_path_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    (tmp_path / "list.csv").write_text(f"path,label\n{name}.png,cat\n", "utf-8")
    assert find_labelled(tmp_path / "list.csv") == [(f"{name}.png", "cat")]


def test_refuses_a_large_hole_as_a_table(tmp_path: Path) -> None:
    (tmp_path / "list.csv").touch()
    for size in (4, 2**20, 2**32):
        os.truncate(tmp_path / "list.csv", size)
        assert "neither a folder nor a CSV file" in refusal(tmp_path / "list.csv")


def test_refuses_a_source_that_is_missing(tmp_path: Path) -> None:
    remedy = "name a folder of images, or a CSV file with the columns path and label"
    assert refusal(tmp_path / "typo").endswith(f"no such file; {remedy}")
    os.mkfifo(tmp_path / "pipe")
    kind = "a named pipe (FIFO), but a regular file is needed"
    assert refusal(tmp_path / "pipe").endswith(f"is {kind}")


@pytest.mark.parametrize("locked", ["photos", "photos/cat", "photos/cat/deeper"])
def test_refuses_a_folder_it_may_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locked: str
) -> None:
    monkeypatch.chdir(tmp_path)  # an ordinary user may not look into the folders above it
    write_images(tmp_path, "photos/cat/deeper/a.jpg", "photos/dog/b.jpg")
    (tmp_path / locked).chmod(0)
    try:
        with unprivileged(tmp_path), pytest.raises(SourceError) as caught:
            find_images(Path("photos"))
    finally:
        (tmp_path / locked).chmod(0o755)
    assert str(caught.value) == f"{locked}: cannot be read (Permission denied)"


def test_refuses_a_table_it_may_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path, "path,label\n").chmod(0)
    with unprivileged(tmp_path), pytest.raises(SourceError) as caught:
        find_images(Path("list.csv"))
    assert str(caught.value) == "list.csv: cannot be read (Permission denied)"


def test_lists_an_image_it_may_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path, "photos/a.jpg", "photos/b.jpg", "photos/unclaimed")
    for name in ("b.jpg", "unclaimed"):
        (tmp_path / "photos" / name).chmod(0)
    with unprivileged(tmp_path):
        assert find_labelled(Path("photos")) == [("a.jpg", ""), ("b.jpg", "")]


def test_lists_images_in_a_folder_it_may_not_enter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path, "photos/cat/a.jpg", "photos/dog/b.jpg")
    (tmp_path / "photos" / "cat").chmod(0o444)
    try:
        with unprivileged(tmp_path):  # to lose a class without a word would be the worst
            assert find_labelled(Path("photos")) == [("cat/a.jpg", "cat"), ("dog/b.jpg", "dog")]
    finally:
        (tmp_path / "photos" / "cat").chmod(0o755)


@given(st.binary(min_size=1, max_size=60).filter(lambda name: not {0, 47} & set(name)))
def test_finds_files_of_any_name(tmp_path_factory: pytest.TempPathFactory, name: bytes) -> None:
    folder = tmp_path_factory.mktemp("names")
    file_name = "x" + os.fsdecode(name) + ".jpg"  # a dot in front would hide it
    class_name = "x" + os.fsdecode(name)
    write_images(folder, f"{class_name}/{file_name}")
    assert find_labelled(folder) == [(f"{class_name}/{file_name}", normalized(class_name))]
    assert find_images(folder).files()[0].read_bytes() == IMAGE


@pytest.mark.parametrize(
    "content",
    [
        "path,label\na.jpg,cat\nb/c.jpg,dog\n",
        "path;label\na.jpg;cat\nb/c.jpg;dog\n",
        "path\tlabel\na.jpg\tcat\nb/c.jpg\tdog\n",
        "\ufeffpath,label\na.jpg,cat\nb/c.jpg,dog\n",
        "\ufeffpath;label\r\na.jpg;cat\r\nb/c.jpg;dog\r\n",
        "path, label\na.jpg, cat\nb/c.jpg,  dog  \n",
        'label,size,path\ncat,3,"a.jpg"\n"dog",,b/c.jpg',
        "path,label\n\na.jpg,cat\n\nb/c.jpg,dog\n\n",
        "path,label\na.jpg,cat,more\nb/c.jpg,dog\n",
    ],
)
def test_reads_tables_as_programs_write_them(tmp_path: Path, content: str) -> None:
    source = write_table(tmp_path, content)
    assert find_labelled(source) == [("a.jpg", "cat"), ("b/c.jpg", "dog")]
    assert find_images(source).files() == [tmp_path / "a.jpg", tmp_path / "b" / "c.jpg"]


def test_keeps_the_order_and_the_odd_paths_of_a_table(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.jpg"
    rows = f'path,label\nz.jpg,b\n"a,b ""c"".jpg",a\n{elsewhere},Zoë\nmissing.jpg,b\nz.jpg,b\n'
    source = write_table(tmp_path, rows)
    assert find_labelled(source) == [
        ("z.jpg", "b"),
        ('a,b "c".jpg', "a"),
        (str(elsewhere), "Zoë"),
        ("missing.jpg", "b"),
        ("z.jpg", "b"),
    ]
    assert find_images(source).files()[2] == elsewhere


def test_takes_an_empty_label_for_none(tmp_path: Path) -> None:
    source = write_table(tmp_path, "path,label\na.jpg,cat\nb.jpg,\nc.jpg,  \n")
    assert find_labelled(source) == [("a.jpg", "cat"), ("b.jpg", ""), ("c.jpg", "")]
    assert find_images(source).labels == (0, -1, -1)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            "file,label\na.jpg,cat\n",
            ": has no column path (but file, label); a CSV source starts with",
        ),
        ("path,class\na.jpg,cat\n", ": has no column label (but path, class);"),
        ("a.jpg,cat\nb.jpg,dog\n", ": has no column path and no column label (but a.jpg, cat);"),
        ("", ": is an empty file; list the images in it"),
        ("\n\n", ": has no column path and no column label (but none);"),
        ("path,label\n", ": no images in it"),
        ("path,label\na.jpg,cat\n,dog\n", ", line 3: has no path"),
        ("path,label\na.jpg,cat\nb.jpg\n", ", line 3: has no label"),
        ("path,label\na.jpg,cat\n\x81".encode("latin-1"), ": neither a folder nor a CSV file;"),
        (b"path,label\na.jpg,cat\n\0\xff", ": neither a folder nor a CSV file;"),
        (IMAGE + b"\xff", ": is an image (predict takes it, and extract a folder of such), not a"),
        (f"path,label\n{'x' * 200_000},cat\n", ": not a readable CSV file (field larger than"),
    ],
)
def test_refuses_a_table_it_cannot_use(tmp_path: Path, content: str, reason: str) -> None:
    source = write_table(tmp_path, content)
    assert refusal(source).startswith(f"{source}{reason}")


@pytest.mark.parametrize("target", [".", "..", "cat", "cat/old"])
def test_class_that_links_to_what_is_listed_anyway(tmp_path: Path, target: str) -> None:
    source = write_images(tmp_path / "photos", "cat/a.jpg", "cat/old/b.jpg", "dog/c.jpg")
    (source / "again").symlink_to(source / target)
    assert find_images(source).paths == ("cat/a.jpg", "cat/old/b.jpg", "dog/c.jpg")


def test_classes_that_link_to_folders_elsewhere(tmp_path: Path) -> None:
    write_images(tmp_path / "all", "cat/a.jpg", "dog/b.jpg")
    source = write_images(tmp_path / "photos", ".all/emu/c.jpg")
    for name, target in (("cat", "../all/cat"), ("dog", "../all/dog"), ("emu", ".all/emu")):
        (source / name).symlink_to(target)
    for name, target in (("cats", "../all/cat"), ("pets", "../all")):  # the same images again
        (source / name).symlink_to(target)
    assert find_images(source).paths == ("cat/a.jpg", "dog/b.jpg", "emu/c.jpg")
