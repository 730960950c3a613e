"""Data sets from a server of our own, which breaks off, lies or refuses, and from files."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cnncodes.datasets.fetch import fetch_dataset
from cnncodes.datasets.registry import DATASETS
from cnncodes.errors import ParameterError
from cnncodes.images.sources import find_images
from cnncodes.progress import NoProgress
from tests.datasets.archives import (
    CELLS,
    CLASSES,
    IMAGES,
    INNER,
    LABELS,
    caltech_row,
    caltech_tar,
    caltech_zip,
    cells_row,
    cells_zip,
    files_below,
    tar_of,
    zip_of,
)
from tests.file_server import Server, serving
from tests.helpers import error_of, names_in, run_command

ARCHIVE = caltech_zip()
NAME = "caltech-101.zip"
DROPPED = {path: content for path, content in IMAGES.items() if "BACKGROUND" not in path}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A server that the row of Caltech-101 names, in an empty current folder."""
    monkeypatch.chdir(tmp_path)
    with serving(ARCHIVE) as server:
        monkeypatch.setitem(DATASETS, "caltech101", caltech_row(server.address, ARCHIVE))
        yield server


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The row of the solar cells, for four of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(DATASETS, "elpv", cells_row())


def images_in(folder: Path) -> dict[str, bytes]:
    files = files_below(folder)
    assert "LICENCE.txt" in files
    return {path: content for path, content in files.items() if path != "LICENCE.txt"}


def test_folder_of_classes_with_its_licence(server: Server, tmp_path: Path) -> None:
    done = run_command("fetch", "caltech101")
    assert names_in(tmp_path) == ["caltech101"]  # nothing else is left
    assert images_in(tmp_path / "caltech101") == IMAGES
    assert "caltech101: 9 images, 3 classes; licence and citation are in " in done.stdout
    terms, note = done.stderr.splitlines()[:3], done.stderr.splitlines()[3]
    assert terms[1] == (
        "  licence  Creative Commons Attribution 4.0 International, "
        "https://creativecommons.org/licenses/by/4.0/"
    )
    assert "Perona, P. (2022)" in terms[2]
    assert note == "note: downloading caltech-101.zip, 0 MB, from 127.0.0.1"
    licence = Path("caltech101", "LICENCE.txt").read_text("utf-8")
    for text in (DATASETS["caltech101"].citation, "https://creativecommons.org/licenses/by/4.0/"):
        assert text in licence
    listed = find_images(Path("caltech101"))
    assert listed.class_counts() == CLASSES
    assert listed.notes == ()


def test_background_can_be_dropped(server: Server) -> None:
    done = run_command("fetch", "caltech101", "photos", "--background", "drop", "--json")
    assert images_in(Path("photos")) == DROPPED
    assert json.loads(done.stdout) == {
        "name": "caltech101",
        "path": "photos",
        "source": "photos",
        "n_images": 5,
        "n_classes": 2,
        "licence": "photos/LICENCE.txt",
        "archive": None,
    }
    assert "BACKGROUND_Google was left out" in Path("photos", "LICENCE.txt").read_text("utf-8")


def test_download_that_breaks_off_goes_on_at_the_next_call(server: Server, tmp_path: Path) -> None:
    server.breaks = [70_000, 0]
    assert "; the same command goes on after 0.1 MB; " in error_of("fetch", "caltech101")
    assert names_in(tmp_path) == [f"{NAME}.part"]
    server.asked.clear()
    run_command("fetch", "caltech101")
    assert server.asked == ["bytes=70000-"]
    assert images_in(tmp_path / "caltech101") == IMAGES
    assert names_in(tmp_path) == ["caltech101"]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ({"content": ARCHIVE[:-1] + b"?"}, "is not the expected file (its SHA256 is "),
        ({"content": b"{}"}, "is not the expected file (it has 2 bytes, not "),
        ({"type": "text/html"}, "cannot be downloaded (a web page came in its place"),
        ({"status": 404}, "cannot be downloaded (the server answers 404 Not Found)"),
        ({"location": "/models/weights.h5"}, "cannot be downloaded (the server answers 302 "),
        ({"location": "file:///etc/passwd"}, "cannot be downloaded (the server answers 302 "),
    ],
)
def test_answer_of_another_kind_is_one_line(
    server: Server, tmp_path: Path, answer: dict[str, object], problem: str
) -> None:
    usual = dict(vars(server))
    vars(server).update(answer)
    message = error_of("fetch", "caltech101")
    assert message.startswith(f"Error: {server.address}: {problem}")
    assert message.endswith(
        "; try again later, or get the archive from https://data.caltech.edu/records/mzrjq-6wc02, "
        "and name it by --from FILE"
    )
    assert names_in(tmp_path) == []
    vars(server).update(usual)
    run_command("fetch", "caltech101")
    assert images_in(tmp_path / "caltech101") == IMAGES


def test_redirect_is_followed(server: Server) -> None:
    with serving(b"") as first:
        row = caltech_row(first.address, ARCHIVE)
        first.location = server.address
        DATASETS["caltech101"] = row  # the fixture restores it
        run_command("fetch", "caltech101")
    assert images_in(Path("caltech101")) == IMAGES


@pytest.mark.skipif(sys.platform == "win32", reason="knows no such limit")
def test_limit_on_the_size_of_files(server: Server, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        message = error_of("fetch", "caltech101")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert f"{NAME}.part: cannot be written (File too large)" in message
    assert message.endswith("; the same command goes on when there is room")
    server.asked.clear()
    run_command("fetch", "caltech101")
    assert server.asked[0] is not None
    assert images_in(tmp_path / "caltech101") == IMAGES


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such a disk")
def test_full_disk(server: Server, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", disk]
    if subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount, and not each")
    try:
        folder = disk / "caltech101"
        message = error_of("fetch", "caltech101", folder)
        assert f"{NAME}.part: cannot be written (No space left on device)" in message
        assert names_in(disk) == [f"{NAME}.part"]

        subprocess.run(["mount", "-o", "remount,size=280k", disk], check=True)
        server.asked.clear()
        message = error_of("fetch", "caltech101", folder)
        assert server.asked[0] is not None
        assert message == (
            f"Error: {folder}: cannot be written (No space left on device); {disk / NAME} is "
            "kept, and the same command unpacks it"
        )
        assert names_in(disk) == [NAME]  # nothing half-unpacked

        subprocess.run(["mount", "-o", "remount,size=1m", disk], check=True)
        server.asked.clear()
        done = run_command("fetch", "caltech101", folder)
        assert server.asked == []
        assert f"{disk / NAME} is not needed any more" in done.stdout
        assert images_in(folder) == IMAGES
    finally:
        subprocess.run(["umount", disk], check=True)


def test_interrupt_leaves_no_folder(server: Server, tmp_path: Path) -> None:
    class Interrupting(NoProgress):
        unit = ""

        def begin(self, total: int, done: int = 0, unit: str | None = None) -> None:
            self.unit = unit or ""

        def advance(self, amount: int) -> None:
            if self.unit == "images":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"101\.zip is kept, and the same command"):
        fetch_dataset("caltech101", progress=Interrupting())
    assert names_in(tmp_path) == [NAME]
    fetch_dataset("caltech101")
    assert images_in(tmp_path / "caltech101") == IMAGES
    assert names_in(tmp_path) == [NAME, "caltech101"]  # which was there before


def test_archive_of_another_content_is_in_the_way(server: Server, tmp_path: Path) -> None:
    Path(NAME).write_bytes(b"of another")
    message = error_of("fetch", "caltech101")
    assert f"{NAME}: is not caltech-101.zip as published (it has 10 bytes, not " in message
    assert message.endswith("; move it away, and run the command again")
    assert Path(NAME).read_bytes() == b"of another"
    assert server.asked == []


@pytest.mark.parametrize("kind", ["file", "empty folder", "no parent", "ending"])
def test_folder_that_cannot_be(server: Server, kind: str) -> None:
    folder, problem = Path("photos"), "exists already"
    if kind == "file":
        folder.write_bytes(b"")
    elif kind == "empty folder":
        folder.mkdir()
    elif kind == "no parent":
        folder, problem = Path("a", "b"), "does not exist; create it first"
    else:
        folder, problem = Path("photos.zip"), "a folder is written, not a .zip file"
    message = error_of("fetch", "caltech101", folder)
    assert message.startswith(f"Error: {folder}: ")
    assert problem in message
    assert server.asked == []


@pytest.mark.parametrize("content", [ARCHIVE, caltech_tar()])
def test_archive_by_hand(server: Server, content: bytes) -> None:
    Path("by hand").write_bytes(content)
    done = run_command("fetch", "caltech101", "--from", "by hand")
    assert images_in(Path("caltech101")) == IMAGES
    assert "by hand is not needed any more" in done.stdout
    assert Path("by hand").exists()
    assert server.asked == []


def test_other_file_by_hand(server: Server, tmp_path: Path) -> None:
    file = Path("other.zip")
    assert "other.zip: no such file; get the archive from https://" in error_of(
        "fetch", "caltech101", "--from", file
    )
    file.write_bytes(caltech_zip({}))
    message = error_of("fetch", "caltech101", "--from", file)
    assert "other.zip: is not caltech-101.zip as published (it has " in message
    assert names_in(tmp_path) == ["other.zip"]


def test_archive_with_fewer_images(server: Server, tmp_path: Path) -> None:
    fewer = caltech_zip(DROPPED)
    server.content = fewer
    DATASETS["caltech101"] = caltech_row(server.address, fewer)
    message = error_of("fetch", "caltech101")
    assert f"{NAME}: is not caltech101 (it holds 5 of its 9 images); get the archive" in message
    assert names_in(tmp_path) == [NAME]


@pytest.mark.parametrize(
    "prefix",
    ["elpv_dataset/data", "elpv-dataset-master", "elpv-dataset-master/src/elpv_dataset/data"],
)
def test_cells_of_an_archive_are_a_csv_source(cells: None, prefix: str) -> None:
    Path("cells").write_bytes(cells_zip(prefix))
    done = run_command("fetch", "elpv", "--from", "cells")
    assert "extract BACKBONE elpv/elpv.csv -o codes.h5" in done.stdout
    check_cells()


def check_cells() -> None:
    files = images_in(Path("elpv"))
    table = files.pop("elpv.csv").decode()
    assert files == CELLS
    assert table == (
        "path,label,probability,defect,kind\n"
        "images/cell0001.png,defective,1,1.0,mono\n"
        "images/cell0002.png,sound,0.6666666667,0.3333333333333333,poly\n"
        "images/cell0003.png,defective,0.6666666667,0.6666666666666666,poly\n"
        "images/cell0004.png,sound,1,0.0,mono\n"
    )
    assert find_images(Path("elpv", "elpv.csv")).class_counts() == {"defective": 2, "sound": 2}


def test_cells_of_the_installed_package(
    cells: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "packages" / "elpv_dataset" / "data"
    (data / "images").mkdir(parents=True)
    (data.parent / "__init__.py").write_text("raise SystemExit('it is not imported')")
    for path, content in {**CELLS, "labels.csv": LABELS}.items():
        (data / path).write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    run_command("fetch", "elpv")
    check_cells()
    (data / "labels.csv").write_bytes(LABELS.replace(b"1.0", b"0.0"))
    assert "is not elpv (its files differ from the published ones)" in error_of(
        "fetch", "elpv", "changed"
    )


def test_cells_that_are_not_installed(cells: None, tmp_path: Path) -> None:
    message = error_of("fetch", "elpv")
    assert "pip install elpv-dataset; or name its wheel, or the zip file of https://" in message
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (cells_zip("x", {"images/cell0001.png": b""}), "it holds 1 of its 4 images"),
        (cells_zip("x", labels=b""), "its files differ from the published ones"),
        (zip_of({}), "it holds 0 of its 4 images"),
        (tar_of({}), "it holds 0 of its 4 images"),
        (b"%PDF", "it is neither a zip nor a tar.gz archive"),
        (b"", "is an empty file"),
    ],
)
def test_archive_of_something_else(
    cells: None, tmp_path: Path, content: bytes, problem: str
) -> None:
    Path("file").write_bytes(content)
    message = error_of("fetch", "elpv", "--from", "file")
    assert message.startswith("Error: file: ")
    assert problem in message
    assert names_in(tmp_path) == ["file"]


def test_names_and_options() -> None:
    assert "is not one of 'caltech101', 'elpv'" in run_command("fetch", "x", exit_code=2).stderr
    assert "cnncodes fetch --list prints them" in run_command("fetch", exit_code=2).stderr
    message = error_of("fetch", "elpv", "--background", "drop")
    assert message == "Error: elpv has no background class; leave out --background drop"
    with pytest.raises(ParameterError, match="did you mean 'caltech101'"):
        fetch_dataset("caltech100")


def test_list() -> None:
    text = run_command("fetch", "--list").stdout
    listed = json.loads(run_command("fetch", "--list", "--json").stdout)
    assert [each["name"] for each in listed] == list(DATASETS) == ["caltech101", "elpv"]
    for each in listed:
        assert all(each[key] in text for key in ("title", "homepage", "licence", "citation"))
    (archive, former) = listed[0]["archives"]
    assert (archive["name"], former["name"]) == (NAME, INNER)
    assert archive["address"].startswith("https://data.caltech.edu/")
