"""Folders as people have them: of a network drive, of a split, nested, in two Unicode forms."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from cnncodes import CodeStore
from cnncodes.errors import ParameterError, SourceError
from cnncodes.images.decoding import load_image
from cnncodes.images.folders import SYSTEM_FOLDERS
from cnncodes.images.sources import find_images
from tests.conftest import Run
from tests.helpers import find_labelled, write_images

KAEFER = {form: unicodedata.normalize(form, "Käfer") for form in ("NFC", "NFD")}


@pytest.mark.parametrize("name", [*sorted(SYSTEM_FOLDERS), "@eaDir", "$RECYCLE.BIN"])
@pytest.mark.parametrize("where", ["", "cat/", "cat/old/"])
def test_folders_of_the_system_are_no_classes(tmp_path: Path, name: str, where: str) -> None:
    write_images(tmp_path, "cat/a.jpg", "dog/b.jpg", f"{where}{name}/a.jpg/thumbnail.jpg")
    assert find_labelled(tmp_path) == [("cat/a.jpg", "cat"), ("dog/b.jpg", "dog")]
    note = f"left out: 1 folder of the system or a network drive: {name}"
    assert find_images(tmp_path).notes == (note,)


def test_folders_of_the_system_do_not_hide_a_flat_folder(tmp_path: Path) -> None:
    write_images(tmp_path, "a.jpg", "b.jpg", "@eaDir/a.jpg/thumbnail.jpg")
    assert find_labelled(tmp_path) == [("a.jpg", ""), ("b.jpg", "")]
    assert "@eaDir" in find_images(tmp_path).notes[0]


def test_file_with_such_a_name_is_an_image_all_the_same(tmp_path: Path) -> None:
    write_images(tmp_path, "cat/#recycle", "dog/b.jpg")
    assert find_labelled(tmp_path) == [("cat/#recycle", "cat"), ("dog/b.jpg", "dog")]


def test_only_folders_of_the_system(tmp_path: Path) -> None:
    write_images(tmp_path, "@eaDir/a.jpg/thumbnail.jpg")
    with pytest.raises(SourceError, match=r"no images in it .*; left out: 1 folder .*@eaDir"):
        find_images(tmp_path)


@pytest.mark.parametrize(
    "parts",
    [
        ("train", "val"),
        ("Train", "Test_Set"),
        ("training", "validation", "test"),
        ("training_data", "validation-data"),
        ("train",),
    ],
)
def test_parts_of_a_split_are_named(tmp_path: Path, parts: tuple[str, ...]) -> None:
    write_images(tmp_path, *(f"{part}/{name}/a.jpg" for part in parts for name in ("cat", "dog")))
    (note,) = find_images(tmp_path).notes
    assert f"{', '.join(sorted(parts))} look like the parts of a split, not like classes" in note
    train = next(part for part in parts if part.lower().startswith("train"))
    assert f"(cat, dog) as classes, name {tmp_path / train} as the source" in note


@pytest.mark.parametrize("around", ["photos", "old/photos"])
def test_one_folder_around_the_classes_is_named(tmp_path: Path, around: str) -> None:
    write_images(tmp_path, f"{around}/cat/a.jpg", f"{around}/dog/b.jpg")
    (note,) = find_images(tmp_path).notes
    assert note.startswith(f"all images are in one folder, {around}: ")
    assert f"(cat, dog) as classes, name {tmp_path / around} as the source" in note


def test_part_of_a_split_without_classes_is_named_too(tmp_path: Path) -> None:
    write_images(tmp_path, "train/cat/a.jpg", "train/dog/b.jpg", "test/1.jpg")
    (note,) = find_images(tmp_path).notes
    assert "test, train look like the parts of a split" in note
    assert f"name {tmp_path / 'train'} as the source" in note


@pytest.mark.parametrize(
    "names",
    [
        ("2024-05-01", "2024-05-02"),
        ("20240501", "20240502"),
        ("2023", "2024"),
        ("1.5.2024", "02.05.24"),
        ("Day 1", "day_2"),
        ("Monday", "tue"),
        ("March", "Aug 2024"),
        ("100APPLE", "101CANON"),
    ],
)
def test_days_are_named(tmp_path: Path, names: tuple[str, ...]) -> None:
    write_images(tmp_path, *(f"{name}/a.jpg" for name in names))
    images = find_images(tmp_path)
    assert images.doubts == images.notes
    (doubt,) = images.doubts
    assert f"{', '.join(sorted(names))} look like days or folders of a camera" in doubt
    write_images(tmp_path, "cat/a.jpg")
    assert find_images(tmp_path).doubts == ()


def test_classes_in_the_folder_of_one_day_are_named(tmp_path: Path) -> None:
    write_images(tmp_path, "2024-05-01/cat/a.jpg", "2024-05-01/dog/b.jpg")
    (doubt,) = find_images(tmp_path).doubts
    assert f"(cat, dog) as classes, name {tmp_path / '2024-05-01'} as the source" in doubt


def test_days_of_one_year_are_no_classes(tmp_path: Path) -> None:
    write_images(tmp_path, "2024/2024-05-01/a.jpg", "2024/2024-05-02/b.jpg")
    (doubt,) = find_images(tmp_path).doubts
    assert "2024 look like days or folders of a camera" in doubt


@pytest.mark.parametrize(
    "names",
    [
        ("1/a.jpg", "2/b.jpg"),  # digits
        ("12-5/a.jpg", "3.14/b.jpg"),
        ("train/a.jpg", "bus/b.jpg"),  # vehicles
        ("train/a.jpg", "test/b.jpg"),  # images directly in them: these are the classes
        ("cat/a.jpg", "dog/b.jpg"),
    ],
)
def test_ordinary_classes_get_no_note(tmp_path: Path, names: tuple[str, ...]) -> None:
    write_images(tmp_path, *names)
    assert find_images(tmp_path).notes == ()


def test_level_of_the_label_is_named_where_there_are_several(tmp_path: Path) -> None:
    write_images(tmp_path, "cat/2019/a.jpg", "cat/b.jpg", "dog/c.jpg")
    (note,) = find_images(tmp_path).notes
    assert "labels are the names of the first folders below the source" in note
    assert "such as cat/2019, belong to their class" in note


def test_folders_without_images_are_named(tmp_path: Path) -> None:
    write_images(tmp_path, "cat/a.jpg", "dog/b.jpg")
    for name in ("emu", "bird", "cow", "yak"):
        (tmp_path / name).mkdir()
    (tmp_path / "bird" / "notes.txt").write_text("no image")
    assert find_images(tmp_path).notes == (
        "left out: 1 file that is no image: notes.txt",
        "no images in 4 class folders: bird, cow, emu, …",
    )


@pytest.mark.parametrize("folder", ["", "cat"])
def test_films_and_documents_are_named(tmp_path: Path, folder: str) -> None:
    write_images(tmp_path / folder, "a.jpg")
    for name in ("film.mp4", "scan.pdf", "Thumbs.db", "desktop.ini", ".DS_Store"):
        (tmp_path / folder / name).write_bytes(b"no image")
    note = "left out: 2 files that are no images: film.mp4, scan.pdf"
    assert find_images(tmp_path).notes == (note,)
    (tmp_path / folder / "a.jpg").unlink()
    with pytest.raises(SourceError, match=r"no images in it .*; left out: 2 files .*film\.mp4"):
        find_images(tmp_path)


def test_links_that_are_left_out_are_named(tmp_path: Path) -> None:
    elsewhere = write_images(tmp_path / "elsewhere", "a.jpg")
    source = write_images(tmp_path / "source", "cat/a.jpg", "dog/b.jpg")
    (source / "cat" / "more").symlink_to(elsewhere)
    (source / "again").symlink_to(source)
    assert find_images(source).notes == ("left out: 2 links to folders: again, more",)


def test_files_that_are_not_decoded_may_lie_beside_class_folders(tmp_path: Path) -> None:
    write_images(tmp_path, "cat/a.jpg", "dog/b.jpg")
    for name in ("logo.psd", "folder.ico"):
        (tmp_path / name).write_text("")
    assert find_labelled(tmp_path) == [("cat/a.jpg", "cat"), ("dog/b.jpg", "dog")]
    (note,) = find_images(tmp_path).notes
    assert note == "left out: 2 files beside the class folders: folder.ico, logo.psd"


def test_one_name_in_two_unicode_forms_is_one_class(tmp_path: Path) -> None:
    write_images(
        tmp_path, f"{KAEFER['NFC']}/a.jpg", f"{KAEFER['NFD']}/b.jpg", "cat/c.jpg", "cat /d.jpg"
    )
    source = find_images(tmp_path)
    assert source.class_counts() == {KAEFER["NFC"]: 2, "cat": 2}
    assert all(file.is_file() for file in source.files())
    (note,) = source.notes
    assert note.endswith(f"are one class: {', '.join(sorted((KAEFER['NFC'], 'cat')))}")


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_labels_are_composed_whatever_the_folder_is(tmp_path: Path, form: str) -> None:
    write_images(tmp_path, f"{KAEFER[form]}/a.jpg", "cat/c.jpg")
    source = find_images(tmp_path)
    assert KAEFER["NFC"] in source.class_names
    assert source.notes == ()


def test_images_are_grouped_by_the_folder_below_the_class(tmp_path: Path) -> None:
    write_images(tmp_path, "cat/tom/a.jpg", "cat/tom/old/b.jpg", "cat/c.jpg", "dog/tom/d.jpg")
    source = find_images(tmp_path, group_by="folder")
    assert source.paths == ("cat/c.jpg", "cat/tom/a.jpg", "cat/tom/old/b.jpg", "dog/tom/d.jpg")
    assert source.groups == ("", "cat/tom", "cat/tom", "dog/tom")
    assert find_images(tmp_path).groups == ()


def test_grouping_that_does_nothing_is_reported(tmp_path: Path) -> None:
    write_images(tmp_path, "cat/a.jpg", "dog/b.jpg")
    source = find_images(tmp_path, group_by="folder")
    assert source.groups == ()
    assert source.notes == ("no folders below the class folders: no images are grouped",)


def test_unknown_groupings_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path, "cat/a.jpg")
    with pytest.raises(ParameterError, match="group_by must be 'folder', not 'name'"):
        find_images(tmp_path, group_by="name")
    (tmp_path / "list.csv").write_text("path,label\ncat/a.jpg,cat\n")
    with pytest.raises(ParameterError, match="a CSV file names groups in a column group"):
        find_images(tmp_path / "list.csv", group_by="folder")


def test_groups_are_stored(run: Run, small_backbone: Path, photos: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for number, image in enumerate(sorted(photos.rglob("*.png"))[:12]):
        target = source / "ab"[number % 2] / f"session {number // 4}" / image.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(image.read_bytes())
    output = tmp_path / "codes.h5"
    result = run("extract", small_backbone, source, "-o", output, "--group-by", "folder")
    assert "  6 groups, which no split separates\n" in result.stderr
    with CodeStore.open(output) as store:
        assert store.groups == [path.rpartition("/")[0] for path in store.paths]
    run("extract", small_backbone, source, "-o", output, "--update")
    with CodeStore.open(output) as store:
        assert store.groups == []


def test_links_that_lead_nowhere_are_not_lost(tmp_path: Path) -> None:
    """As git-annex leaves them, or a disk that is not mounted."""
    write_images(tmp_path, "cat/a.jpg", "dog/b.jpg")
    (tmp_path / "cat" / "c.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "cat" / "notes").symlink_to("nowhere")
    (tmp_path / "emu").symlink_to("/not/mounted")
    source = find_images(tmp_path)
    assert source.paths == ("cat/a.jpg", "cat/c.jpg", "dog/b.jpg")
    assert source.notes == ("left out: 2 broken links: emu, notes",)
    assert "No such file" in load_image(1, source.files()[1], 8).problem


def test_predict_reports_what_it_leaves_out_of_a_folder(
    run: Run, app: Path, photos: Path, tmp_path: Path
) -> None:
    image = next(photos.rglob("*.png"))
    folder = tmp_path / "folder"
    (folder / "@eaDir").mkdir(parents=True)
    (folder / "more").symlink_to(photos)
    (folder / "a.png").write_bytes(image.read_bytes())
    result = run("predict", app, folder)
    assert result.stdout.startswith(f"{folder / 'a.png'}  ")
    assert result.stderr.splitlines() == [
        f"note: {folder}: left out: 1 folder of the system or a network drive: @eaDir",
        f"note: {folder}: left out: 1 link to a folder: more",
    ]


def test_labels_that_no_head_can_hold_are_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"path,label\na.jpg,{'x' * 5000}\nb.jpg,cat\n")
    with pytest.raises(SourceError, match="a label has 5,000 characters"):
        find_images(tmp_path / "list.csv")
